"""A number, or the reason why there is none."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """One metric's result.

    Attributes:
        value: finite, or NaN where the metric is not defined.
        reason: why it is NaN, or which samples it leaves out; empty when it covers everything.
    """

    value: float
    reason: str = ""

    @classmethod
    def undefined(cls, reason: str) -> "Score":
        """NaN, and why."""
        return cls(math.nan, reason)


def mean(values: Tensor, what: str) -> Score:
    """Mean over the samples that have a value.

    Args:
        values: floats (N,), NaN where a sample is degenerate. Synchronizes with the device once.
        what: what a NaN means, as in "without positive attribution in the map, or without a mask".
    """
    total = len(values)
    defined = ~values.isnan()
    sums = torch.stack([values.where(defined, 0).sum(), defined.sum().to(values)]).tolist()
    used = round(sums[1])
    if not used:
        return Score.undefined(f"all {total} samples are {what}")
    return Score(sums[0] / used, "" if used == total else f"{used} of {total} samples used; the others are {what}")


def pixel_map(explanations: Tensor) -> Tensor:
    """Attribution of each pixel, summed over channels: (N, C, H, W) to (N, H·W)."""
    return explanations.sum(dim=1).flatten(1)


def informative(explanations: Tensor) -> Tensor:
    """bool (N,), maps (N, C, H, W) that rank pixels at all: finite and not constant (so not all zero)."""
    low, high = pixel_map(explanations).aminmax(dim=1)
    return (high > low) & (high - low).isfinite()


def unusable(explanations: Tensor) -> str:
    """Why no number can be had from all of these maps (N, C, H, W); empty when one can."""
    if not torch.isfinite(explanations).all():
        return "explanations hold values that are not finite"
    if not informative(explanations).any():
        return f"all {len(explanations)} maps are constant"
    return ""
