"""Classification accuracy."""

import torch
from torch import Tensor, nn

from lsx.data.types import Split
from lsx.models import evaluating

CPU_BATCH = 64
"""Images at a time where grouping does not matter: on a CPU larger batches fall out of its caches and are slower."""


def at_a_time(images: Tensor, batch_size: int) -> int:
    """How many of ``images`` to pass through a network at a time, given a bound for memory."""
    return min(batch_size, CPU_BATCH) if images.device.type == "cpu" else batch_size


def accuracy(model: nn.Module, split: Split, batch_size: int = 256) -> float:
    """Share of a split's images whose most probable class is the true one, in 0–1; higher is better.

    Args:
        model: images (B, C, H, W) to log-probabilities (B, K); evaluated in evaluation mode.
        split: labelled images, on the model's device.
        batch_size: images at a time; bounds memory.
    """
    batch_size = at_a_time(split.images, batch_size)
    with evaluating(model), torch.no_grad():
        hits: list[Tensor] = [
            (model(images).argmax(dim=1) == labels).sum()
            for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True)
        ]
    return float(torch.stack(hits).sum()) / len(split)
