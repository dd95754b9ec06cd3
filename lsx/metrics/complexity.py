"""Complexity: whether an explanation points at few pixels. A constraint, not an objective."""

import torch
from torch import Tensor

from lsx.metrics.score import informative, pixel_map


def sparseness(explanations: Tensor) -> Tensor:
    """Gini index of the absolute attribution of pixels (Chalasani et al. 2020; Hurley & Rickard 2009), floats (N,).

    Σ_i (2i − n − 1) a_i / (n Σ_i a_i) with a_1 ≤ … ≤ a_n; in 0–1, 0 for equal attributions and 1 − 1/n for a single
    pixel, wherever that pixel is: higher is sparser, not truer. NaN where the map is constant or not finite.

    Args:
        explanations: (N, C, H, W), summed over channels.
    """
    values = pixel_map(explanations).abs().sort(dim=1).values
    count = values.shape[1]
    weights = 2 * torch.arange(1, count + 1, device=values.device).to(values) - count - 1
    index = (values * weights).sum(dim=1) / (count * values.sum(dim=1))
    return torch.where(informative(explanations), index, torch.nan)
