"""Model-parameter randomisation (Adebayo et al. 2018): explanations must change when the weights are drawn anew.

A sanity gate: an explanation that stays alike shows the image, not the network. It does not tell good from better, and
what is alike in any two maps of one image (input × gradient is zero wherever the image is) keeps it above zero.
Adebayo et al. also use SSIM, which depends on its window; rank correlation and cosine have no such setting.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lsx.metrics.score import informative, pixel_map


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's ρ of the pixels of two maps of each image: floats (N,) in −1…1, NaN where either map is constant.

    Args:
        first, second: explanations (N, C, H, W), summed over channels. Equal attributions share their mean rank.
    """
    one, other = (_centred(_ranks(pixel_map(maps))) for maps in (first, second))
    return _defined(_cosine(one, other), first, second)


def cosine_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of two maps of each image, all channels: floats (N,) in −1…1, NaN where either map is constant.

    Args:
        first, second: explanations (N, C, H, W).
    """
    return _defined(_cosine(first.flatten(1), second.flatten(1)), first, second)


def cascade(learner: nn.Module, fresh: nn.Module) -> Iterator[nn.Module]:
    """The learner with the weights of one more layer replaced at every step, the last layer first.

    Args:
        learner: stays as it is.
        fresh: the same architecture with weights drawn anew.

    Yields:
        One network, changed from step to step, in evaluation mode; after the last step it equals ``fresh``.
    """
    changed = copy.deepcopy(learner).eval()
    layers = [(name, layer) for name, layer in changed.named_modules() if _has_state(layer)]
    for name, layer in reversed(layers):
        layer.load_state_dict(fresh.get_submodule(name).state_dict())
        yield changed


def same_architecture(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks hold weights of the same names and shapes."""
    shapes = ({name: weight.shape for name, weight in one.state_dict().items()} for one in (first, second))
    return next(shapes) == next(shapes)


def _has_state(layer: nn.Module) -> bool:
    """Whether it has parameters or buffers of its own."""
    return any(True for _ in layer.parameters(recurse=False)) or any(True for _ in layer.buffers(recurse=False))


def _ranks(values: Tensor) -> Tensor:
    """Ranks along rows (N, P), from 1, equal values sharing their mean rank."""
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values)
    not_above = torch.searchsorted(ordered, values, right=True)
    return (below + not_above + 1).to(values) / 2


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=1, keepdim=True)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    # Each is scaled before the product, so that small maps do not vanish in it.
    one, other = (rows / rows.norm(dim=1, keepdim=True) for rows in (first, second))
    product: Tensor = (one * other).sum(dim=1)
    return product.clamp(-1, 1)


def _defined(values: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.where(informative(first) & informative(second), values, torch.nan)
