"""Networks that serve as learner and critic.

A network takes images (B, C, H, W) and returns log-probabilities (B, K). A user
adds one with ``@register("name")`` or names it ``package.module:Class`` in a
configuration; its constructor takes ``channels``, ``image_size`` and ``classes``
by keyword. Its *encoding* is what its first linear layer reads, unless it has an
``encode`` method; Grad-CAM looks at its last convolution, unless it has a
``gradcam_layer``. Its rectifiers are best ``nn.ReLU`` modules: guided
backpropagation sees no others.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lsx.chain import channels_last
from lsx.errors import ConfigError
from lsx.registry import Registry

ModelFactory = Callable[..., nn.Module]
MODELS: Registry[ModelFactory] = Registry("model")
register = MODELS.register


class Layered(nn.Module):
    """A network that is a chain of layers, and so is differentiated by hand (:mod:`lsx.chain`)."""

    flatten: nn.Flatten

    def layers(self) -> list[nn.Module]:
        """The layers in order, the last one log-softmax over the classes."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to what the first linear layer after the convolutions reads, (B, D)."""
        layers = self.layers()
        return _through(layers[: layers.index(self.flatten) + 1], images)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to log-probabilities (B, K)."""
        return _through(self.layers(), images)


def _through(layers: Sequence[nn.Module], images: Tensor) -> Tensor:
    if isinstance(layers[0], nn.Conv2d):
        images = channels_last(images)  # pooling is several times faster
    for layer in layers:
        images = layer(images)
    return images


@register("Net1")
class Net1(Layered):
    """conv 32@3×3, conv 64@3×3, average pool 2, fc 128, fc K (1,199,882 parameters at 28×28×1, K = 10).

    Args:
        channels: C of the images.
        image_size: (H, W), at least 6 × 6.
        classes: K.
    """

    def __init__(self, channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10) -> None:
        super().__init__()
        height, width = ((side - 4) // 2 for side in image_size)
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(_positive(64 * height * width, image_size, 6), 128)
        self.fc2 = nn.Linear(128, classes)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool, self.flatten, self.log_softmax = nn.AvgPool2d(2), nn.Flatten(), nn.LogSoftmax(dim=1)

    def layers(self) -> list[nn.Module]:
        """The layers in order; the encoding is the pooled activations, (B, 9216) at 28 × 28."""
        convolutions = [self.conv1, self.relu1, self.conv2, self.relu2, self.pool]
        return [*convolutions, self.flatten, self.fc1, self.relu3, self.fc2, self.log_softmax]


@register("SimpleConvNet")
class SimpleConvNet(Layered):
    """conv 20@5×5, max pool 2, conv 50@5×5, max pool 2, fc 256, fc K.

    Args:
        channels: C of the images.
        image_size: (H, W), at least 16 × 16.
        classes: K.
    """

    def __init__(self, channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10) -> None:
        super().__init__()
        height, width = (((side - 4) // 2 - 4) // 2 for side in image_size)
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(_positive(50 * height * width, image_size, 16), 256)
        self.fc2 = nn.Linear(256, classes)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool1, self.pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.flatten, self.log_softmax = nn.Flatten(), nn.LogSoftmax(dim=1)

    def layers(self) -> list[nn.Module]:
        """The layers in order; the encoding is the pooled activations, (B, 800) at 28 × 28."""
        convolutions = [self.conv1, self.relu1, self.pool1, self.conv2, self.relu2, self.pool2]
        return [*convolutions, self.flatten, self.fc1, self.relu3, self.fc2, self.log_softmax]


@register("MLP")
class MLP(Layered):
    """fc 256, fc 128, fc K: a control that sees no neighbourhoods (235,146 parameters at 28×28×1, K = 10).

    Args:
        channels: C of the images.
        image_size: (H, W), any.
        classes: K.
    """

    def __init__(self, channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * image_size[0] * image_size[1], 256)
        self.fc2 = nn.Linear(256, 128)
        self.fc3 = nn.Linear(128, classes)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.flatten, self.log_softmax = nn.Flatten(), nn.LogSoftmax(dim=1)

    def layers(self) -> list[nn.Module]:
        """The layers in order; the encoding is the activations of the second one, (B, 128)."""
        return [self.flatten, self.fc1, self.relu1, self.fc2, self.relu2, self.fc3, self.log_softmax]

    def encode(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to the activations of the second layer, (B, 128)."""
        return _through(self.layers()[:5], images)


def build(name: str, image_shape: tuple[int, int, int], classes: int, device: torch.device | str = "cpu") -> nn.Module:
    """A freshly initialised network, its weights drawn from torch's global generator of ``device``.

    Args:
        name: registered model, or ``package.module:Class``.
        image_shape: (C, H, W).
        classes: K.
        device: where the weights are made.

    Raises:
        ConfigError: unknown name, or a constructor that refuses these shapes.
    """
    factory = MODELS.get(name)
    channels, *size = image_shape
    try:
        with torch.device(device):
            return factory(channels=channels, image_size=tuple(size), classes=classes)
    except TypeError as error:
        raise ConfigError(f"model {name!r} must take channels, image_size and classes: {error}") from None


def encode(model: nn.Module, images: Tensor) -> Tensor:
    """The encoding of images: (B, C, H, W) to (B, D).

    Raises:
        ConfigError: the model has neither an ``encode`` method nor a linear layer.
    """
    method = getattr(model, "encode", None)
    if callable(method):
        encoding: Tensor = method(images)
        return encoding.flatten(1)
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Linear)), None)
    if first is None:
        raise ConfigError(f"model {type(model).__name__} needs an encode method: it has no linear layer to read from")
    seen: list[Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(images)
    finally:
        hook.remove()
    return seen[0].flatten(1)


def gradcam_layer(model: nn.Module) -> nn.Module:
    """The layer that Grad-CAM looks at: ``model.gradcam_layer``, else the last convolution.

    Raises:
        ConfigError: the model has neither.
    """
    layer = getattr(model, "gradcam_layer", None)
    if isinstance(layer, nn.Module):
        return layer
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        raise ConfigError(f"Grad-CAM needs a convolution; model {type(model).__name__} has none")
    return convolutions[-1]


def require_log_probabilities(model: nn.Module, images: Tensor, classes: int) -> None:
    """Refuse a network whose outputs are not log-probabilities.

    Args:
        model: on the device of the images.
        images: a few (B, C, H, W).
        classes: K.

    Raises:
        ConfigError: it does not take these images, or gives another shape, or the classes' probabilities do not add up
            to 1, as those of logits do not.
    """
    name = type(model).__name__
    with evaluating(model), torch.no_grad():
        try:
            outputs = model(images)
        except RuntimeError as error:
            raise ConfigError(f"model {name} does not take images of {_by(images.shape[1:])}: {error}") from None
    if not isinstance(outputs, Tensor) or outputs.shape != (len(images), classes):
        shown = _by(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ConfigError(f"model {name} must give log-probabilities ({len(images)}, {classes}) here, not {shown}")
    sums = outputs.exp().sum(dim=1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ConfigError(f"model {name} must give log-probabilities: end its forward with log_softmax(dim=1)")


def _by(sides: Iterable[int]) -> str:
    return " x ".join(map(str, sides))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; its mode before is restored, also after an exception."""
    training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(training)


def _positive(features: int, size: tuple[int, int], least: int) -> int:
    if features <= 0 or min(size) < least:
        raise ConfigError(f"images of {size[0]}x{size[1]} pixels are too small; at least {least}x{least} are needed")
    return features
