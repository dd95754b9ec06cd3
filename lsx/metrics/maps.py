"""Explanations of a split, for scoring."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lsx import explainers
from lsx.config import Config, ExplainerConfig
from lsx.data.types import Split
from lsx.explainers import Explainer
from lsx.explainers.base import predicted
from lsx.metrics.accuracy import at_a_time
from lsx.metrics.randomness import reproducible
from lsx.models import evaluating


class Maps(NamedTuple):
    """Explanations (N, C, H, W) of the same images: normalized as in training, and per sample."""

    own: Tensor
    sample: Tensor


def explain(
    model: nn.Module,
    part: Split,
    config: ExplainerConfig,
    batch_size: int,
    *,
    seed: int = 0,
    targets: Tensor | None = None,
) -> Maps:
    """Explanations of a split's images, batches of ``batch_size`` being the groups of batch normalization.

    Args:
        model: images (B, C, H, W) to log-probabilities (B, K).
        part: images, on the model's device.
        config: the explainer.
        batch_size: images at a time.
        seed: of an explainer that draws random numbers; global random state is kept.
        targets: int64 (N,), the explained classes, instead of those that ``config.target`` says.
    """
    explainer = explainers.build(config)
    with evaluating(model), reproducible(seed, part.images.device):
        if targets is None:
            targets = chosen_classes(model, part, config, batch_size)
        raw = attributions(explainer, model, part.images, targets, batch_size)
    groups = [
        (explainer.postprocess(batch, images, len(batch)), explainer.postprocess(batch, images, 1))
        for batch, images in zip(raw.split(batch_size), part.images.split(batch_size), strict=True)
    ]
    own, sample = (torch.cat(maps).detach() for maps in zip(*groups, strict=True))
    return Maps(sample if config.normalization == "sample" else own, sample)


def chosen_classes(model: nn.Module, part: Split, config: ExplainerConfig, batch_size: int) -> Tensor:
    """int64 (N,), the classes that ``config.target`` explains."""
    if config.target == "true":
        return part.labels
    with evaluating(model):
        return torch.cat([predicted(model, images) for images in part.images.split(batch_size)])


def attributions(explainer: Explainer, model: nn.Module, images: Tensor, targets: Tensor, batch_size: int) -> Tensor:
    """Raw attributions (N, C, H, W), detached."""
    # Captum evaluates all quadrature points of a batch at once: fewer images keep memory as it is elsewhere.
    size = max(1, at_a_time(images, batch_size) // explainer.evaluations)
    return torch.cat(
        [
            explainer.attribute(model, batch, classes, create_graph=False).detach()
            for batch, classes in zip(images.split(size), targets.split(size), strict=True)
        ]
    )


def own_config(config: Config) -> ExplainerConfig:
    """The learner's own explainer, for the classes that are explained when scoring."""
    return config.explainer.model_copy(update={"target": config.evaluation.target})


def reference_config(config: Config) -> ExplainerConfig:
    """The explainer that scores every learner alike: nothing in it comes from the learner's own explainer."""
    evaluation = config.evaluation
    settings = {"method": evaluation.reference_explainer, "target": evaluation.target, "normalization": "sample"}
    return ExplainerConfig.model_validate(settings)
