"""Faithfulness: what a model loses when the explained pixels are removed (comprehensiveness) or kept (sufficiency).

After DeYoung et al. 2020 (ERASER), in two forms. The authors' form (Stammer et al., arXiv 2309.08395) chooses pixels
by *value*, so that a peaked explanation changes fewer of them than its random baseline does. The equal-count form
chooses them by *rank*: explanation and baseline change exactly the same number. Tune on the latter.

Attributions are summed over channels, and a removed pixel loses all of its channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lsx.metrics.score import Score, informative, mean, pixel_map
from lsx.models import evaluating

Kind = Literal["comprehensiveness", "sufficiency"]
Form = Literal["authors", "equal_count"]
Replacement = Literal["median", "mean", "min", "zero"]

KINDS: tuple[Kind, ...] = ("comprehensiveness", "sufficiency")
THRESHOLDS = (0.99, 0.95, 0.9, 0.8, 0.5)
FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
UNRANKED = "without a map that ranks pixels (constant)"
MIN_MAX_EPSILON = 1e-6  # the authors' code divides by the span plus this


@dataclass(frozen=True)
class Subject:
    """A model and the images on which it is tested.

    Attributes:
        model: images (B, C, H, W) to log-probabilities (B, K).
        images, labels: (N, C, H, W), and true classes int64 (N,).
        value: (1, C, 1, 1) or a scalar tensor; what a removed pixel becomes.
        predicted: int64 (N,), the model's classes on the intact images.
        probability: (N,), of those classes.
        batch_size: images at a time.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    value: Tensor
    predicted: Tensor
    probability: Tensor
    batch_size: int


@dataclass(frozen=True)
class Curve:
    """What a model still says at each removal level: ``levels`` (T,) and two float tensors (T, N).

    Attributes:
        levels: thresholds or fractions.
        correct: 1 where the prediction is the true class.
        probability: of the originally predicted class.
    """

    levels: tuple[float, ...]
    correct: Tensor
    probability: Tensor


def replacement(images: Tensor, how: Replacement) -> Tensor:
    """What a removed pixel becomes, per channel over all images (N, C, H, W): (1, C, 1, 1).

    Zero is the zero of normalized space.
    """
    channels = images.transpose(0, 1).flatten(1)
    if how == "zero":
        values = torch.zeros_like(channels[:, 0])
    elif how == "median":
        values = channels.median(dim=1).values
    else:
        values = channels.mean(dim=1) if how == "mean" else channels.amin(dim=1)
    return values.view(1, -1, 1, 1)


def subject(model: nn.Module, images: Tensor, labels: Tensor, value: Tensor, batch_size: int = 256) -> Subject:
    """The model's predictions on intact images, kept for every removal that follows; see :class:`Subject`."""
    with evaluating(model), torch.no_grad():
        outputs = torch.cat([model(batch) for batch in images.split(batch_size)])
    best = outputs.max(dim=1)
    return Subject(model, images, labels, value, best.indices, best.values.exp(), batch_size)


def thresholded(maps: Tensor, thresholds: Sequence[float], kind: Kind) -> Iterator[Tensor]:
    """Pixels to remove in the authors' form, one bool (N, 1, H, W) per threshold τ.

    With ê = (e − min e) / (max(e − min e) + 1e-6) per image: ê ≥ τ for comprehensiveness, ê ≤ τ for sufficiency.
    """
    pixels = pixel_map(maps)
    shifted = pixels - pixels.amin(dim=1, keepdim=True)
    scaled = shifted / (shifted.amax(dim=1, keepdim=True) + MIN_MAX_EPSILON)
    for threshold in thresholds:
        removed = scaled >= threshold if kind == "comprehensiveness" else scaled <= threshold
        yield removed.view(-1, 1, *maps.shape[2:])


def ranked(maps: Tensor, fractions: Sequence[float], kind: Kind, seed: int = 0) -> Iterator[Tensor]:
    """Pixels to remove in the equal-count form, one bool (N, 1, H, W) per fraction q.

    The top k = max(1, round(q·H·W)) pixels of each map for comprehensiveness, all but these for sufficiency.
    Ties are broken by a random order of each image's pixels, drawn from ``seed``: in raster order they would all fall
    on the (dark) upper rows.
    """
    pixels = pixel_map(maps)
    count = pixels.shape[1]
    # Another stream than random_maps has: ties must not follow the baseline.
    keys = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed + 1))
    shuffle = keys.argsort(dim=1).to(pixels.device)
    order = shuffle.gather(1, pixels.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(count, device=order.device).expand_as(order))
    for fraction in fractions:
        top = ranks < max(1, round(fraction * count))
        yield (top if kind == "comprehensiveness" else ~top).view(-1, 1, *maps.shape[2:])


def curve(subject: Subject, maps: Tensor, form: Form, kind: Kind, levels: Sequence[float], seed: int = 0) -> Curve:
    """The model's answers while pixels are removed as ``maps`` (N, C, H, W) say."""
    choose = thresholded(maps, levels, kind) if form == "authors" else ranked(maps, levels, kind, seed)
    rows = [_answers(subject, removed) for removed in choose]
    correct, probability = (torch.stack(part) for part in zip(*rows, strict=True))
    return Curve(tuple(levels), correct, probability)


def random_maps(images: Tensor, seed: int = 0) -> Tensor:
    """The baseline: one map e ~ U(0, 1) per image (N, C, H, W), (N, 1, H, W); the same numbers on every device."""
    shape = (len(images), 1, *images.shape[2:])
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(images)


def contrast(explained: Curve, random: Curve, maps: Tensor) -> tuple[Score, Score]:
    """Mean over levels and images of (random − explained), times 100: accuracy, then probability.

    Both are in −100…100. Comprehensiveness: higher is better, because removing what an explanation points at should
    hurt more than removing random pixels. Sufficiency: lower is better, because keeping it should hurt less. (In
    probability this is the probability drop under the explanation minus the drop under the random map.) Images whose
    map is constant rank no pixels and are left out.
    """
    usable = informative(maps)
    gaps = (random.correct - explained.correct, random.probability - explained.probability)
    per_image = (torch.where(usable, 100 * gap.mean(dim=0), torch.nan) for gap in gaps)
    accuracy, probability = (mean(values, UNRANKED) for values in per_image)
    return accuracy, probability


def _answers(subject: Subject, removed: Tensor) -> tuple[Tensor, Tensor]:
    with evaluating(subject.model), torch.no_grad():
        outputs = torch.cat(
            [
                subject.model(torch.where(mask, subject.value, images))
                for images, mask in zip(
                    subject.images.split(subject.batch_size), removed.split(subject.batch_size), strict=True
                )
            ]
        )
    kept = outputs.gather(1, subject.predicted.unsqueeze(1)).squeeze(1).exp()
    return (outputs.argmax(dim=1) == subject.labels).to(outputs), kept
