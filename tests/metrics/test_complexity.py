"""Sparseness: closed forms, the definition by pairs, degenerate maps."""

import math

import numpy as np
import pytest
import torch

from lsx.metrics import sparseness


def test_closed_forms() -> None:
    one, half, ramp = torch.zeros(3, 1, 10, 10)
    one[0, 3, 4] = 5
    half[0, :5] = -2  # the sign does not matter
    ramp[0] = torch.arange(100.0).view(10, 10)
    values = sparseness(torch.stack([one, half, ramp]))
    assert values.tolist() == pytest.approx([0.99, 0.5, 101 / 300], rel=1e-5)


def test_half_the_mean_difference_over_the_mean() -> None:
    maps = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    values = np.abs(maps.numpy().sum(axis=1)).reshape(4, 30)
    expected = [np.abs(row[:, None] - row[None]).mean() / (2 * row.mean()) for row in values]
    assert sparseness(maps).tolist() == pytest.approx(expected, rel=1e-5)
    assert sparseness(100 * maps.flip(3)).tolist() == pytest.approx(expected, rel=1e-5)


def test_degenerate_maps_are_nan() -> None:
    maps = torch.zeros(4, 1, 3, 3)
    maps[1] = 2.0
    maps[2, 0, 0, 0] = math.inf
    maps[3, 0, 0, 0] = 1
    assert sparseness(maps).isnan().tolist() == [True, True, True, False]
