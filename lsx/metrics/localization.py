"""Localization: how much of an explanation lies on a region whose place is known.

Each function takes explanations (N, C, H, W), summed over channels, and masks bool (N, 1, H, W). It returns floats
(N,) in 0–1, NaN where the map is constant or has no positive attribution, or the mask is empty. On the mask of a
confounder (decoy patch) lower is better; on the object itself higher.

Pixels of equal attribution count by their expected share under a random order of them, so that no metric depends on
where in the image a tie lies. Follows Arras et al. 2022 (CLEVR-XAI), and Zhang et al. 2018 for the pointing game.
"""

import torch
from torch import Tensor

from lsx.metrics.score import informative, pixel_map

UNRANKED = "constant, without positive attribution, or without a mask"
"""What NaN means."""


def relevance_mass(explanations: Tensor, masks: Tensor) -> Tensor:
    """Share of the positive attribution that lies inside the mask."""
    positive, inside = pixel_map(explanations).clamp(min=0), masks.flatten(1)
    return _defined((positive * inside).sum(dim=1) / positive.sum(dim=1), explanations, masks)


def rank_accuracy(explanations: Tensor, masks: Tensor) -> Tensor:
    """Share of the |mask| highest pixels that lies inside the mask."""
    pixels, inside = pixel_map(explanations), masks.flatten(1)
    size = inside.sum(dim=1, keepdim=True)
    lowest = pixels.sort(dim=1, descending=True).values.gather(1, (size - 1).clamp(min=0))
    above, tied = pixels > lowest, pixels == lowest
    # Of the tied pixels at the edge only `places` belong to the top.
    places = size - above.sum(dim=1, keepdim=True)
    share = (tied & inside).sum(dim=1, keepdim=True) / tied.sum(dim=1, keepdim=True)
    hits = (above & inside).sum(dim=1, keepdim=True) + places * share
    return _defined((hits / size).squeeze(1).to(pixels), explanations, masks)


def pointing_game(explanations: Tensor, masks: Tensor) -> Tensor:
    """1 where the highest pixel lies inside the mask, else 0."""
    pixels, inside = pixel_map(explanations), masks.flatten(1)
    top = pixels == pixels.amax(dim=1, keepdim=True)
    return _defined((top & inside).sum(dim=1).to(pixels) / top.sum(dim=1), explanations, masks)


def _defined(values: Tensor, explanations: Tensor, masks: Tensor) -> Tensor:
    positive = pixel_map(explanations).amax(dim=1) > 0
    return torch.where(informative(explanations) & positive & masks.flatten(1).any(dim=1), values, torch.nan)
