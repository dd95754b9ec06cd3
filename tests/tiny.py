"""The reference network and the reference values (numbers that the method's authors' code produced)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

REFERENCE = Path(__file__).parent / "reference"


class Tiny(nn.Module):
    """conv 4@5×5 stride 2, conv 8@3×3, average pool 2, fc 10: a 200-d encoding."""

    def __init__(self, channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 5, stride=2)
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.fc = nn.Linear(200, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = F.avg_pool2d(F.relu(self.conv2(F.relu(self.conv1(images)))), 2).flatten(1)
        return F.log_softmax(self.fc(features), dim=1)


class TinyChain(Tiny):
    """The same, differentiated by hand."""

    def layers(self) -> list[nn.Module]:
        last = [nn.AvgPool2d(2), nn.Flatten(), self.fc, nn.LogSoftmax(dim=1)]
        return [self.conv1, nn.ReLU(), self.conv2, nn.ReLU(), *last]

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


def unlikely(values: Tensor) -> Tensor:
    """Any numbers (B, K) as log-probabilities (B, K + 1), less a constant: the last class has all the probability."""
    return torch.cat([values - 1e4, torch.zeros_like(values[:, :1])], dim=1)


def load(name: str, folder: Path = REFERENCE / "tiny") -> dict[str, Tensor]:
    """The arrays of one reference file as tensors; 0-d ones too."""
    with np.load(folder / f"{name}.npz") as file:
        return {key: torch.as_tensor(file[key]) for key in file.files}


def weights(values: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below ``prefix/``, as a state dict."""
    return {key.removeprefix(f"{prefix}/"): value for key, value in values.items() if key.startswith(f"{prefix}/")}


def network(values: Mapping[str, Tensor], prefix: str, factory: type[Tiny] = Tiny) -> Tiny:
    """The reference network with the weights below ``prefix/``."""
    model = factory()
    model.load_state_dict(weights(values, prefix))
    return model


def images(values: Mapping[str, Tensor], key: str = "x_uint8") -> Tensor:
    """Stored uint8 images, normalised: float32 (N, 1, 28, 28)."""
    return (values[key].float() / 255 - 0.1307) / 0.3081


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖."""
    return float((actual.detach() - expected).norm() / expected.norm())
