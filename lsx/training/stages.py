"""The three stages: what one step of each computes. The loop around them is the trainer's."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsx import models
from lsx.chain import Chain, chain_of, cross_entropy
from lsx.config import Config, Stage
from lsx.critic import CriticSet, critic_pass
from lsx.data.types import Dataset, Split
from lsx.explainers import Explainer
from lsx.optim import trainable, weighted_cross_entropy

Step = Callable[[Tensor], dict[str, Tensor]]
"""Rows of the training set to the losses of their step (detached scalars), its gradient left in ``.grad``."""


def classification_step(learner: nn.Module, dataset: Dataset, weight: float = 1.0) -> Step:
    """Stage 1: minimise ``weight`` · CE_w(f_θ(x), y)."""
    train, class_weights = dataset.train, _class_weights(dataset)
    chain = chain_of(learner)

    def by_autograd(rows: Tensor) -> dict[str, Tensor]:
        loss = weighted_cross_entropy(learner(train.images[rows]), train.labels[rows], class_weights)
        (weight * loss).backward()
        return {"loss": weight * loss.detach(), "classification_loss": loss.detach()}

    def by_hand(rows: Tensor) -> dict[str, Tensor]:
        assert chain is not None
        images, labels = train.images[rows], train.labels[rows]
        (loss,), gradients, _ = cross_entropy(chain, images, labels, class_weights, to_images=False)
        leave(chain, gradients, weight)
        return {"loss": weight * loss, "classification_loss": loss}

    return by_autograd if chain is None else by_hand


def leave(chain: Chain, gradients: Sequence[Tensor], weight: float) -> None:
    """Add weighted gradients to ``.grad`` of a chain's parameters, frozen ones left out."""
    for parameter, gradient in zip(chain.parameters, gradients, strict=True):
        if parameter.requires_grad:
            gradient = gradient if weight == 1 else gradient.mul_(weight)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def joint_step(learner: nn.Module, dataset: Dataset, explainer: Explainer, config: Config) -> Step:
    """Stage 2: λ_c CE_w(f_θ(x), y) and the explanation gradient of a fresh critic's pass.

    With λ_e = 0 no critic is made.
    """
    classify = classification_step(learner, dataset, config.loss.lambda_c)
    if config.loss.lambda_e == 0:
        return classify
    critic_set = CriticSet.of(dataset.critic, config.critic)
    class_weights = _class_weights(dataset)
    name = config.critic.model or config.model.name
    device = critic_set.images.device

    def step(rows: Tensor) -> dict[str, Tensor]:
        losses = classify(rows)
        critic = models.build(name, dataset.image_shape, dataset.num_classes, device)
        order = torch.randperm(config.critic.batches, device=device)
        taught = critic_pass(
            learner, critic, critic_set, order, explainer, class_weights, config.critic, config.loss.lambda_e
        )
        for parameter, gradient in zip(trainable(learner), taught.gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        mean = taught.losses.mean()
        total = losses["loss"] + config.loss.lambda_e * mean
        return losses | {"loss": total, "critic_loss_mean": mean, "critic_loss_last": taught.losses[-1]}

    return step


def finetune_step(learner: nn.Module, dataset: Dataset, explainer: Explainer, target: Tensor, weight: float) -> Step:
    """Stage 3: CE_w(f_θ(x), y) + λ_ft · MSE(e_θ(x, y), e*(x, y)).

    Args:
        learner: re-initialised f_θ.
        dataset: its training split is used.
        explainer: e_θ.
        target: e*, (N, C, H, W), the joint model's explanations of the training split; unused if ``weight`` is 0.
        weight: λ_ft.
    """
    if weight == 0:
        return classification_step(learner, dataset)
    train, class_weights = dataset.train, _class_weights(dataset)

    def step(rows: Tensor) -> dict[str, Tensor]:
        outputs, explanation = explainer.with_outputs(learner, train.images[rows], train.labels[rows])
        classification = weighted_cross_entropy(outputs, train.labels[rows], class_weights)
        mse = F.mse_loss(explanation, target[rows])
        loss = classification + weight * mse
        loss.backward()
        losses = {"loss": loss, "classification_loss": classification, "explanation_loss": mse}
        return {name: value.detach() for name, value in losses.items()}

    return step


def explain_split(learner: nn.Module, explainer: Explainer, split: Split, batch_size: int) -> Tensor:
    """(N, C, H, W) explanations of a split, in consecutive batches, each normalised by itself; detached."""
    batches = torch.arange(len(split), device=split.labels.device).split(batch_size)
    return torch.cat([explainer(learner, split.images[rows], split.labels[rows]) for rows in batches])


def uses_explanations(config: Config) -> Mapping[Stage, bool]:
    """Which stages of a configuration train on explanations."""
    weights: dict[Stage, float] = {"pretrain": 0, "joint": config.loss.lambda_e, "finetune": config.loss.lambda_ft}
    return {stage: weights[stage] > 0 and getattr(config, stage).epochs > 0 for stage in config.stages}


def _class_weights(dataset: Dataset) -> Tensor:
    return dataset.class_weights.to(dataset.train.images.device)
