"""A small dataset whose answers are known, and metrics that are forgotten after a test."""

from collections.abc import Iterator

import pytest
import torch

from lsx.data.types import Dataset, Split
from lsx.metrics import METRICS


@pytest.fixture
def registry() -> Iterator[None]:
    """Whatever a test registers is gone afterwards."""
    before = dict(METRICS._metrics)
    yield
    METRICS._metrics.clear()
    METRICS._metrics.update(before)


def bars(count: int, seed: int, masks: bool, foreground: bool) -> Split:
    """28 × 28 noise with a bright bar in the class's rows (the foreground), and a patch in a corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(10).repeat(count)[:count]
    images = 0.3 * torch.rand(count, 1, 28, 28, generator=generator)
    rows = torch.arange(28).expand(count, 28)
    bar = ((rows // 2 == labels.unsqueeze(1) + 2)[:, None, :, None]).expand(-1, 1, -1, 28)
    patch = torch.zeros(count, 1, 28, 28, dtype=torch.bool)
    patch[:, :, :4, :4] = True
    images = torch.where(bar, images + 1, images)
    index = torch.arange(count)
    return Split(images, labels, patch if masks else None, index, bar.clone() if foreground else None)


def bar_dataset(masks: bool = True, foreground: bool = True) -> Dataset:
    parts = [bars(count, seed, masks, foreground) for seed, count in enumerate((120, 60, 50, 20))]
    return Dataset("bars", {}, parts[0], parts[1], parts[2], parts[3], 10, (0.0,), (1.0,))
