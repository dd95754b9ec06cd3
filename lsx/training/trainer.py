"""The loop around the three stages: epochs, reports, checkpoints, resumption."""

import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lsx import data, explainers, models
from lsx.config import STAGES, Config, Stage, StageConfig
from lsx.critic import CriticSet, require_gradient
from lsx.data.types import Dataset
from lsx.errors import CheckpointError, ConfigError, DivergedError
from lsx.metrics.accuracy import accuracy
from lsx.optim import optimizer, trainable
from lsx.training import checkpoint
from lsx.training.report import Callback, Report
from lsx.training.stages import (
    Step,
    classification_step,
    explain_split,
    finetune_step,
    joint_step,
    uses_explanations,
)

PROBE_IMAGES = 8


class Trainer:
    """Trains a learner through its stages, deterministically from ``config.seed``.

    The caller's random state is left as it was. On a CPU, a run resumed from any
    of its checkpoints ends bit for bit where the uninterrupted run ends, given
    the same torch, processor and number of threads.

    Args:
        config: everything that decides the run.
        dataset: as :func:`lsx.data.load` gives it; loaded when left out.
        callback: gets a :class:`Report` after every epoch.

    Attributes:
        learner: the network, on ``device``.
        device: where everything is.
        history: metrics of every epoch this object ran, as ``(stage, epoch, metrics)``.

    Raises:
        ConfigError: an unknown model or explainer, a device that is not there, or an
            explanation loss whose explainer gives the learner no gradient.
        DataError: see :func:`lsx.data.load`.
        DivergedError: from :meth:`run`, when a loss is no longer finite at the end of an epoch.
    """

    def __init__(self, config: Config, dataset: Dataset | None = None, callback: Callback | None = None) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        self.dataset = (data.load(config) if dataset is None else dataset).to(self.device)
        self.callback = callback
        self.history: list[tuple[Stage, int, dict[str, float]]] = []
        self._explainer = explainers.build(config.explainer)
        self._teacher: nn.Module | None = None
        self._position = 0
        self._resume_from: dict[str, Any] | None = None
        with _isolated_randomness(self.device):
            self.learner = self._fresh_learner("pretrain")
            self._check()

    @classmethod
    def resume(
        cls, source: Mapping[str, Any] | str | Path, dataset: Dataset | None = None, callback: Callback | None = None
    ) -> "Trainer":
        """A trainer that continues from a checkpoint.

        Args:
            source: a state (:meth:`Report.checkpoint`) or the path of a saved one.
            dataset, callback: as for the constructor.

        Raises:
            CheckpointError: unreadable, or of other data or another architecture than its configuration says.
        """
        state = checkpoint.load(source) if isinstance(source, str | Path) else dict(source)
        try:
            config = Config.build(state["config"])
        except ConfigError as error:
            raise CheckpointError(f"the checkpoint's configuration is not valid here: {error}") from None
        trainer = cls(config, dataset, callback)
        with _isolated_randomness(trainer.device):
            trainer._adopt(state)
        return trainer

    @property
    def total(self) -> int:
        """Epochs planned over all stages."""
        return sum(self._settings(stage).epochs for stage in self.config.stages)

    def run(self) -> nn.Module:
        """Train what is left of the stages and return the learner."""
        state, self._resume_from = self._resume_from, None
        with _isolated_randomness(self.device):
            for stage in self.config.stages:
                if state and STAGES.index(stage) < STAGES.index(state["stage"]):
                    continue
                resumed = state if state and state["stage"] == stage else None
                self._run_stage(stage, resumed)
        return self.learner

    def _run_stage(self, stage: Stage, state: dict[str, Any] | None) -> None:
        settings = self._settings(stage)
        if settings.epochs == 0:
            return
        if state is None:
            self._enter(stage)
        step = self._step(stage)
        optim = optimizer(settings.optimizer, trainable(self.learner), settings.learning_rate)
        batches = torch.Generator().manual_seed(self._seed(stage) + 1)
        if state is not None:
            optim.load_state_dict(state["optimizer"])
            _restore_randomness(state["random"], batches, self.device)
        for epoch in range(state["epoch"] if state else 0, settings.epochs):
            self._run_epoch(stage, epoch + 1, settings, step, optim, batches)

    def _run_epoch(
        self,
        stage: Stage,
        epoch: int,
        settings: StageConfig,
        step: Step,
        optim: torch.optim.Optimizer,
        batches: torch.Generator,
    ) -> None:
        start = time.perf_counter()
        self.learner.train()
        rows = torch.randperm(len(self.dataset.train), generator=batches).to(self.device)
        totals: dict[str, Tensor] = {}
        chunks = rows.split(settings.batch_size)
        for index, chunk in enumerate(chunks):
            done = (epoch - 1 + index / len(chunks)) / settings.epochs
            _set_learning_rate(optim, settings, done)
            optim.zero_grad()
            for name, value in step(chunk).items():
                totals[name] = totals[name] + value if name in totals else value
            optim.step()
        self._position += 1
        metrics = self._summary(totals, len(chunks))
        self.history.append((stage, epoch, metrics))
        if self.callback is not None:
            self.callback(self._report(stage, epoch, metrics, time.perf_counter() - start, optim, batches))

    def _summary(self, totals: Mapping[str, Tensor], steps: int) -> dict[str, float]:
        """Means over the epoch's steps (the one synchronisation of an epoch) and validation accuracy."""
        means = torch.stack(list(totals.values())).div(steps).tolist()
        metrics = dict(zip(totals, means, strict=True))
        if not all(math.isfinite(value) for value in metrics.values()):
            lost = ", ".join(f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value))
            raise DivergedError(f"training diverged: {lost}; lower the loss weights or learning rates")
        chance = math.log(self.dataset.num_classes)
        for name in ("critic_loss_mean", "critic_loss_last"):
            if name in metrics:
                metrics[f"{name}_to_chance"] = metrics[name] / chance
        metrics["validation_accuracy"] = accuracy(
            self.learner, self.dataset.validation, self.config.evaluation.batch_size
        )
        return metrics

    def _report(
        self,
        stage: Stage,
        epoch: int,
        metrics: dict[str, float],
        seconds: float,
        optim: torch.optim.Optimizer,
        batches: torch.Generator,
    ) -> Report:
        position = self._position

        def state() -> dict[str, Any]:
            return {
                "format": checkpoint.FORMAT,
                "config": self.config.plain(),
                "data": dict(self.dataset.provenance),
                "stage": stage,
                "epoch": epoch,
                "position": position,
                "learner": _copy(self.learner),
                "teacher": None if self._teacher is None else _copy(self._teacher),
                "optimizer": copy.deepcopy(optim.state_dict()),
                "random": _randomness(batches, self.device),
            }

        settings = self._settings(stage)
        return Report(
            stage, epoch, settings.epochs, position, self.total, metrics, seconds, self.learner, checkpoint=state
        )

    def _enter(self, stage: Stage) -> None:
        """Seed a stage; finetuning keeps the joint model as teacher and starts from a new learner."""
        _seed_everything(self._seed(stage), self.device)
        if stage == "finetune":
            self._teacher = self.learner
            self.learner = self._fresh_learner(stage)

    def _step(self, stage: Stage) -> Step:
        if stage == "pretrain":
            return classification_step(self.learner, self.dataset)
        if stage == "joint":
            return joint_step(self.learner, self.dataset, self._explainer, self.config)
        weight = self.config.loss.lambda_ft
        target = torch.empty(0) if weight == 0 else self._targets()
        return finetune_step(self.learner, self.dataset, self._explainer, target, weight)

    def _targets(self) -> Tensor:
        """e*: the joint model's explanations of the training split."""
        if self._teacher is None:
            raise CheckpointError("finetuning needs the joint model, and this checkpoint has none")
        with models.evaluating(self._teacher) as teacher:
            return explain_split(teacher, self._explainer, self.dataset.train, self.config.finetune.batch_size)

    def _settings(self, stage: Stage) -> StageConfig:
        settings: StageConfig = getattr(self.config, stage)
        return settings

    def _seed(self, stage: Stage) -> int:
        """Distinct for every seed and stage; odd offsets are left for the batch order."""
        return self.config.seed * 8 + STAGES.index(stage) * 2

    def _fresh_learner(self, stage: Stage) -> nn.Module:
        _seed_everything(self._seed(stage), self.device)
        return models.build(self.config.model.name, self.dataset.image_shape, self.dataset.num_classes, self.device)

    def _check(self) -> None:
        """Refuse now what would fail in a later stage."""
        if self.config.uses_critic:
            CriticSet.of(self.dataset.critic, self.config.critic)
        if any(uses_explanations(self.config).values()):
            few = self.dataset.train.take(slice(0, PROBE_IMAGES))
            require_gradient(self._explainer, self.learner, few.images, few.labels)

    def _adopt(self, state: dict[str, Any]) -> None:
        recorded, here = state["data"].get("sha256"), self.dataset.provenance.get("sha256")
        if recorded != here:
            raise CheckpointError(f"the checkpoint was trained on other data (checksum {recorded}, here {here})")
        if state["stage"] not in self.config.stages:
            raise CheckpointError(f"the checkpoint's stage {state['stage']!r} is not among {list(self.config.stages)}")
        load_weights(self.learner, state["learner"])
        if state["teacher"] is not None:
            self._teacher = self._fresh_learner("pretrain")
            load_weights(self._teacher, state["teacher"])
        self._position = state["position"]
        self._resume_from = state


def load_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Fill a network with saved weights.

    Raises:
        CheckpointError: they are of another architecture.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the checkpoint's weights do not fit {type(model).__name__}: {reason}") from None


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first CUDA GPU, else the CPU.

    Raises:
        ConfigError: the named device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device = {name!r} is no device that torch knows") from None
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= there:
        raise ConfigError(f"device = {name!r} is not on this machine; it has {torch.cuda.device_count()} CUDA GPUs")
    return device


def _set_learning_rate(optim: torch.optim.Optimizer, settings: StageConfig, done: float) -> None:
    """The schedule as a function of the share of the stage that is done: nothing to store, nothing to resume."""
    if settings.schedule == "cosine":
        for group in optim.param_groups:
            group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * done)) / 2


def _isolated_randomness(device: torch.device) -> Any:
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)


def _seed_everything(seed: int, device: torch.device) -> None:
    """Seed the generators that a run on ``device`` draws from, and no other GPU's."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _randomness(batches: torch.Generator, device: torch.device) -> dict[str, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"batches": batches.get_state(), "cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_randomness(state: Mapping[str, Any], batches: torch.Generator, device: torch.device) -> None:
    batches.set_state(state["batches"])
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
