"""Networks: shapes, sizes, encodings, and a user's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsx import models
from lsx.errors import ConfigError
from tests.tiny import Tiny


@pytest.mark.parametrize(
    ("name", "parameters", "encoding"), [("Net1", 1_199_882, 9216), ("SimpleConvNet", 233_196, 800)]
)
def test_networks_are_the_published_ones(name: str, parameters: int, encoding: int) -> None:
    model = models.build(name, (1, 28, 28), 10)
    images = torch.randn(3, 1, 28, 28)
    log_probabilities = model(images)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert log_probabilities.shape == (3, 10)
    torch.testing.assert_close(log_probabilities.exp().sum(1), torch.ones(3))
    assert models.encode(model, images).shape == (3, encoding)
    assert models.gradcam_layer(model) is model.conv2


def test_the_mlp_control_sees_pixels_only() -> None:
    """Against its formula; its output does not depend on where a pixel lies, if its weights move along."""
    torch.manual_seed(0)
    model = models.build("MLP", (1, 28, 28), 10)
    images = torch.randn(3, 1, 28, 28)
    assert sum(p.numel() for p in model.parameters()) == 235_146
    hidden = (images.flatten(1) @ model.fc1.weight.T + model.fc1.bias).clamp(min=0)
    encoding = (hidden @ model.fc2.weight.T + model.fc2.bias).clamp(min=0)
    torch.testing.assert_close(models.encode(model, images), encoding)
    torch.testing.assert_close(model(images), (encoding @ model.fc3.weight.T + model.fc3.bias).log_softmax(1))
    order = torch.randperm(784)
    shuffled = images.flatten(1)[:, order].reshape(images.shape)
    expected = model(images)
    model.fc1.weight.data = model.fc1.weight.data[:, order]
    torch.testing.assert_close(model(shuffled), expected)
    with pytest.raises(ConfigError, match="Grad-CAM needs a convolution; model MLP has none"):
        models.gradcam_layer(model)


def functional(model: nn.Module, images: Tensor) -> Tensor:
    """The convolutional networks of the paper without a module for their ReLUs."""
    pool = F.avg_pool2d if isinstance(model, models.Net1) else F.max_pool2d
    hidden = F.relu(model.conv1(images))
    hidden = F.relu(model.conv2(hidden if isinstance(model, models.Net1) else pool(hidden, 2)))
    return model.fc2(F.relu(model.fc1(pool(hidden, 2).flatten(1)))).log_softmax(1)


@pytest.mark.parametrize("name", ["Net1", "SimpleConvNet"])
def test_layers_change_neither_outputs_nor_the_names_of_weights(name: str) -> None:
    model = models.build(name, (1, 28, 28), 10)
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(model(images), functional(model, images))
    layers = ("conv1", "conv2", "fc1", "fc2")
    assert list(model.state_dict()) == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", ["Net1", "SimpleConvNet", "MLP"])
def test_any_channels_and_sizes(name: str, channels: int) -> None:
    model = models.build(name, (channels, 32, 41), 4)
    output = model(torch.randn(2, channels, 32, 41))
    torch.testing.assert_close(output.exp().sum(1), torch.ones(2))
    assert output.shape == (2, 4)


@pytest.mark.parametrize("name", ["Net1", "SimpleConvNet"])
def test_too_small_images_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="images of 5x5 pixels are too small"):
        models.build(name, (1, 5, 5), 10)


def test_weights_come_from_the_global_generator() -> None:
    torch.manual_seed(1)
    one = models.build("Net1", (1, 28, 28), 10)
    other = models.build("Net1", (1, 28, 28), 10)
    torch.manual_seed(1)
    again = models.build("Net1", (1, 28, 28), 10)
    assert torch.equal(one.fc1.weight, again.fc1.weight)
    assert not torch.equal(one.fc1.weight, other.fc1.weight)


def test_encoding_without_a_method_is_what_the_first_linear_layer_reads() -> None:
    model = Tiny()
    images = torch.randn(2, 1, 28, 28)
    encoding = models.encode(model, images)
    assert encoding.shape == (2, 200)
    torch.testing.assert_close(model.fc(encoding).log_softmax(1), model(images))


class Linear(nn.Module):
    """A network of a user's, with its own encoding and no convolution."""

    def __init__(self, channels: int, image_size: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels * image_size[0] * image_size[1], classes)

    def encode(self, images: Tensor) -> Tensor:
        return images.flatten(1) * 2

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)).log_softmax(1)


def test_a_user_adds_a_network_by_name_or_path() -> None:
    models.register("linear_for_test")(Linear)
    assert isinstance(models.build("linear_for_test", (1, 4, 4), 3), Linear)
    model = models.build("tests.test_models:Linear", (1, 4, 4), 3)
    images = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(models.encode(model, images), images.flatten(1) * 2)
    with pytest.raises(ConfigError, match="Grad-CAM needs a convolution; model Linear has none"):
        models.gradcam_layer(model)
    with pytest.raises(ConfigError, match="registered already"):
        models.register("linear_for_test")(Tiny)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Net2", "unknown model 'Net2'; did you mean 'Net1'? Valid: .*Net1.*SimpleConvNet"),
        ("nowhere:Net", "model 'nowhere:Net' cannot be imported"),
        ("torch.nn:Linear", "model 'torch.nn:Linear' must take channels, image_size and classes"),
    ],
)
def test_bad_names(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        models.build(name, (1, 28, 28), 10)


def test_no_encoding_and_no_linear_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs an encode method"):
        models.encode(nn.Sequential(nn.Flatten()), torch.zeros(1, 1, 2, 2))


def test_mode_is_restored_after_an_exception() -> None:
    model = Tiny().train()
    with pytest.raises(RuntimeError), models.evaluating(model):
        assert not model.training
        raise RuntimeError
    assert model.training
