"""Passes by hand agree with autograd's, for every layer that a chain may have."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lsx import models
from lsx.chain import chain_of, channels_last, explained
from lsx.explainers.gradient import log_probability

TOLERANCE = 2e-4  # of the norm; sums with both signs lose digits


class Layers(nn.Module):
    """A network of given layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.ModuleList([*layers, nn.LogSoftmax(dim=1)])

    def layers(self) -> list[nn.Module]:
        return list(self.body)

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.body:
            images = layer(images)
        return images


def head(inputs: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(inputs, 7), nn.ReLU(), nn.Linear(7, 4)]


CHAINS: dict[str, Sequence[nn.Module]] = {
    "wide input": [nn.Conv2d(2, 5, 3), nn.ReLU(), *head(5 * 7 * 8)],
    "many channels": [nn.Conv2d(2, 5, 5), nn.ReLU(), nn.Conv2d(5, 3, 2), *head(3 * 4 * 5)],
    "padding, stride, dilation": [nn.Conv2d(2, 4, 3, 2, 1, 2), nn.ReLU(), *head(4 * 4 * 4)],
    "groups": [nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), *head(4 * 7 * 8)],
    "no bias": [nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 8, 4, bias=False)],
    "mean pool": [nn.Conv2d(2, 4, 2), nn.ReLU(), nn.AvgPool2d((2, 3)), *head(4 * 4 * 3)],
    "mean pool with a rest": [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2), *head(4 * 3 * 4)],
    "mean pool with overlap": [nn.Conv2d(2, 4, 2), nn.AvgPool2d(3, 1, 1), nn.ReLU(), *head(4 * 8 * 9)],
    "max pool": [nn.Conv2d(2, 4, 2), nn.MaxPool2d(2), nn.ReLU(), *head(4 * 4 * 4)],
    "max pool with overlap": [nn.Conv2d(2, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *head(4 * 4 * 5)],
    "no convolution": head(2 * 9 * 10),
    "two rectifiers": [nn.Flatten(), nn.Linear(180, 9), nn.ReLU(), nn.ReLU(), nn.Linear(9, 4)],
}


def batch(size: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, targets, and cotangents of the outputs and of the input gradients."""
    torch.manual_seed(1)
    return torch.randn(size, 2, 9, 10), torch.randint(0, 4, (size,)), torch.randn(size, 4), torch.randn(size, 2, 9, 10)


def by_autograd(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    outputs = model(leaf)
    (gradients,) = torch.autograd.grad(log_probability(outputs, targets).sum(), leaf, create_graph=True)
    return outputs, gradients


def away(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm().clamp(min=1e-12))


@pytest.fixture(params=CHAINS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    model = Layers(*copy.deepcopy(CHAINS[request.param]))
    for parameter in model.parameters():  # the defaults of small layers leave most rectifiers open
        nn.init.normal_(parameter, std=0.4)
    return model


def test_outputs_and_input_gradients(model: nn.Module) -> None:
    images, targets, _, _ = batch()
    chain = chain_of(model)
    assert chain is not None
    for found, expected in zip(explained(chain, images, targets), by_autograd(model, images, targets), strict=True):
        assert expected.abs().max() > 1e-3
        assert away(found, expected) < TOLERANCE


@pytest.mark.parametrize(("of_outputs", "of_gradients"), [(1, 0), (0, 1), (1, 1)])
def test_gradients_of_the_weights(model: nn.Module, of_outputs: int, of_gradients: int) -> None:
    images, targets, v, u = batch()
    parameters = list(model.parameters())

    def weight_gradients(both: tuple[Tensor, Tensor]) -> tuple[Tensor | None, ...]:
        loss = sum(
            weight * (one * by).sum() for weight, one, by in ((of_outputs, both[0], v), (of_gradients, both[1], u))
        )
        assert isinstance(loss, Tensor)
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    chain = chain_of(model)
    assert chain is not None
    found, expected = (
        weight_gradients(explained(chain, images, targets)),
        weight_gradients(by_autograd(model, images, targets)),
    )
    for one, other in zip(found, expected, strict=True):
        assert one is not None and other is not None
        assert away(one, other) < TOLERANCE or other.norm() < 1e-6


def test_images_and_weights_stay_as_they_are(model: nn.Module) -> None:
    images, targets, v, u = batch()
    before = [images.clone(), *(parameter.detach().clone() for parameter in model.parameters())]
    chain = chain_of(model)
    assert chain is not None
    outputs, gradients = explained(chain, images, targets)
    cotangent = u.clone()
    torch.autograd.grad((outputs, gradients), list(model.parameters()), (v, cotangent), retain_graph=True)
    again = torch.autograd.grad((outputs, gradients), list(model.parameters()), (v, cotangent))
    assert torch.equal(cotangent, u)
    assert all(torch.equal(*pair) for pair in zip([images, *model.parameters()], before, strict=True))
    for one, other in zip(
        again, torch.autograd.grad(explained(chain, images, targets), list(model.parameters()), (v, u)), strict=True
    ):
        assert torch.equal(one, other)


def test_frozen_weights_get_nothing() -> None:
    torch.manual_seed(0)
    model = models.build("Net1", (1, 28, 28), 10)
    model.conv1.weight.requires_grad_(False)  # type: ignore[union-attr]
    chain = chain_of(model)
    assert chain is not None
    _, gradients = explained(chain, torch.randn(2, 1, 28, 28), torch.tensor([1, 2]))
    gradients.square().sum().backward()
    assert model.conv1.weight.grad is None and model.conv2.weight.grad is not None  # type: ignore[union-attr]


def test_a_network_that_is_sure_keeps_its_digits() -> None:
    """1 − p is 0 in float32 there; its gradient is not."""
    torch.manual_seed(0)
    model = Layers(nn.Flatten(), nn.Linear(180, 4)).double()
    images, targets, _, _ = batch()
    with torch.no_grad():
        model.body[1].bias[:] = torch.tensor([0.0, 0.0, 0.0, 30.0])  # type: ignore[index, union-attr, operator]
    targets = torch.full_like(targets, 3)
    exact = by_autograd(model, images.double(), targets)[1]
    chain = chain_of(model.float())
    assert chain is not None
    assert 0 < exact.abs().max() < 1e-10
    assert away(explained(chain, images, targets)[1].double(), exact) < 1e-4


def test_bfloat16_is_autocasts_and_close() -> None:
    torch.manual_seed(0)
    model = models.build("SimpleConvNet", (1, 28, 28), 10)
    images, targets, u = torch.randn(8, 1, 28, 28), torch.randint(0, 10, (8,)), torch.randn(8, 1, 28, 28)
    parameters = list(model.parameters())
    chain = chain_of(model)
    assert chain is not None

    def weights() -> tuple[Tensor, Tensor]:
        gradients = explained(chain, images, targets)[1]
        return gradients, torch.cat([one.flatten() for one in torch.autograd.grad(gradients, parameters, u)])

    exact, of_exact = weights()
    with torch.autocast("cpu", torch.bfloat16):
        short, of_short = weights()
    assert short.dtype == of_short.dtype == torch.float32
    assert 1e-4 < away(short, exact) < 0.2
    assert torch.cosine_similarity(of_short, of_exact, dim=0) > 0.98


def test_channels_last_also_for_one_channel() -> None:
    for channels in (1, 3):
        images = torch.randn(2, channels, 4, 5)
        assert channels_last(images).stride() == (20 * channels, 1, 5 * channels, channels)
        assert torch.equal(channels_last(images), images)


class Scaled(models.Net1):
    """Says one thing by its layers and does another."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * 2)


class Bare(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


def test_what_is_no_chain() -> None:
    plain = [nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(224, 4)]
    assert chain_of(Layers(*plain)) is not None
    assert chain_of(Bare()) is None
    assert chain_of(Scaled()) is None
    assert chain_of(Layers(nn.Flatten())) is None
    assert chain_of(Layers(nn.ReLU(), *plain)) is None  # would change the caller's images
    assert (
        chain_of(Layers(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(360, 4)))
        is None
    )
    assert chain_of(Layers(*plain[:2], nn.Dropout(), plain[2])) is None
    assert chain_of(Layers(*plain).double()) is None
    hooked = Layers(*plain)
    hooked.body[0].register_forward_hook(lambda *_: None)
    assert chain_of(hooked) is None
    whole = Layers(*plain)
    whole.register_forward_hook(lambda *_: None)
    assert chain_of(whole) is None
    last = Layers(*plain)
    last.body[-1] = nn.LogSoftmax(dim=-1)
    assert chain_of(last) is None
