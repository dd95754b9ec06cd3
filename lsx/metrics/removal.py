"""Deletion and insertion: how fast a model loses (regains) its answer as pixels go (come) in order of attribution.

Petsiuk et al. 2018 (RISE), with the replacement that :mod:`lsx.metrics.faithfulness` uses for both (RISE inserts into
a blurred image). Each function gives the area under the probability of the originally predicted class over the share
of pixels that is removed (restored), floats (N,) in 0–1, NaN where the map is constant and so ranks no pixels.

Removed pixels make images that the model never saw, so part of a drop is the image's strangeness; compare with the
same number of a random order. A model that is hardly sure of anything has a small area whatever the explanation.
"""

import torch
from torch import Tensor

from lsx.metrics.faithfulness import Kind, Subject, curve
from lsx.metrics.score import informative


def deletion_auc(subject: Subject, maps: Tensor, steps: int, seed: int = 0) -> Tensor:
    """Area while the highest pixels go first; lower is better.

    Args:
        subject: a model and N images.
        maps: explanations (N, C, H, W), summed over channels.
        steps: intervals between all pixels and none; H·W at most are used.
        seed: of the order among pixels of equal attribution.
    """
    shares = _shares(maps, steps)
    gone = _probability(subject, maps, "comprehensiveness", shares[1:], seed)
    return _area(torch.cat([subject.probability.unsqueeze(0), gone]), shares, maps)


def insertion_auc(subject: Subject, maps: Tensor, steps: int, seed: int = 0) -> Tensor:
    """Area while the highest pixels come first, onto an image of replaced pixels; higher is better.

    Args: as of :func:`deletion_auc`.
    """
    shares = _shares(maps, steps)
    blank = _probability(subject, maps, "comprehensiveness", [1.0], seed)
    come = _probability(subject, maps, "sufficiency", shares[1:], seed)
    return _area(torch.cat([blank, come]), shares, maps)


def _shares(maps: Tensor, steps: int) -> list[float]:
    """From 0 to 1, each of whole pixels, so that areas are those of the pixels that really go."""
    pixels = maps[0, 0].numel()
    steps = min(steps, pixels)
    return [round(step / steps * pixels) / pixels for step in range(steps + 1)]


def _probability(subject: Subject, maps: Tensor, kind: Kind, shares: list[float], seed: int) -> Tensor:
    return curve(subject, maps, "equal_count", kind, shares, seed).probability


def _area(probability: Tensor, shares: list[float], maps: Tensor) -> Tensor:
    areas = torch.trapezoid(probability, torch.tensor(shares).to(probability), dim=0)
    return torch.where(informative(maps), areas, torch.nan)
