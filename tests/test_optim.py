"""Our Adadelta is torch's, bit for bit."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lsx.optim import BLOCK, Adadelta, optimizer


def trained(kind: type[torch.optim.Optimizer], steps: int, state: Any = None, **settings: Any) -> tuple[Any, Any]:
    """Weights after some steps, and the optimiser's state."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((2 * BLOCK + 3,), (7, 5), ())]
    optim = kind(weights, **settings)
    if state is not None:
        optim.load_state_dict(copy.deepcopy(state))
    for _ in range(steps):
        for weight in weights[:2]:  # the last one never gets a gradient
            weight.grad = torch.randn(weight.shape, generator=generator)
        optim.step()
    return weights, optim.state_dict()


@pytest.mark.parametrize(
    "settings", [{"lr": 0.2}, {"lr": 0.05, "rho": 0.8, "eps": 1e-3}, {"lr": 1.0, "weight_decay": 0.1}]
)
def test_adadelta_is_torchs(settings: dict[str, float]) -> None:
    found, expected = (trained(kind, 3, **settings) for kind in (Adadelta, torch.optim.Adadelta))
    assert all(torch.equal(*pair) for pair in zip(found[0], expected[0], strict=True))
    assert found[1]["state"].keys() == expected[1]["state"].keys() == {0, 1}
    for one, other in zip(found[1]["state"].values(), expected[1]["state"].values(), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_states_are_exchanged_with_torchs() -> None:
    _, state = trained(torch.optim.Adadelta, 2, lr=0.2)
    found, expected = (trained(kind, 2, state, lr=0.2)[0] for kind in (Adadelta, torch.optim.Adadelta))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_gradients_in_another_order_of_memory() -> None:
    weight, other = (nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    for each in (weight, other):
        each.grad = torch.arange(12.0).view(4, 3).t()
    optimizer("adadelta", [weight], 0.1).step()
    torch.optim.Adadelta([other], lr=0.1).step()
    assert torch.equal(weight, other)


def test_it_goes_through_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with gradients as convolutions give them, channels last."""
    monkeypatch.setattr(torch.optim.Adadelta, "step", None)  # left to torch, it would fail
    weight = nn.Parameter(torch.ones(2, 3, 3, 3))
    weight.grad = torch.rand(2, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    optimizer("adadelta", [weight], 0.1).step()
    assert not torch.equal(weight, torch.ones(2, 3, 3, 3))
