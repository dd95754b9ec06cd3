"""Faithfulness: which pixels go, and what that does to models whose answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lsx.metrics import faithfulness
from lsx.metrics.faithfulness import FRACTIONS, KINDS, Curve

SIZE = 8
PIXELS = SIZE * SIZE


class OnePixel(nn.Module):
    """log-probabilities (B, 2) that depend on pixel (2, 3) alone: class 1 with probability σ(4·(2p − 1))."""

    def forward(self, images: Tensor) -> Tensor:
        logits = 4 * (2 * images[:, 0, 2, 3] - 1)
        return torch.stack([-logits, logits], dim=1).div(2).log_softmax(dim=1)


class ChannelSum(nn.Module):
    """log-probabilities (B, 2) from the sum over all channels at pixel (0, 0)."""

    def forward(self, images: Tensor) -> Tensor:
        total = images[:, :, 0, 0].sum(dim=1)
        return torch.stack([-total, total], dim=1).log_softmax(dim=1)


def random_case(count: int = 12, channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.rand(count, channels, SIZE, SIZE, generator=generator),
        torch.rand(count, channels, SIZE, SIZE, generator=generator),
    )


def one_pixel_scores(maps: Tensor, images: Tensor, kind: faithfulness.Kind) -> tuple[float, float]:
    subject = faithfulness.subject(OnePixel(), images, torch.ones(len(images), dtype=torch.long), torch.tensor(0.0), 5)
    random = faithfulness.curve(subject, faithfulness.random_maps(images), "equal_count", kind, FRACTIONS)
    explained = faithfulness.curve(subject, maps, "equal_count", kind, FRACTIONS)
    accuracy, probability = faithfulness.contrast(explained, random, maps)
    return accuracy.value, probability.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_equal_counts_for_every_map_even_with_ties(kind: faithfulness.Kind, channels: int) -> None:
    maps, _ = random_case(channels=channels)
    maps[0] = 0
    maps[1] = (maps[1] > 0.9).float()
    expected = [max(1, round(fraction * PIXELS)) for fraction in FRACTIONS]
    for removed, count in zip(faithfulness.ranked(maps, FRACTIONS, kind), expected, strict=True):
        wanted = count if kind == "comprehensiveness" else PIXELS - count
        assert removed.shape == (12, 1, SIZE, SIZE)
        assert removed.flatten(1).sum(dim=1).tolist() == [wanted] * 12


def test_ranked_removes_what_numpy_ranks_first() -> None:
    maps, _ = random_case(channels=3)
    summed = maps.numpy().sum(axis=1).reshape(12, -1)
    for removed, fraction in zip(faithfulness.ranked(maps, FRACTIONS, "comprehensiveness"), FRACTIONS, strict=True):
        for row in range(12):
            top = set(np.argsort(-summed[row])[: max(1, round(fraction * PIXELS))].tolist())
            assert set(np.flatnonzero(removed[row].numpy()).tolist()) == top


def test_ties_are_seeded_scattered_and_independent_of_the_baseline() -> None:
    maps = torch.zeros(50, 1, 28, 28)
    (first,) = faithfulness.ranked(maps, [0.1], "comprehensiveness", seed=0)
    (again,) = faithfulness.ranked(maps, [0.1], "comprehensiveness", seed=0)
    (other,) = faithfulness.ranked(maps, [0.1], "comprehensiveness", seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.45 < first[:, 0, :14].sum() / first.sum() < 0.55  # raster order would take upper rows only
    (baseline,) = faithfulness.ranked(faithfulness.random_maps(maps, seed=0), [0.1], "comprehensiveness", seed=0)
    assert 0.08 < (first & baseline).sum() / first.sum() < 0.12


def test_thresholds_select_by_value_per_image() -> None:
    maps = torch.tensor([0.0, 0.5, 0.9, 1.0]).view(1, 1, 2, 2)
    maps = torch.cat([maps, 3 * maps - 1])
    (top,) = faithfulness.thresholded(maps, [0.9 - 1e-5], "comprehensiveness")
    (rest,) = faithfulness.thresholded(maps, [0.5], "sufficiency")
    assert top.flatten(1).tolist() == [[False, False, True, True]] * 2
    assert rest.flatten(1).tolist() == [[True, True, False, False]] * 2


def test_perfect_explanation_of_a_one_pixel_model() -> None:
    images, _ = random_case(40)
    images[:, 0, 2, 3] = 1
    good = torch.zeros_like(images)
    good[:, 0, 2, 3] = 1
    sure, gone = 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(4))
    random = list(faithfulness.ranked(faithfulness.random_maps(images), FRACTIONS, "comprehensiveness"))
    hit = float(torch.stack(random)[:, :, 0, 2, 3].float().mean())
    # The explanation always removes the pixel, the random map a share `hit` of times; for sufficiency the reverse.
    accuracy, probability = one_pixel_scores(good, images, "comprehensiveness")
    assert accuracy == pytest.approx(100 * (1 - hit), abs=1e-3)
    assert probability == pytest.approx(100 * (1 - hit) * (sure - gone), abs=1e-3)
    accuracy, probability = one_pixel_scores(good, images, "sufficiency")
    assert accuracy == pytest.approx(-100 * (1 - hit), abs=1e-3)
    assert probability == pytest.approx(-100 * (1 - hit) * (sure - gone), abs=1e-3)


def test_random_explanation_is_worth_nothing() -> None:
    images, maps = random_case(400)
    images[:, 0, 2, 3] = 1
    for kind in KINDS:
        accuracy, probability = one_pixel_scores(maps, images, kind)
        assert abs(accuracy) < 4
        assert abs(probability) < 4


def test_peaked_map_is_compared_at_equal_counts() -> None:
    """A peaked map that points at nothing: by value it seems far worse than random, by rank it is just random."""
    images, _ = random_case(300)
    images[:, 0, 2, 3] = 1
    peaked = torch.zeros_like(images)
    peaked[:, 0, 7, 7] = 1
    subject = faithfulness.subject(OnePixel(), images, torch.ones(300, dtype=torch.long), torch.tensor(0.0))
    gaps = {}
    for form in ("authors", "equal_count"):
        explained = faithfulness.curve(subject, peaked, form, "comprehensiveness", [0.5])
        random = faithfulness.curve(subject, faithfulness.random_maps(images), form, "comprehensiveness", [0.5])
        gaps[form] = faithfulness.contrast(explained, random, peaked)[0].value
    assert gaps["authors"] < -40
    assert abs(gaps["equal_count"]) < 12


def test_removed_pixel_loses_every_channel() -> None:
    images = torch.ones(2, 3, 4, 4)
    maps = torch.zeros(2, 3, 4, 4)
    maps[:, 1, 0, 0] = 1  # one channel alone points at the pixel
    value = torch.tensor([0.5, -1.0, 0.25]).view(1, 3, 1, 1)
    subject = faithfulness.subject(ChannelSum(), images, torch.ones(2, dtype=torch.long), value)
    curve = faithfulness.curve(subject, maps, "equal_count", "comprehensiveness", [1 / 16])
    assert curve.probability.tolist() == [pytest.approx([1 / (1 + math.exp(0.5))] * 2)]
    assert subject.probability.tolist() == pytest.approx([1 / (1 + math.exp(-6))] * 2)


def test_replacement_per_channel() -> None:
    images = torch.stack([torch.tensor([[1.0, 2], [3, 10]]), torch.tensor([[-4.0, 0], [0, 8]])]).unsqueeze(0)
    expected = {"median": [2, 0], "mean": [4, 1], "min": [1, -4], "zero": [0, 0]}
    for how, values in expected.items():
        value = faithfulness.replacement(images, how)  # type: ignore[arg-type]
        assert value.shape == (1, 2, 1, 1)
        assert value.flatten().tolist() == values


def curve_of(probability: list[float]) -> Curve:
    row = torch.tensor([probability])
    return Curve((0.5,), (row > 0.5).float(), row)


def test_constant_maps_are_left_out_and_counted() -> None:
    maps = torch.zeros(3, 1, 2, 2)
    maps[1:, 0, 0, 0] = 1
    _, score = faithfulness.contrast(curve_of([0.0, 0.2, 0.4]), curve_of([1.0, 0.8, 0.8]), maps)
    assert score.value == pytest.approx(50)
    assert score.reason == "2 of 3 samples used; the others are without a map that ranks pixels (constant)"
    _, score = faithfulness.contrast(curve_of([0.0, 0.2, 0.4]), curve_of([1.0, 0.8, 0.8]), torch.ones(3, 1, 2, 2))
    assert math.isnan(score.value)
    assert "all 3 samples" in score.reason


def test_order_of_images_and_batch_size_do_not_matter() -> None:
    images, maps = random_case(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    rows = []
    for chosen, size in ((torch.arange(20), 20), (order, 3)):
        labels = torch.ones(20, dtype=torch.long)
        subject = faithfulness.subject(OnePixel(), images[chosen], labels, torch.tensor(0.0), size)
        curve = faithfulness.curve(subject, maps[chosen], "equal_count", "comprehensiveness", FRACTIONS)
        rows.append(curve.probability[:, chosen.argsort()])
    torch.testing.assert_close(rows[0], rows[1])


def test_float64_and_training_mode_are_kept() -> None:
    images, maps = (tensor.double() for tensor in random_case())
    model = nn.Sequential(OnePixel(), nn.Dropout(0.5)).train()
    value = faithfulness.replacement(images, "mean")
    subject = faithfulness.subject(model, images, torch.ones(12, dtype=torch.long), value)
    curve = faithfulness.curve(subject, maps, "authors", "sufficiency", [0.5])
    assert model.training
    assert curve.probability.dtype == subject.probability.dtype == torch.float64
    again = faithfulness.curve(subject, maps, "authors", "sufficiency", [0.5])
    assert torch.equal(curve.probability, again.probability)
