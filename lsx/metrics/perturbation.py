"""Infidelity and max-sensitivity (Yeh et al. 2019), by Captum: constraints, not objectives.

A constant map is perfectly insensitive and can be about as faithful as the best one where the model hardly reacts to
noise at all, so neither number says that an explanation explains. Each function gives floats (N,), NaN where the map
is constant or not finite. Noise is a share of each image's value range, the same numbers on every device.
"""

from collections.abc import Callable, Iterator

import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max
from torch import Tensor, nn

from lsx.metrics.score import informative
from lsx.models import evaluating

Explain = Callable[[Tensor, Tensor], Tensor]
"""Images (B, C, H, W) and the explained classes (B,) to explanations (B, C, H, W)."""


def infidelity(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    noise: float,
    copies: int,
    seed: int = 0,
    batch_size: int = 256,
) -> Tensor:
    """E[(β·I·e − (p(x) − p(x − I)))²] over noise I ~ N(0, (``noise`` · range)²); in 0–1, lower is better.

    p is the explained class's probability. β scales each map to its best, so that its normalization does not matter:
    infidelity is what the map's *pattern* leaves unexplained. With fewer copies than it takes to estimate β it is
    too low, and 0 with one.

    Args:
        model: images (B, C, H, W) to log-probabilities (B, K).
        images, maps: (N, C, H, W), the maps being explanations of the images.
        targets: int64 (N,), the explained classes.
        noise: standard deviation, as a share of each image's value range.
        copies: noisy copies per image.
        seed: of the noise.
        batch_size: images at a time.
    """
    generator = torch.Generator().manual_seed(seed)

    def perturb(batch: Tensor) -> tuple[Tensor, Tensor]:
        shift = noise * _span(batch) * torch.randn(batch.shape, generator=generator).to(batch)
        return shift, batch - shift

    with evaluating(model):
        values = [
            captum_infidelity(
                lambda batch: model(batch).exp(),
                perturb,
                *part,
                target=classes,
                n_perturb_samples=copies,
                max_examples_per_batch=len(classes),
                normalize=True,
            )
            for *part, classes in _batches(batch_size, images, maps, targets)
        ]
    # Captum expands the square, which can leave a small negative number where nothing is left unexplained.
    return torch.where(informative(maps), torch.cat(values).clamp(min=0), torch.nan)


def max_sensitivity(
    explain: Explain,
    images: Tensor,
    targets: Tensor,
    *,
    radius: float,
    copies: int,
    seed: int = 0,
    batch_size: int = 256,
) -> Tensor:
    """max ‖e(x + δ) − e(x)‖ / ‖e(x)‖ over δ uniform in ±``radius`` · range; ≥ 0, lower is better.

    The explained class stays that of the intact image. More copies find larger maxima: compare at equal numbers.

    Args:
        explain: the explainer of one model; its maps must not depend on which images share a batch.
        images: (N, C, H, W).
        targets: int64 (N,), the explained classes.
        radius: of the noise, as a share of each image's value range.
        copies: noisy copies per image.
        seed: of the noise.
        batch_size: images at a time.
    """
    generator = torch.Generator().manual_seed(seed)

    def perturb(batch: Tensor) -> Tensor:
        return batch + radius * _span(batch) * (2 * torch.rand(batch.shape, generator=generator) - 1).to(batch)

    def explained(batch: Tensor | tuple[Tensor], target: Tensor) -> tuple[Tensor]:
        # Always a tuple: Captum would take a tensor of intact maps for one map per input tensor.
        return (explain(batch[0] if isinstance(batch, tuple) else batch, target),)

    values, usable = [], []
    for part, classes in _batches(batch_size, images, targets):
        usable.append(informative(explain(part, classes)))
        values.append(
            sensitivity_max(
                explained,
                part,
                perturb,
                n_perturb_samples=copies,
                max_examples_per_batch=len(classes),
                target=classes,
            )
        )
    return torch.where(torch.cat(usable), torch.cat(values), torch.nan)


def _span(images: Tensor) -> Tensor:
    """(N, 1, 1, 1), the value range of each image."""
    return images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True)


def _batches(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)
