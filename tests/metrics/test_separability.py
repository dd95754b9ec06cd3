"""Ridge and IIES: closed forms and degenerate explanations."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lsx.metrics import iies, ridge


def flat(maps: Tensor) -> Tensor:
    return maps.flatten(1)


def separable(per_class: int = 20, classes: int = 3) -> tuple[Tensor, Tensor]:
    labels = torch.arange(classes).repeat(per_class)
    maps = 0.1 * torch.rand(len(labels), 1, 2, 3, generator=torch.Generator().manual_seed(0))
    maps.flatten(1)[torch.arange(len(labels)), labels] += 1
    return maps, labels


def test_ridge_tells_separable_from_shuffled() -> None:
    maps, labels = separable()
    assert ridge(maps, labels).value == 1
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    assert ridge(maps, shuffled).value < 0.75


def test_ridge_fits_the_first_four_fifths() -> None:
    maps, labels = separable()
    wrong = labels.clone()
    wrong[48:] = (wrong[48:] + 1) % 3
    assert ridge(maps, wrong).value == 0  # 12 of 60 are scored, and all of those are mislabelled


def test_iies_closed_form() -> None:
    # Means at (0, 0) and (4, 0); spreads 1 and 2; (1/4 + 2/4) / 2.
    points = torch.tensor([[0.0, 1], [0, -1], [4, 2], [4, -2]])
    score = iies(points.view(4, 1, 1, 2), torch.tensor([3, 3, 8, 8]), flat)
    assert score.value == pytest.approx(0.375)


def test_iies_against_numpy() -> None:
    maps, labels = separable()
    encodings, classes = maps.flatten(1).double().numpy() ** 2, labels.numpy()
    means = {k: encodings[classes == k].mean(axis=0) for k in range(3)}
    ratios = []
    for k in range(3):
        within = np.mean([np.linalg.norm(row - means[k]) for row in encodings[classes == k]])
        ratios.append(within / np.mean([np.linalg.norm(means[j] - means[k]) for j in range(3) if j != k]))
    score = iies(maps, labels, lambda batch: batch.square(), batch_size=7)
    assert score.value == pytest.approx(np.mean(ratios), rel=1e-5)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    assert iies(maps[order], labels[order], torch.square).value == pytest.approx(score.value, rel=1e-5)


@pytest.mark.parametrize("metric", [ridge, lambda maps, labels: iies(maps, labels, flat)])
def test_undefined_with_a_reason(metric: object) -> None:
    maps, labels = separable()
    cases = {
        "all 60 maps are constant": (torch.zeros_like(maps), labels),
        "fewer than two classes": (maps, torch.zeros_like(labels)),
        "not finite": (maps / 0, labels),
    }
    for reason, (bad_maps, bad_labels) in cases.items():
        score = metric(bad_maps, bad_labels)  # type: ignore[operator]
        assert math.isnan(score.value)
        assert reason in score.reason


def test_too_few_samples_are_undefined() -> None:
    maps, labels = separable()
    score = ridge(maps[:1], labels[:1])
    assert math.isnan(score.value)
    assert "first 0 of 1 samples" in score.reason
    labels[0] = 7
    score = iies(maps, labels, flat)
    assert math.isnan(score.value)
    assert score.reason == "class 7 has one sample; every class needs two"


def test_iies_of_coinciding_means_is_undefined() -> None:
    maps = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]]).view(4, 1, 1, 2)
    score = iies(maps, torch.tensor([0, 0, 1, 1]), flat)
    assert math.isnan(score.value)
    assert score.reason == "the class means coincide"
