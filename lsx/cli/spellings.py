"""How the method's authors call settings and modes; the settings themselves are the configuration's."""

from collections.abc import Mapping
from typing import Any

from lsx.config import STAGES, Stage

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "seed": ("--random-seed",),
    "start": ("--model-pt",),
    "data.dataset": ("--dataset",),
    "data.few_shot_fraction": ("--few-shot-train-percent",),
    "model.name": ("--model",),
    "explainer.method": ("--explanation-mode",),
    "critic.batches": ("--n-critic-batches",),
    "critic.batch_size": ("--batch-size-critic",),
    "critic.learning_rate": ("--learning-rate-critic",),
    "loss.lambda_c": ("--lambda-c", "--classification-loss-weight"),
    "loss.lambda_e": ("--lambda-e", "--explanation-loss-weight"),
    "loss.lambda_ft": ("--lambda-ft", "--explanation-loss-weight-finetune"),
    "pretrain.epochs": ("--n-pretraining-epochs",),
    "joint.epochs": ("--n-epochs",),
    "joint.learning_rate": ("--learning-rate",),
    "finetune.epochs": ("--n-finetuning-epochs",),
    "finetune.learning_rate": ("--learning-rate-finetune",),
    "evaluation.max_images": ("--max-images",),
    "evaluation.batch_size": ("--test-batch-size",),
    "evaluation.metrics": ("--metrics",),
}
"""Other flags of a setting, beside the one that its key gives (``--critic-batch-size``)."""

EVERY_STAGE: Mapping[str, str] = {
    "--batch-size": "batch_size",
    "--optimizer": "optimizer",
    "--schedule": "schedule",
    "--learning-rate-step": "decay",
}
"""Flags that set a field of all three stages."""

SWITCHES: Mapping[str, tuple[str, Any, str]] = {
    "--no-cuda": ("device", "cpu", "train on the CPU"),
    "--sep-critic-set": ("critic.set", "separate", "hold the critic's images out of the training set"),
    "--rand-critic": ("critic.labels", "permuted", "a critic with permuted labels, as a control"),
    "--mlp-critic": ("critic.model", "MLP", "a critic without convolutions, as a control"),
    "--lr-scheduling": ("*.schedule", "exponential", "multiply every stage's learning rate by decay after each epoch"),
}
"""Flags without a value: key (``*``: every stage's), value, meaning."""

MODES: Mapping[str, tuple[Stage, ...]] = {
    "only_classification": ("pretrain",),
    "joint": ("joint",),
    "pretrain_and_joint": ("pretrain", "joint"),
    "pretrain_and_joint_and_finetuning": STAGES,
    "finetuning": ("finetune",),
}
"""Training modes and their stages."""

ONLY_CLASSIFICATION = {"joint.epochs": "pretrain.epochs"}
"""With classification alone, epochs without a stage are those of the only stage there is."""

IGNORED: Mapping[str, bool] = {
    "--logging-disabled": False,
    "--render-enabled": False,
    "--log-interval": True,
    "--log-interval-accuracy": True,
    "--log-interval-critic": True,
    "--log-interval-pretraining": True,
}
"""The authors' flags of logging, which have no effect here; whether each takes a value."""
