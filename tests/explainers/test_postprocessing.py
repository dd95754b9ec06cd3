"""Normalisation, targets, degenerate maps, user explainers."""

import pytest
import torch
from torch import Tensor, nn

from lsx import explainers
from lsx.config import ExplainerConfig
from lsx.errors import ConfigError
from lsx.explainers import Explainer, InputXGradientExplainer
from lsx.explainers.base import scale
from tests.tiny import images, load, network, unlikely

EXACT = ["input_x_gradient", "integrated_gradient", "input_x_integrated_gradient", "gradcam", "saliency"]
METHODS = [*EXACT, "smoothgrad", "gradient_shap"]


def test_batch_and_sample_normalization() -> None:
    values = load("explanations")
    model, inputs, labels = network(values, "learner"), images(values), values["y"]
    batch = explainers.build(ExplainerConfig(normalization="batch"))(model, inputs, labels)
    sample = explainers.build(ExplainerConfig(normalization="sample"))(model, inputs, labels)
    assert batch.max() == 1
    assert batch.amax((1, 2, 3)).min() < 0.99
    torch.testing.assert_close(sample.amax((1, 2, 3)), torch.ones(16))
    torch.testing.assert_close(sample, batch / batch.amax((1, 2, 3), keepdim=True))


def test_groups_are_batches_of_their_own() -> None:
    values = load("explanations")
    model, inputs, labels = network(values, "learner"), images(values), values["y"]
    explainer = explainers.build(ExplainerConfig())
    apart = torch.cat([explainer(model, inputs[i : i + 4], labels[i : i + 4]) for i in range(0, 16, 4)])
    torch.testing.assert_close(explainer(model, inputs, labels, group=4), apart)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("method", EXACT)
def test_one_image_at_a_time_equals_the_batch(method: str, create_graph: bool) -> None:
    values = load("explanations")
    model, inputs, labels = network(values, "learner"), images(values)[:4], values["y"][:4]
    explainer = explainers.build(ExplainerConfig(method=method, normalization="sample"))
    together = explainer(model, inputs, labels, create_graph=create_graph)
    alone = [explainer(model, inputs[i : i + 1], labels[i : i + 1], create_graph=create_graph) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


def test_predicted_target_ignores_labels() -> None:
    values = load("explanations")
    model, inputs, labels = network(values, "learner"), images(values), values["y"]
    explainer = explainers.build(ExplainerConfig(target="predicted"))
    torch.testing.assert_close(explainer(model, inputs, labels), explainer(model, inputs, (labels + 1) % 10))
    by_hand = explainers.build(ExplainerConfig())(model, inputs, model(inputs).argmax(1))
    torch.testing.assert_close(explainer(model, inputs, labels), by_hand)


@pytest.mark.parametrize("normalization", ["batch", "sample"])
@pytest.mark.parametrize("method", METHODS)
def test_blank_images_give_no_nan_in_value_or_gradient(method: str, normalization: str) -> None:
    values = load("explanations")
    model = network(values, "learner")
    explainer = explainers.build(ExplainerConfig(method=method, normalization=normalization, steps=3))
    explanation = explainer(model, torch.zeros(4, 1, 28, 28), torch.arange(4), create_graph=True)
    assert torch.isfinite(explanation).all()
    gradients = torch.autograd.grad(explanation.sum(), model.parameters(), allow_unused=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


def test_a_group_without_positive_attribution_is_zero_and_others_are_not() -> None:
    maps = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [4.0, 0.0]]).reshape(4, 1, 1, 2)
    assert scale(maps, 2).flatten().tolist() == [0, 0, 0, 0, 0.25, 0.5, 1, 0]


@pytest.mark.parametrize("method", ["input_x_gradient", "saliency", "integrated_gradient"])
def test_a_saturated_network_gives_no_nan(method: str) -> None:
    """Far from every decision the log-probability's derivative underflows, and per-image scaling divides by it."""
    values = load("explanations")
    inputs = images(values)
    for factor in (30.0, 100.0, 300.0, 1000.0):
        model = network(values, "learner")
        with torch.no_grad():
            model.fc.weight.mul_(factor)
            model.fc.bias.mul_(factor)
        labels = model(inputs).argmax(dim=1)
        explainer = explainers.build(ExplainerConfig(method=method, normalization="sample", steps=3))
        maps = explainer(model, inputs, labels, create_graph=True)
        gradients = torch.autograd.grad(maps.square().mean() * 1000, list(model.parameters()))
        assert maps.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients), factor


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradient", "gradcam"])
def test_maps_of_a_network_that_is_sure_keep_their_digits(method: str) -> None:
    """float32 against float64, where 1 − p is far below float32's resolution."""
    values = load("explanations")
    model, inputs = network(values, "learner"), images(values)
    with torch.no_grad():
        model.fc.weight.mul_(25)
        model.fc.bias.mul_(25)
        sure = model(inputs).max(dim=1)
        assert float((-sure.values).median()) < 1e-7
    explainer = explainers.build(ExplainerConfig(method=method, normalization="sample", steps=4))
    maps = explainer(model, inputs, sure.indices)
    exact = explainer(model.double(), inputs.double(), sure.indices)
    torch.testing.assert_close(maps.double(), exact, rtol=1e-3, atol=1e-3)


def test_explanations_work_under_no_grad_and_in_evaluation_mode() -> None:
    values = load("explanations")
    model = network(values, "learner").eval()
    for method in METHODS:
        with torch.no_grad():
            explanation = explainers.build(ExplainerConfig(method=method, steps=3))(model, images(values), values["y"])
        assert not explanation.requires_grad
        assert explanation.abs().sum() > 0
        assert all(parameter.grad is None for parameter in model.parameters())


class Falling(nn.Module):
    """Every class's output falls with every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(-torch.rand(16, 3) - 0.1)

    def forward(self, images: Tensor) -> Tensor:
        return unlikely(images.flatten(1) @ self.weight)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"gradcam", "saliency"}))
def test_a_batch_without_positive_attribution_is_zero_and_its_gradient_too(method: str) -> None:
    torch.manual_seed(0)
    model, bright = Falling(), 5 + torch.rand(2, 1, 4, 4)
    explanation = explainers.build(ExplainerConfig(method=method, steps=3))(
        model, bright, torch.tensor([0, 2]), create_graph=True
    )
    assert not explanation.any()
    (gradient,) = torch.autograd.grad(explanation.sum(), [model.weight])
    assert not gradient.any()


class Absolute(InputXGradientExplainer):
    """A user's own explainer: |x ⊙ gradient|."""

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        return super().attribute(model, images, targets, create_graph=create_graph).abs()


def test_a_user_adds_an_explainer_by_path_or_name() -> None:
    by_path = explainers.build(ExplainerConfig(method="tests.explainers.test_postprocessing:Absolute"))
    assert isinstance(by_path, Absolute)
    explainers.register("absolute_for_test")(Absolute)
    assert isinstance(explainers.build(ExplainerConfig(method="absolute_for_test")), Absolute)


@pytest.mark.parametrize(
    "name",
    ["input_x_gradien", "nowhere:Thing", "tests.tiny:Tiny", "tests.tiny:Missing", "lsx.explainers:Explainer"],
)
def test_unknown_explainers_are_one_clear_line(name: str) -> None:
    with pytest.raises(ConfigError, match="explainer") as caught:
        explainers.build(ExplainerConfig(method=name))
    assert "\n" not in str(caught.value)
    assert issubclass(caught.type, ValueError)
    assert isinstance(Explainer, type)
