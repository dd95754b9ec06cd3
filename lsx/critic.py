"""The critic's pass and the gradient that it teaches the learner.

For every learner step a fresh critic c_φ learns from explanations for one pass
over B_c fixed batches. The learner's gradient is (λ_e / B_c) Σ_b ∇_θ ℓ_b with φ
in ℓ_b as it was at batch b. θ is fixed during the pass, so the sum is had from
v_b = ∂ℓ_b/∂e_b and one vector-Jacobian product through the explanations of as
many batches at a time as fit (arXiv 2309.08395, CNN-LSX; spec of stage 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lsx.chain import Chain, chain_of, cross_entropy
from lsx.config import CriticConfig
from lsx.data.types import Split
from lsx.errors import ConfigError, DataError
from lsx.explainers import Explainer
from lsx.optim import optimizer, trainable, weighted_cross_entropy

GPU_IMAGES_PER_PASS = 8192  # network evaluations of one automatic chunk on a GPU; some 5 GB with Net1


@dataclass(frozen=True)
class CriticSet:
    """The critic's images in fixed batches.

    Attributes:
        images: (B_c, b_c, C, H, W).
        labels: int64 (B_c, b_c).
    """

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, split: Split, config: CriticConfig) -> "CriticSet":
        """The split, whose length is B_c · b_c, cut into its batches in order.

        Raises:
            DataError: it has another length, as in a dataset that was loaded for another configuration.
        """
        if len(split) != config.size:
            raise DataError(
                f"the dataset's critic set has {len(split)} images; critic.batches {config.batches} x "
                f"critic.batch_size {config.batch_size} needs {config.size}; "
                "load the dataset with the configuration that it is used with"
            )
        shape = (config.batches, config.batch_size)
        return cls(split.images.reshape(*shape, *split.images.shape[1:]), split.labels.reshape(shape))


@dataclass(frozen=True)
class CriticPass:
    """What one pass gave.

    Attributes:
        gradients: λ_e-weighted explanation gradient, one tensor per trainable learner parameter.
        losses: (B_c,) critic loss before each of its steps, detached.
        critic: the critic after its last step.
    """

    gradients: list[Tensor]
    losses: Tensor
    critic: nn.Module


def critic_pass(
    learner: nn.Module,
    critic: nn.Module,
    critic_set: CriticSet,
    order: Tensor,
    explainer: Explainer,
    class_weights: Tensor,
    config: CriticConfig,
    weight: float,
) -> CriticPass:
    """One pass of a critic and the explanation gradient of the learner.

    Args:
        learner: f_θ; its weights stay as they are.
        critic: c_φ, freshly initialised; trained in place.
        critic_set: B_c batches.
        order: int64 permutation (B_c,), the order in which the batches are used.
        explainer: e_θ.
        class_weights: (K,) of CE_w.
        config: the critic's optimiser, learning rate and chunk.
        weight: λ_e.
    """
    parameters = trainable(learner)
    step = _CriticStep(critic, class_weights, config)
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    losses: list[Tensor] = []
    for rows in order.split(_chunk(config, explainer, critic_set)):
        images, labels = critic_set.images[rows], critic_set.labels[rows]
        explanations = explainer(
            learner, images.flatten(0, 1), labels.flatten(), create_graph=True, group=images.shape[1]
        )
        cotangents = []
        for explanation, label in zip(explanations.detach().reshape(images.shape), labels, strict=True):
            loss, cotangent = step(explanation, _taught(label, config))
            losses.append(loss)
            cotangents.append(cotangent)
        scaled = torch.cat(cotangents).mul_(weight / len(order))
        products = torch.autograd.grad(explanations, parameters, scaled, allow_unused=True)
        for total, product in zip(gradients, products, strict=True):
            if product is not None:
                total.add_(product)
    return CriticPass(gradients, torch.stack(losses), critic)


def _taught(labels: Tensor, config: CriticConfig) -> Tensor:
    """The labels that the critic is told; the random critic's are another order of the batch's own, drawn anew."""
    if config.labels == "true":
        return labels
    return labels[torch.randperm(len(labels), device=labels.device)]


class _CriticStep:
    """One batch: the critic's loss, its step, and ∂ℓ_b/∂e_b."""

    def __init__(self, critic: nn.Module, class_weights: Tensor, config: CriticConfig) -> None:
        self.critic = critic
        self.class_weights = class_weights
        self.parameters = trainable(critic)
        chain = chain_of(critic)
        self.chain = chain if chain is not None and len(chain.parameters) == len(self.parameters) else None
        if self.chain is not None:
            self.parameters = self.chain.parameters  # in the order of the layers
        self.optimizer = optimizer(config.optimizer, self.parameters, config.learning_rate)

    def __call__(self, explanation: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        differentiate = self._by_autograd if self.chain is None else partial(self._by_hand, self.chain)
        loss, cotangent, gradients = differentiate(explanation, labels)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return loss, cotangent

    def _by_autograd(self, explanation: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        leaf = explanation.requires_grad_()
        loss = weighted_cross_entropy(self.critic(leaf), labels, self.class_weights)
        *gradients, cotangent = torch.autograd.grad(loss, [*self.parameters, leaf])
        return loss.detach(), cotangent, gradients

    def _by_hand(self, chain: Chain, explanation: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        (loss,), gradients, cotangent = cross_entropy(chain, explanation, labels, self.class_weights, to_images=True)
        return loss, cotangent.to(explanation.dtype), gradients


def _chunk(config: CriticConfig, explainer: Explainer, critic_set: CriticSet) -> int:
    """Batches that are explained at a time."""
    if config.chunk:
        return config.chunk
    if critic_set.images.device.type == "cpu":
        return 1  # larger batches fall out of a CPU's cache
    return max(1, GPU_IMAGES_PER_PASS // (critic_set.images.shape[1] * explainer.evaluations))


def require_shape(name: str, explanation: Tensor, images: Tensor) -> None:
    """Refuse explanations that are not shaped like their images.

    Raises:
        ConfigError: they are not.
    """
    if explanation.shape != images.shape:
        raise ConfigError(
            f"explainer {name!r} must give explanations shaped like the images, {tuple(images.shape)} here, "
            f"not {tuple(explanation.shape)}"
        )


def require_gradient(explainer: Explainer, learner: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Refuse an explainer whose explanations do not depend differentiably on the learner's weights.

    Args:
        images: a few training images (B, C, H, W).
        labels: int64 (B,).

    Raises:
        ConfigError: no weight of the learner gets a gradient through the explanation.
    """
    name = explainer.config.method
    problem = f"explainer {name!r} gives no gradient to the learner, so an explanation loss could not train it"
    cure = "set loss.lambda_e and loss.lambda_ft to 0, or choose a differentiable explainer"
    if not explainer.trains_learner:
        raise ConfigError(f"{problem} (it is for evaluation only); {cure}")
    explanation = explainer(learner, images, labels, create_graph=True)
    require_shape(name, explanation, images)
    if not explanation.requires_grad:
        raise ConfigError(f"{problem}; {cure}")
    # Position-dependent weights, since maps are normalised and a plain sum could be constant.
    probe = torch.linspace(-1, 1, explanation.numel(), device=images.device, dtype=images.dtype)
    gradients = torch.autograd.grad(
        explanation, trainable(learner), probe.reshape(explanation.shape), allow_unused=True
    )
    if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
        raise ConfigError(f"{problem}; {cure}")
