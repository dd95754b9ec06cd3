"""Infidelity and max-sensitivity: NumPy loops over the same noise, closed forms, degenerate maps."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lsx.metrics import infidelity, max_sensitivity

COUNT, SIZE, COPIES = 5, 3, 8
IMAGES = torch.rand(COUNT, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 0, 1, 1])


class Linear(nn.Module):
    """Class 0 with probability 0.5 + 0.01 · w x; class 1 with the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * SIZE * SIZE, generator=torch.Generator().manual_seed(1)))

    def forward(self, images: Tensor) -> Tensor:
        probability = 0.5 + 0.01 * images.flatten(1) @ self.weight
        return torch.stack([probability, 1 - probability], dim=1).log()


def gradients(model: Linear) -> Tensor:
    sign = torch.where(TARGETS == 0, 1.0, -1.0).view(-1, 1)
    return (sign * model.weight.detach()).view(COUNT, 2, SIZE, SIZE)


def measured(model: nn.Module, maps: Tensor, **changes: float) -> Tensor:
    settings = {"noise": 0.1, "copies": COPIES, "batch_size": COUNT} | changes
    return infidelity(model, IMAGES, maps, TARGETS, **settings)  # type: ignore[arg-type]


def test_infidelity_of_a_linear_models_gradient_is_nothing() -> None:
    model = Linear()
    right = measured(model, gradients(model))
    assert right.tolist() == pytest.approx([0] * COUNT, abs=1e-9)
    wrong = measured(model, gradients(model).flip(1))
    assert (wrong > 1e-6).all()
    assert measured(model, 50 * gradients(model).flip(1)).tolist() == pytest.approx(wrong.tolist(), rel=1e-3)
    assert measured(model, -gradients(model)).tolist() == pytest.approx([0] * COUNT, abs=1e-9)  # β has either sign


def test_infidelity_against_numpy() -> None:
    """All copies in one Captum batch, so that the noise is one draw."""
    model, maps = Linear().double(), torch.rand(1, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(7)).double()
    image, weight = IMAGES[:1].double(), model.weight.detach().numpy()
    noise = torch.Generator().manual_seed(3)
    span = float(image.max() - image.min())
    products, changes = [], []
    for _ in range(COPIES):
        shift = 0.2 * span * torch.randn(1, 2, SIZE, SIZE, generator=noise).double().numpy().ravel()
        before, after = (0.5 + 0.01 * weight @ x for x in (image.numpy().ravel(), image.numpy().ravel() - shift))
        products.append(shift @ maps.numpy().ravel())
        changes.append(before - after)
    products, changes = np.array(products), np.array(changes)
    scale = (products * changes).sum() / (products**2).sum()
    expected = ((scale * products - changes) ** 2).mean()
    value = infidelity(model, image, maps, torch.tensor([0]), noise=0.2, copies=COPIES, seed=3)
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_sensitivity_against_numpy() -> None:
    image = IMAGES[:1].double()
    noise = torch.Generator().manual_seed(3)
    span = float(image.max() - image.min())
    base = image.numpy() ** 2
    found = []
    for _ in range(COPIES):
        shift = 0.2 * span * (2 * torch.rand(1, 2, SIZE, SIZE, generator=noise).double().numpy() - 1)
        found.append(np.linalg.norm((image.numpy() + shift) ** 2 - base) / np.linalg.norm(base))
    value = max_sensitivity(
        lambda images, targets: images**2, image, torch.tensor([0]), radius=0.2, copies=COPIES, seed=3
    )
    assert float(value) == pytest.approx(max(found), rel=1e-6)


def test_sensitivity_keeps_the_class_of_each_image() -> None:
    seen: list[Tensor] = []

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets)
        return images * (1 + targets.view(-1, 1, 1, 1))

    values = max_sensitivity(explain, IMAGES, TARGETS, radius=0.1, copies=COPIES, batch_size=2)
    assert values.shape == (COUNT,)
    assert {len(targets) for targets in seen} == {2, 1}
    assert all(targets.tolist() in ([0, 1], [0, 1], [1]) for targets in seen)
    # A map that is the scaled image moves with it, by no more than the noise.
    norms = IMAGES.flatten(1).norm(dim=1)
    span = IMAGES.amax(dim=(1, 2, 3)) - IMAGES.amin(dim=(1, 2, 3))
    assert (values <= 0.1 * span * (2 * SIZE * SIZE) ** 0.5 / norms).all()
    assert (values > 0).all()


def test_a_map_that_ignores_the_image_is_perfectly_insensitive_and_a_constant_one_is_nothing() -> None:
    fixed = torch.rand(1, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
    settings = {"radius": 0.1, "copies": 4}
    values = max_sensitivity(lambda images, targets: fixed.expand_as(images), IMAGES, TARGETS, **settings)  # type: ignore[arg-type]
    assert values.tolist() == [0] * COUNT
    values = max_sensitivity(lambda images, targets: 0 * images, IMAGES, TARGETS, **settings)  # type: ignore[arg-type]
    assert values.isnan().all()
    maps = fixed.repeat(COUNT, 1, 1, 1)
    maps[1], maps[2] = 0, 0.5
    assert measured(Linear(), maps).isnan().tolist() == [False, True, True, False, False]


def test_a_model_that_ignores_the_image_has_no_infidelity() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 2), 0.5).log()

    assert measured(Constant(), torch.rand_like(IMAGES)).tolist() == [0] * COUNT


def test_noise_is_seeded_and_mode_is_kept() -> None:
    model = nn.Sequential(Linear(), nn.Dropout(0.5)).train()
    maps = gradients(model[0]).flip(1)  # type: ignore[arg-type]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = measured(model, maps)
    assert torch.equal(torch.get_rng_state(), before) and model.training
    assert torch.equal(measured(model, maps), first)
    assert not torch.equal(measured(model, maps, seed=1), first)
