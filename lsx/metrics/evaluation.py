"""Metrics of one learner, in one call."""

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import nn

from lsx.config import Config
from lsx.data.types import Dataset
from lsx.errors import ConfigError
from lsx.metrics.context import Context, SplitName
from lsx.metrics.randomness import reproducible
from lsx.metrics.registry import METRICS, STANDARD, NotApplicable, select
from lsx.metrics.score import Score

FOREGROUND = "foreground"


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name (:data:`lsx.metrics.METRICS`), and why some are NaN or leave samples out."""

    values: dict[str, float]
    reasons: dict[str, str]


def evaluate(
    learner: nn.Module,
    dataset: Dataset,
    split: SplitName,
    config: Config,
    *,
    metrics: Iterable[str] | None = None,
    encoder: nn.Module | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Metrics of a learner by name; see :func:`evaluate_with_reasons`, :data:`lsx.metrics.METRICS`."""
    return evaluate_with_reasons(learner, dataset, split, config, metrics=metrics, encoder=encoder, seed=seed).values


def evaluate_with_reasons(
    learner: nn.Module,
    dataset: Dataset,
    split: SplitName,
    config: Config,
    *,
    metrics: Iterable[str] | None = None,
    encoder: nn.Module | None = None,
    seed: int = 0,
) -> Evaluation:
    """Metrics of a learner on one split.

    Accuracy counts every image. Explanation metrics use the first ``config.evaluation.max_images`` of a shuffle by
    ``seed``, those that take many passes the first ``config.evaluation.faithfulness_images`` of these. Nothing global
    changes: modes of networks and random states are as before.

    A metric that does not exist here (localization without masks) is left out where a group asked for it, and NaN
    with a reason where it was asked for by name. ``standard`` has the localization on the foreground where the
    images have no masks of a confounder.

    Args:
        learner: images (B, C, H, W) to log-probabilities (B, K); its device is used.
        dataset: the split's images, and the training images of IIES's encoder.
        split: train, validation or test.
        config: the learner's explainer, and how to evaluate.
        metrics: names of metrics and groups, or ``package.module:function``; ``config.evaluation.metrics`` by default.
        encoder: encodes explanations for IIES, instead of one trained on the training split.
        seed: of the image selection and of all that is random; keep it equal for learners that are compared.

    Raises:
        ConfigError: an unknown split, metric or explainer, or a metric that gives no number.
    """
    asked = config.evaluation.metrics if metrics is None else metrics
    names = [asked] if isinstance(asked, str) else list(asked)
    chosen = select(names)  # first: an unknown name is refused before anything is computed
    context = Context(learner, dataset, split, config, encoder=encoder, seed=seed)
    if STANDARD in names and context.part.masks is None:
        chosen = select([*names, FOREGROUND])
    scores = {name: _score(name, by_name, context) for name, by_name in chosen.items()}
    found = {name: score for name, score in scores.items() if score is not None}
    return Evaluation(
        {name: score.value for name, score in found.items()},
        {name: score.reason for name, score in found.items() if score.reason},
    )


def _score(name: str, by_name: bool, context: Context) -> Score | None:
    """One metric; None for a member of a group that does not exist here."""
    try:
        with reproducible(context.seed, context.device):
            result = METRICS.find(name).function(context)
    except NotApplicable as absent:
        return Score.undefined(str(absent)) if by_name else None
    score = result if isinstance(result, Score) else Score(_number(name, result))
    if math.isfinite(score.value) or (math.isnan(score.value) and score.reason):
        return score
    return Score.undefined(f"the metric gave {score.value}")


def _number(name: str, result: Any) -> float:
    with suppress(TypeError, ValueError, RuntimeError):  # torch raises the last for more than one number
        if not isinstance(result, str):
            return float(result)
    raise ConfigError(f"metric {name!r} must give a number or an lsx.metrics.Score, not {type(result).__name__}")
