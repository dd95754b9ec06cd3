"""Localization: closed forms, an independent rewrite with random ties, degenerate maps."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lsx.metrics import mean, pointing_game, rank_accuracy, relevance_mass

FUNCTIONS = [relevance_mass, rank_accuracy, pointing_game]


def one(values: list[list[float]], mask: list[list[int]]) -> tuple[Tensor, Tensor]:
    return torch.tensor(values)[None, None], torch.tensor(mask, dtype=torch.bool)[None, None]


def test_hand_made_map() -> None:
    maps, masks = one([[5.0, 1, -9], [3, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0], [0, 0, 0]])
    assert relevance_mass(maps, masks).tolist() == pytest.approx([0.6])
    # The top three are 5, 3 and one of the two 1s: one hit, and half a hit.
    assert rank_accuracy(maps, masks).tolist() == pytest.approx([1.5 / 3])
    assert pointing_game(maps, masks).tolist() == [1]


def test_channels_are_summed() -> None:
    maps, masks = one([[4.0, 0], [0, 1]], [[1, 0], [0, 0]])
    split = torch.cat([maps + 1, -torch.ones_like(maps)], dim=1)
    for function in FUNCTIONS:
        assert torch.equal(function(split, masks), function(maps, masks))


def test_ties_count_by_their_share() -> None:
    maps, masks = one([[1.0, 1], [1, 0]], [[1, 0], [0, 0]])
    assert pointing_game(maps, masks).tolist() == pytest.approx([1 / 3])
    assert rank_accuracy(maps, masks).tolist() == pytest.approx([1 / 3])
    flipped = rank_accuracy(maps.flip(2, 3), masks.flip(2, 3))
    assert flipped.tolist() == pytest.approx([1 / 3])


def test_rank_accuracy_is_the_mean_over_random_tie_breaks() -> None:
    random = np.random.default_rng(0)
    maps = random.integers(0, 4, (5, 1, 6, 6)).astype(np.float32)
    masks = random.random((5, 1, 6, 6)) < 0.3
    expected = []
    for values, mask in zip(maps.reshape(5, -1), masks.reshape(5, -1), strict=True):
        shares = []
        for _ in range(4000):
            shuffle = random.permutation(36)
            top = shuffle[np.argsort(-values[shuffle], kind="stable")][: mask.sum()]
            shares.append(mask[top].mean())
        expected.append(np.mean(shares))
    actual = rank_accuracy(torch.from_numpy(maps), torch.from_numpy(masks))
    assert actual.tolist() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_degenerate_samples_are_nan(function: object) -> None:
    maps = torch.zeros(5, 1, 3, 3)
    maps[1] = 0.7  # constant
    maps[2, 0, 0] = -1  # nothing positive
    maps[3:, 0, 1, 1] = 1
    maps[4, 0, 0, 0] = math.nan
    masks = torch.zeros(5, 1, 3, 3, dtype=torch.bool)
    masks[:, 0, 1, 1] = True
    values = function(maps, masks)  # type: ignore[operator]
    assert values.isnan().tolist() == [True, True, True, False, True]
    assert values[3] == 1
    assert function(maps[3:4], torch.zeros_like(masks[:1])).isnan().all()  # type: ignore[operator]


def test_mean_skips_nan_and_says_so() -> None:
    score = mean(torch.tensor([0.25, math.nan, 0.75]), "constant")
    assert score.value == 0.5
    assert score.reason == "2 of 3 samples used; the others are constant"
    assert mean(torch.tensor([0.25, 0.75]), "constant").reason == ""
    empty = mean(torch.full((2,), math.nan), "constant")
    assert math.isnan(empty.value)
    assert empty.reason == "all 2 samples are constant"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_scale_and_order_do_not_matter(function: object) -> None:
    maps = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.3
    masks = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    values = function(maps, masks)  # type: ignore[operator]
    assert values.dtype == torch.float64
    torch.testing.assert_close(function(maps.flip(0) * 7, masks.flip(0)), values.flip(0))  # type: ignore[operator]
    if torch.cuda.is_available():
        torch.testing.assert_close(function(maps.cuda(), masks.cuda()).cpu(), values)  # type: ignore[operator]
