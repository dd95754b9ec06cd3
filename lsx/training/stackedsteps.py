"""The steps of :mod:`lsx.training.stages` and the pass of :mod:`lsx.critic` for several learners of one configuration.

Each learner has its own rows, critics, orders and permutations; what they compute with them is one program, whose
launches are as many as those of one learner. Losses have a value for each, and their sum has each one's own gradient:
no weight belongs to two. Nothing here waits for the device.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from lsx import models
from lsx.chain import chain_of, cross_entropy
from lsx.config import Config, CriticConfig
from lsx.critic import GPU_IMAGES_PER_PASS, CriticSet
from lsx.data.types import Dataset
from lsx.explainers import Explainer
from lsx.explainers.base import predicted
from lsx.optim import optimizer
from lsx.training.fresh import Fresh
from lsx.training.stacked import Stack
from lsx.training.stages import Step, leave

Drawn = TypeVar("Drawn")


class Each(Protocol):
    """Does something once for each learner, with that one's random state."""

    def __call__(self, draw: Callable[[], Drawn], /) -> list[Drawn]:
        """What it gave, in the learners' order."""


def in_turns(rows: Tensor) -> Tensor:
    """Rows (S, B) of the learners' batches as a stack takes them, (B · S,)."""
    return rows.t().reshape(-1)


def cross_entropies(outputs: Tensor, labels: Tensor, class_weights: Tensor, count: int) -> Tensor:
    """CE_w of each of S networks (S,), from their log-probabilities (B · S, K) and labels (B · S,)."""
    shares = class_weights[labels].view(-1, count)
    chosen = outputs.gather(1, labels.unsqueeze(1)).view(-1, count)
    return -(shares * chosen).sum(dim=0) / shares.sum(dim=0)


def classification_step(stack: Stack, dataset: Dataset, weight: float = 1.0) -> Step:
    """Stage 1, see :func:`lsx.training.stages.classification_step`; of rows (S, B), with losses (S,)."""
    train, class_weights, chain = dataset.train, _class_weights(dataset), chain_of(stack)
    assert chain is not None

    def step(rows: Tensor) -> dict[str, Tensor]:
        chosen = in_turns(rows)
        images, labels = train.images[chosen], train.labels[chosen]
        losses, gradients, _ = cross_entropy(chain, images, labels, class_weights, count=stack.count, to_images=False)
        leave(chain, gradients, weight)
        return {"loss": weight * losses, "classification_loss": losses}

    return step


def joint_step(stack: Stack, dataset: Dataset, explainer: Explainer, config: Config, each: Each) -> Step:
    """Stage 2, see :func:`lsx.training.stages.joint_step`; of rows (S, B), with losses (S,)."""
    classify = classification_step(stack, dataset, config.loss.lambda_c)
    if config.loss.lambda_e == 0:
        return classify
    critics = _Critics(stack, dataset, explainer, config, each)

    def step(rows: Tensor) -> dict[str, Tensor]:
        losses = classify(rows)
        passed = critics.teach()
        mean = passed.mean(dim=0)
        total = losses["loss"] + config.loss.lambda_e * mean
        return losses | {"loss": total, "critic_loss_mean": mean, "critic_loss_last": passed[-1]}

    return step


def finetune_step(stack: Stack, dataset: Dataset, explainer: Explainer, targets: Tensor, weight: float) -> Step:
    """Stage 3, see :func:`lsx.training.stages.finetune_step`; of rows (S, B), with losses (S,).

    Args:
        targets: e* of each learner's joint model, (S, N, C, H, W); unused if ``weight`` is 0.
    """
    if weight == 0:
        return classification_step(stack, dataset)
    train, class_weights, count = dataset.train, _class_weights(dataset), stack.count
    learners = torch.arange(count, device=targets.device)

    def step(rows: Tensor) -> dict[str, Tensor]:
        chosen = in_turns(rows)
        images, labels = train.images[chosen], train.labels[chosen]
        explained = labels if explainer.config.target == "true" else predicted(stack, images)
        outputs, raw = explainer.attribute_with_outputs(stack, images, explained)
        found = postprocessed(explainer, raw, images, count, rows.shape[1])
        classification = cross_entropies(outputs, labels, class_weights, count)
        wanted = targets[learners.repeat(rows.shape[1]), chosen]
        mse = (found - wanted).square().reshape(rows.shape[1], count, -1).mean(dim=(0, 2))
        loss = classification + weight * mse
        loss.sum().backward()
        losses = {"loss": loss, "classification_loss": classification, "explanation_loss": mse}
        return {name: value.detach() for name, value in losses.items()}

    return step


def postprocessed(explainer: Explainer, raw: Tensor, images: Tensor, count: int, group: int) -> Tensor:
    """Attributions (G · B · S, C, H, W), rows of a stack, post-processed in groups of B images of one network."""
    if explainer.config.normalization == "sample":
        return explainer.postprocess(raw, images, 1)

    def turned(rows: Tensor, *sizes: int) -> Tensor:
        return rows.reshape(-1, *sizes, *rows.shape[1:]).transpose(1, 2).flatten(0, 2)

    found = explainer.postprocess(turned(raw, group, count), turned(images, group, count), group)
    return turned(found, count, group)


class _Critics:
    """A fresh critic for each learner, and what their passes teach."""

    def __init__(self, stack: Stack, dataset: Dataset, explainer: Explainer, config: Config, each: Each) -> None:
        self._stack, self._explainer, self._each = stack, explainer, each
        self._config, self._weight = config.critic, config.loss.lambda_e
        self._set = CriticSet.of(dataset.critic, config.critic)
        self._images, self._labels = self._set.images.flatten(0, 1), self._set.labels.flatten()
        self._class_weights = _class_weights(dataset)
        self._name, self._shape = config.critic.model or config.model.name, dataset.image_shape
        self._classes, self._device = dataset.num_classes, self._images.device
        self._within = torch.arange(config.critic.batch_size, device=self._device).unsqueeze(1)
        self._critics: Stack | None = None
        self._fresh = [Fresh(self._build, self._device) for _ in range(stack.count)]

    def teach(self) -> Tensor:
        """One pass: adds the learners' explanation gradients to theirs, and gives the critics' losses (B_c, S)."""
        positions, told = self._drawn()
        assert self._critics is not None
        step = _CriticStep(self._critics, self._class_weights, self._config)
        size, count = self._config.batch_size, self._stack.count
        losses: list[Tensor] = []
        for rows, labels in zip(positions.split(self._chunk()), self._labels[told].split(self._chunk()), strict=True):
            explanations = self._explained(rows.flatten())
            cotangents = []
            for batch, own in zip(explanations.detach().split(size * count), labels, strict=True):
                loss, cotangent = step(batch, own.flatten())
                losses.append(loss)
                cotangents.append(cotangent)
            scaled = torch.cat(cotangents).mul_(self._weight / self._config.batches)
            products = torch.autograd.grad(explanations, self._stack.weights, scaled)
            for parameter, product in zip(self._stack.weights, products, strict=True):
                parameter.grad = product if parameter.grad is None else parameter.grad.add_(product)
        return torch.stack(losses)

    def _explained(self, rows: Tensor) -> Tensor:
        stack, explainer, images = self._stack, self._explainer, self._images[rows]
        targets = self._labels[rows] if explainer.config.target == "true" else predicted(stack, images)
        raw = explainer.attribute(stack, images, targets, create_graph=True)
        return postprocessed(explainer, raw, images, stack.count, self._config.batch_size)

    def _drawn(self) -> tuple[Tensor, Tensor]:
        """New critics; places in the critic set of their images, and of the labels they are told, (B_c, b_c, S)."""
        waiting = iter(self._fresh)
        critics, orders, shuffles = zip(*self._each(lambda: self._draw(next(waiting))), strict=True)
        if self._critics is None:
            self._critics = Stack(critics)
        else:
            self._critics.fill(critics)
        firsts = torch.stack(orders, dim=1).unsqueeze(1) * self._config.batch_size
        positions = firsts + self._within
        return positions, positions if self._config.labels == "true" else firsts + torch.stack(shuffles, dim=2)

    def _build(self) -> nn.Module:
        return models.build(self._name, self._shape, self._classes, self._device)

    def _draw(self, fresh: Fresh) -> tuple[nn.Module, Tensor, Tensor]:
        """What one learner's step draws, in the order in which it does so alone."""
        critic = fresh.draw()
        order = torch.randperm(self._config.batches, device=self._device)
        if self._config.labels == "true":
            return critic, order, order
        size = self._config.batch_size
        return critic, order, torch.stack([torch.randperm(size, device=self._device) for _ in order])

    def _chunk(self) -> int:
        """Batches of each learner that are explained at a time; see :func:`lsx.critic.critic_pass`."""
        if self._config.chunk:
            return max(1, self._config.chunk // self._stack.count)
        if self._device.type == "cpu":
            return 1
        images = self._config.batch_size * self._stack.count * self._explainer.evaluations
        return max(1, GPU_IMAGES_PER_PASS // images)


class _CriticStep:
    """One batch of each critic: its loss, its step, and ∂ℓ_b/∂e_b."""

    def __init__(self, critics: Stack, class_weights: Tensor, config: CriticConfig) -> None:
        chain = chain_of(critics)
        assert chain is not None
        self._chain, self._class_weights, self._count = chain, class_weights, critics.count
        self._optimizer = optimizer(config.optimizer, critics.weights, config.learning_rate)

    def __call__(self, explanations: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, gradients, cotangent = cross_entropy(
            self._chain, explanations, labels, self._class_weights, count=self._count, to_images=True
        )
        for parameter, gradient in zip(self._chain.parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        return losses, cotangent.to(explanations.dtype)


def _class_weights(dataset: Dataset) -> Tensor:
    return dataset.class_weights.to(dataset.train.images.device)
