"""What an explainer is: a raw attribution and its post-processing."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from lsx.config import ExplainerConfig, Normalization
from lsx.errors import ConfigError
from lsx.registry import Registry

EXPLAINERS: Registry[type["Explainer"]] = Registry("explainer")
register = EXPLAINERS.register


class Explainer(ABC):
    """Explanations of one method.

    A subclass implements :meth:`attribute`, and :meth:`postprocess` where the
    method's differs from clipping and scaling.

    Attributes:
        trains_learner: whether the explanation's gradient can reach the learner's weights.
    """

    trains_learner: ClassVar[bool] = True

    def __init__(self, config: ExplainerConfig) -> None:
        self.config = config

    @property
    def evaluations(self) -> int:
        """Network evaluations that one explanation takes; what memory and time scale with."""
        return 1

    @abstractmethod
    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        """Raw attribution.

        Args:
            model: images (B, C, H, W) to log-probabilities (B, K).
            images: (B, C, H, W), normalised.
            targets: int64 (B,), the explained classes.
            create_graph: keep the graph, so that the attribution can be differentiated
                with respect to the model's weights.

        Returns:
            (B, C, H, W), signed.
        """

    def postprocess(self, attribution: Tensor, images: Tensor, group: int) -> Tensor:
        """Clip negative values, divide by the maximum of each group of ``group`` samples."""
        return scale(attribution.clamp(min=0), group)

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        create_graph: bool = False,
        group: int | None = None,
    ) -> Tensor:
        """Explanations of a batch.

        Args:
            model: images (B, C, H, W) to log-probabilities (B, K).
            images: (B, C, H, W), normalised; moved to the model's device.
            labels: int64 (B,), true classes; replaced by the predicted ones if ``config.target`` says so.
            create_graph: explanations differentiable with respect to the model's weights.
            group: samples that batch normalisation counts as one batch (consecutive
                ones); all of ``images`` by default. B must be a multiple of it.

        Returns:
            (B, C, H, W) in 0–1, all zero where there is no positive attribution; ``input`` and
            ``input_x_integrated_gradient`` are not scaled and keep the images' range.
        """
        images, targets = self._prepared(model, images, labels)
        raw = self.attribute(model, images, targets, create_graph=create_graph)
        explanation = self.postprocess(raw, images, self._group(images, group))
        return explanation if create_graph else explanation.detach()

    def with_outputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """log-probabilities (B, K) and differentiable explanations (B, C, H, W) of a batch, in one pass if possible."""
        images, targets = self._prepared(model, images, labels)
        outputs, raw = self.attribute_with_outputs(model, images, targets)
        return outputs, self.postprocess(raw, images, self._group(images, None))

    def attribute_with_outputs(self, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The model's outputs, and :meth:`attribute` with a graph; a subclass may share a pass between the two."""
        return model(images), self.attribute(model, images, targets, create_graph=True)

    def _prepared(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        device = next((weight.device for weight in model.parameters()), images.device)
        images, labels = images.to(device), labels.to(device)
        return images, predicted(model, images) if self.config.target == "predicted" else labels

    def _group(self, images: Tensor, group: int | None) -> int:
        return 1 if self.config.normalization == "sample" else group or len(images)


FAINT = 1e-20
"""Maxima below this count as no attribution: dividing by them overflows in the second derivative (float32)."""


def scale(attribution: Tensor, group: int) -> Tensor:
    """Divide by the maximum over every ``group`` consecutive samples; a group without any above ``FAINT`` stays as is.

    The maximum is part of the graph, as in the authors' code.
    """
    grouped = attribution.reshape(len(attribution) // group, -1)
    top = grouped.amax(dim=1, keepdim=True)
    # Where nothing is positive the divisor is a constant 1: no NaN in value or gradient. A saturated network's
    # attributions come close: the derivative of its log-probability underflows.
    return (grouped / torch.where(top > FAINT, top, torch.ones_like(top))).reshape(attribution.shape)


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    """int64 (B,), the most probable classes."""
    with torch.no_grad():
        classes: Tensor = model(images).argmax(dim=1)
    return classes


def build(
    config: ExplainerConfig, *, method: str | None = None, normalization: Normalization | None = None
) -> Explainer:
    """The explainer that a configuration names.

    Raises:
        ConfigError: no such explainer.
    """
    changes = {"method": method, "normalization": normalization}
    config = config.model_copy(update={key: value for key, value in changes.items() if value is not None})
    factory = EXPLAINERS.get(config.method)
    if not (isinstance(factory, type) and issubclass(factory, Explainer)):
        raise ConfigError(f"explainer {config.method!r} must be a subclass of lsx.Explainer")
    if factory.__abstractmethods__:
        raise ConfigError(
            f"explainer {config.method!r} must implement {', '.join(sorted(factory.__abstractmethods__))}"
        )
    return factory(config)
