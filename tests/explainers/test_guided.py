"""Guided Grad-CAM: by hand, and who is refused."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsx import explainers, models
from lsx.config import ExplainerConfig
from lsx.errors import ConfigError
from lsx.explainers import Explainer
from tests.tiny import Tiny


def build() -> Explainer:
    return explainers.build(ExplainerConfig(method="guided_gradcam"))


class GuidedRelu(torch.autograd.Function):
    """A ReLU that lets only positive gradients through."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        context.save_for_backward(values)
        return values.clamp(min=0)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (values,) = context.saved_tensors
        return gradient.clamp(min=0) * (values > 0)


def by_hand(model: models.Net1, images: Tensor, targets: Tensor) -> Tensor:
    def tail(features: Tensor, relu: object) -> Tensor:
        hidden = relu(model.fc1(F.avg_pool2d(relu(features), 2).flatten(1)))
        return model.fc2(hidden).log_softmax(1).gather(1, targets[:, None]).sum()

    features = model.conv2(F.relu(model.conv1(images))).detach().requires_grad_()
    (slope,) = torch.autograd.grad(tail(features, F.relu), features)
    cam = (slope.mean((2, 3), keepdim=True) * features.detach()).sum(1, keepdim=True).clamp(min=0)
    leaf = images.clone().requires_grad_()
    score = tail(model.conv2(GuidedRelu.apply(model.conv1(leaf))), GuidedRelu.apply)
    (guided,) = torch.autograd.grad(score, leaf)
    return guided * F.interpolate(cam, images.shape[2:])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 4])
def test_it_is_guided_backpropagation_times_gradcam(channels: int, count: int) -> None:
    torch.manual_seed(0)
    model = models.build("Net1", (channels, 12, 14), 5)
    images, targets = torch.randn(count, channels, 12, 14), torch.arange(count)
    raw = build().attribute(model, images, targets, create_graph=False)
    torch.testing.assert_close(raw, by_hand(model, images, targets), rtol=1e-4, atol=1e-7)
    assert raw.abs().sum() > 0
    explanation = build()(model, images, targets)
    assert explanation.max() == 1 and explanation.min() == 0


def test_nothing_is_left_on_the_network_and_nobody_is_warned() -> None:
    model = models.build("SimpleConvNet", (1, 28, 28), 10)
    images, targets = torch.randn(2, 1, 28, 28), torch.tensor([3, 4])
    plain = explainers.build(ExplainerConfig())(model, images, targets)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        build()(model, images, targets)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())
    assert torch.equal(explainers.build(ExplainerConfig())(model, images, targets), plain)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_is_not_to_be_trained_with() -> None:
    with pytest.raises(
        ConfigError, match="explainer 'guided_gradcam' is for evaluation only: its gradient is"
    ) as error:
        build()(models.build("Net1", (1, 8, 8), 3), torch.randn(2, 1, 8, 8), torch.tensor([0, 1]), create_graph=True)
    assert "\n" not in str(error.value)
    assert not build().trains_learner


class Mixed(Tiny):
    """One ReLU is a module, the other is not."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        features = F.avg_pool2d(self.relu(self.conv2(F.relu(self.conv1(images)))), 2).flatten(1)
        return self.fc(features).log_softmax(1)


class Smooth(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(F.avg_pool2d(self.conv2(self.conv1(images)), 2).flatten(1)).log_softmax(1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Tiny, r"model Tiny computes 2 ReLU\(s\) by function calls"),
        (Mixed, r"model Mixed computes 1 ReLU\(s\) by function calls"),
        (Smooth, "model Smooth has none"),
        (models.MLP, "Grad-CAM needs a convolution; model MLP has none"),
    ],
)
def test_a_network_that_cannot_be_guided_is_one_clear_line(model: type[nn.Module], message: str) -> None:
    network = model()
    with pytest.raises(ConfigError, match=message) as error:
        build()(network, torch.randn(2, 1, 28, 28), torch.tensor([0, 1]))
    assert "\n" not in str(error.value)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_one_relu_module_may_be_used_twice() -> None:
    class Shared(Mixed):
        def forward(self, images: Tensor) -> Tensor:
            hidden = self.relu(self.conv2(self.relu(self.conv1(images))))
            return self.fc(F.avg_pool2d(hidden, 2).flatten(1)).log_softmax(1)

    class Apart(Shared):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.ReLU()

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.relu(self.conv2(self.other(self.conv1(images))))
            return self.fc(F.avg_pool2d(hidden, 2).flatten(1)).log_softmax(1)

    shared, apart = Shared(), Apart()
    apart.load_state_dict(shared.state_dict())
    images, targets = torch.randn(2, 1, 28, 28), torch.tensor([0, 1])
    maps = build()(shared, images, targets)
    assert maps.any() and torch.equal(maps, build()(apart, images, targets))
