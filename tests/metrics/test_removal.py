"""Deletion and insertion: a loop over pixels, closed forms, degenerate maps."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lsx.metrics import deletion_auc, faithfulness, insertion_auc

SIZE = 4


class Share(nn.Module):
    """Class 0 with probability 0.5 + 0.5 · (share of bright pixels), whichever they are."""

    def forward(self, images: Tensor) -> Tensor:
        probability = 0.5 + 0.5 * images.mean(dim=(1, 2, 3))
        return torch.stack([probability, 1 - probability], dim=1).clamp(min=1e-12).log()


class Weighted(nn.Module):
    """Class 0 with probability 0.3 + 0.6 · Σ w x, Σ w = 1."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.rand(SIZE * SIZE, generator=torch.Generator().manual_seed(4))
        self.weights = nn.Parameter(weights / weights.sum(), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        probability = 0.3 + 0.6 * images.flatten(1) @ self.weights
        return torch.stack([probability, 1 - probability], dim=1).log()


def subject_of(model: nn.Module, images: Tensor, value: float = 0.0) -> faithfulness.Subject:
    labels = torch.zeros(len(images), dtype=torch.long)
    return faithfulness.subject(model, images, labels, torch.tensor(value), batch_size=3)


def maps_of(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def test_an_order_that_does_not_matter_has_the_area_of_a_line() -> None:
    images = torch.ones(5, 1, SIZE, SIZE)
    for area in (deletion_auc, insertion_auc):
        assert area(subject_of(Share(), images), maps_of(5), 16).tolist() == pytest.approx([0.75] * 5)
        # Steps that are no whole number of pixels, and more steps than pixels.
        assert area(subject_of(Share(), images), maps_of(5), 5).tolist() == pytest.approx([0.75] * 5)
        assert area(subject_of(Share(), images), maps_of(5), 1000).tolist() == pytest.approx([0.75] * 5)


@pytest.mark.parametrize("steps", [16, 5])
def test_against_a_loop_over_pixels(steps: int) -> None:
    model, images, maps = Weighted(), maps_of(6, seed=1) * 0.5 + 0.5, maps_of(6, seed=2)
    weights, value = model.weights.numpy().astype(float), 0.25
    ends = [round(step / steps * 16) for step in range(steps + 1)]
    expected: dict[str, list[float]] = {"deletion": [], "insertion": []}
    for image, values in zip(images.numpy().reshape(6, 16), maps.numpy().reshape(6, 16), strict=True):
        order = np.argsort(-values)
        for name, curve in expected.items():
            probabilities = []
            for end in ends:
                changed = np.full(16, value) if name == "insertion" else image.astype(float).copy()
                changed[order[:end]] = image[order[:end]] if name == "insertion" else value
                probabilities.append(0.3 + 0.6 * changed @ weights)
            curve.append(np.trapezoid(probabilities, np.array(ends) / 16))
    subject = subject_of(model, images, value)
    assert subject.predicted.eq(0).all()
    assert deletion_auc(subject, maps, steps).tolist() == pytest.approx(expected["deletion"], rel=1e-5)
    assert insertion_auc(subject, maps, steps).tolist() == pytest.approx(expected["insertion"], rel=1e-5)


def test_the_right_order_is_best_and_its_reverse_worst() -> None:
    model, images = Weighted(), torch.ones(1, 1, SIZE, SIZE)
    right = model.weights.view(1, 1, SIZE, SIZE)
    subject = subject_of(model, images)
    deletion, insertion = deletion_auc(subject, right, 16), insertion_auc(subject, right, 16)
    for seed in range(10, 30):
        assert deletion < deletion_auc(subject, maps_of(1, seed), 16) < deletion_auc(subject, -right, 16)
        assert insertion > insertion_auc(subject, maps_of(1, seed), 16) > insertion_auc(subject, -right, 16)


def test_constant_maps_are_nan_and_ties_are_seeded() -> None:
    maps = maps_of(4)
    maps[0], maps[1] = 0, 0.7
    maps[2] = (maps[2] > 0.5).float()
    maps[3, 0, 0, 0] = math.nan
    subject = subject_of(Weighted(), torch.ones(4, 1, SIZE, SIZE))
    for area in (deletion_auc, insertion_auc):
        values = area(subject, maps, 8)
        assert values.isnan().tolist() == [True, True, False, True]
        assert area(subject, maps, 8)[2] == values[2]
        assert area(subject, maps, 8, seed=1)[2] != values[2]
