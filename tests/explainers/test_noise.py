"""Saliency and the explainers that average over noise: closed forms, naive loops, Captum's own results."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, NoiseTunnel, Saliency
from torch import Tensor, nn

from lsx import explainers
from lsx.config import ExplainerConfig
from lsx.explainers import Explainer
from lsx.explainers.noise import MEASURING_SEED
from tests.tiny import images, load, network, unlikely

Use = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""A noisy copy and α, to the factor of the gradient and where it is taken."""

NOISY = ["smoothgrad", "gradient_shap"]


class Pixels(nn.Module):
    """f_k(x) = Σ_i w_ik x_i^power, up to a constant: gradients are known."""

    def __init__(self, power: int, pixels: int = 16, classes: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(pixels, classes, generator=torch.Generator().manual_seed(1)))
        self.power = power

    def forward(self, images: Tensor) -> Tensor:
        return unlikely(images.flatten(1) ** self.power @ self.weight)

    def of(self, targets: Tensor) -> Tensor:
        """(B, 1, 4, 4), the weights of each image's class."""
        return self.weight.detach().T[targets].reshape(-1, 1, 4, 4)


def build(method: str, **options: object) -> Explainer:
    return explainers.build(ExplainerConfig.model_validate({"method": method, **options}))


def some(count: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    values = load("explanations")
    return network(values, "learner"), images(values)[:count], values["y"][:count]


@pytest.mark.parametrize("graph", [False, True])
def test_saliency_is_the_gradients_size(graph: bool) -> None:
    inputs, targets = torch.randn(2, 1, 4, 4), torch.tensor([2, 0])
    raw = build("saliency").attribute(Pixels(2), inputs, targets, create_graph=graph)
    torch.testing.assert_close(raw.detach(), (2 * inputs * Pixels(2).of(targets)).abs())
    model, inputs, targets = some()
    raw = build("saliency").attribute(model, inputs, targets, create_graph=graph)
    torch.testing.assert_close(raw.detach(), Saliency(model).attribute(inputs.clone().requires_grad_(), targets))
    assert raw.requires_grad is graph


@pytest.mark.parametrize("graph", [False, True])
def test_on_a_linear_network_noise_averages_out(graph: bool) -> None:
    """The gradient is the same everywhere, so SmoothGrad is w; GradientSHAP is w ⊙ the mean copy."""
    model, inputs, targets = Pixels(1), torch.randn(2, 1, 4, 4), torch.tensor([2, 0])
    raw = build("smoothgrad", noise=1.0).attribute(model, inputs, targets, create_graph=graph)
    torch.testing.assert_close(raw.detach(), model.of(targets))
    raw = build("gradient_shap", noise=1e-7).attribute(model, inputs, targets, create_graph=graph)
    torch.testing.assert_close(raw.detach(), inputs * model.of(targets), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graph", [False, True])
def test_on_a_quadratic_network_many_copies_reach_the_expectation(graph: bool) -> None:
    """E[2w(x + ε)] = 2wx and E[(x + ε) · 2wα(x + ε)] = w(x² + σ²), σ a share of each image's own range."""
    model, targets = Pixels(2), torch.tensor([2, 0])
    inputs = torch.stack([torch.linspace(-1, 1, 16), torch.linspace(0, 6, 16)]).reshape(2, 1, 4, 4)
    sigma = 0.2 * torch.tensor([2.0, 6.0]).reshape(2, 1, 1, 1)
    torch.manual_seed(0)
    for method, expected in {"smoothgrad": 2 * inputs, "gradient_shap": inputs**2 + sigma**2}.items():
        explainer = build(method, samples=1000, noise=0.2)
        raw = torch.stack([explainer.attribute(model, inputs, targets, create_graph=graph) for _ in range(9)])
        error = raw.detach().mean(0) / model.of(targets) - expected
        # Five standard errors of the mean; without a graph all nine are the same draw.
        spread = {"smoothgrad": 2 * sigma, "gradient_shap": 0.6 * expected + 3 * sigma * (inputs.abs() + sigma)}
        assert (error.abs() < 5 * spread[method] / (9000 if graph else 1000) ** 0.5).all()


def test_noise_has_the_stated_deviation() -> None:
    """One copy on the quadratic network shows its noise: ε = map / 2w − x."""
    model = Pixels(2, 16, 1)
    inputs = torch.linspace(0, 5, 16).expand(4000, 16).reshape(4000, 1, 4, 4)
    torch.manual_seed(0)
    raw = build("smoothgrad", samples=1, noise=0.3).attribute(
        model, inputs, torch.zeros(4000, dtype=torch.long), create_graph=True
    )
    noise = raw.detach() / (2 * model.of(torch.zeros(4000, dtype=torch.long))) - inputs
    assert float(noise.std()) == pytest.approx(1.5, rel=0.02)
    assert abs(float(noise.mean())) < 0.03


def test_smoothgrad_is_captums_noise_tunnel_of_signed_gradients() -> None:
    model, inputs, targets = some()
    span = float(inputs.amax() - inputs.amin())
    inputs[:, 0, 0, :2] = torch.tensor([inputs.amin(), inputs.amax()])  # Captum knows one deviation for all images
    torch.manual_seed(4)
    raw = build("smoothgrad", samples=5, noise=0.15).attribute(model, inputs, targets, create_graph=True)
    torch.manual_seed(4)
    expected = NoiseTunnel(Saliency(model)).attribute(
        inputs, nt_type="smoothgrad", nt_samples=5, stdevs=0.15 * span, target=targets, abs=False
    )
    torch.testing.assert_close(raw.detach(), expected, rtol=1e-4, atol=1e-6)


def test_gradient_shap_is_captums(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, targets = some()
    span = float(inputs.amax() - inputs.amin())
    inputs[:, 0, 0, :2] = torch.tensor([inputs.amin(), inputs.amax()])
    torch.manual_seed(4)
    raw = build("gradient_shap", samples=5, noise=0.15).attribute(model, inputs, targets, create_graph=True)
    torch.manual_seed(4)
    # Captum takes its points from NumPy's global generator.
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: torch.rand(size).numpy())
    expected = GradientShap(model).attribute(
        inputs, torch.zeros_like(inputs[:1]), n_samples=5, stdevs=0.15 * span, target=targets
    )
    torch.testing.assert_close(raw.detach(), expected, rtol=1e-4, atol=1e-6)


def gradient_at(model: nn.Module, point: Tensor, target: Tensor) -> Tensor:
    point = point.clone().requires_grad_()
    model(point.unsqueeze(0))[0, int(target)].backward()
    model.zero_grad()
    assert point.grad is not None
    return point.grad


def loop(
    model: nn.Module, inputs: Tensor, targets: Tensor, use: Callable[[Tensor, float], tuple[Tensor, Tensor]]
) -> Tensor:
    """Image by image, copy by copy, each with the noise of measurements."""
    generator = torch.Generator().manual_seed(MEASURING_SEED)
    noise = torch.randn(4, 1, 28, 28, generator=generator)
    alpha = torch.rand(4, generator=generator)
    maps = []
    for image, target in zip(inputs, targets, strict=True):
        copies = [image + 0.25 * (image.max() - image.min()) * one for one in noise]
        parts = [use(copy, float(a)) for copy, a in zip(copies, alpha, strict=True)]
        maps.append(torch.stack([factor * gradient_at(model, point, target) for factor, point in parts]).mean(0))
    return torch.stack(maps)


@pytest.mark.parametrize(
    ("method", "use"),
    [
        ("smoothgrad", lambda copy, alpha: (torch.ones(()), copy)),
        ("gradient_shap", lambda copy, alpha: (copy, alpha * copy)),
    ],
)
def test_measurements_match_a_naive_loop(method: str, use: Use) -> None:
    model, inputs, targets = some(3)
    raw = build(method, samples=4, noise=0.25).attribute(model, inputs, targets, create_graph=False)
    torch.testing.assert_close(raw, loop(model, inputs, targets, use), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", NOISY)
def test_measurements_depend_on_the_image_alone(method: str) -> None:
    model, inputs, targets = some()
    explainer = build(method, samples=3, normalization="sample")
    before = torch.get_rng_state()
    together = explainer(model, inputs, targets)
    assert torch.equal(torch.get_rng_state(), before)
    alone = torch.cat([explainer(model, inputs[i : i + 1], targets[i : i + 1]) for i in range(len(inputs))])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", NOISY)
def test_training_draws_fresh_noise_from_the_seed(method: str) -> None:
    model, inputs, targets = some(1)
    inputs, targets = inputs.expand(2, -1, -1, -1), targets.expand(2)
    explainer = build(method, samples=3, normalization="sample")

    def explain(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return explainer(model, inputs, targets, create_graph=True).detach()

    one = explain(1)
    assert torch.equal(one, explain(1))
    assert not torch.allclose(one, explain(2), atol=1e-3)
    assert not torch.allclose(one[0], one[1], atol=1e-3)  # the same image twice


@pytest.mark.parametrize("method", NOISY)
def test_settings_bite(method: str) -> None:
    model, inputs, targets = some()
    base = build(method, samples=4)(model, inputs, targets)
    assert build(method, samples=4).evaluations == 4
    assert not torch.allclose(build(method, samples=5)(model, inputs, targets), base, atol=1e-3)
    assert not torch.allclose(build(method, samples=4, noise=0.2)(model, inputs, targets), base, atol=1e-3)


@pytest.mark.parametrize("method", ["saliency", *NOISY])
def test_doubles_stay_doubles(method: str) -> None:
    model, inputs, targets = some(2)
    assert build(method)(model.double(), inputs.double(), targets, create_graph=True).dtype is torch.float64
