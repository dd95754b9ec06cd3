"""The layers of a chain: each one's map, its linear map, the transpose of that, and its weight gradients."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten
Layer = TypeVar("Layer", bound=nn.Module)
NARROW = 32  # C·kh·kw up to which an input gradient is a product and a few shifted sums


class Link(ABC, Generic[Layer]):
    """One layer.

    Attributes:
        parameters: weight, or weight and bias, or none.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.parameters = list(layer.parameters())

    @abstractmethod
    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Any]:
        """The output, and what the other passes must know of it."""

    @abstractmethod
    def tangent(self, t: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        """The linear map, at the input x."""

    @abstractmethod
    def transposed(self, g: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        """The transposed linear map."""

    def products(self, x: Tensor, g: Tensor, parameters: Sequence[Tensor], *, bias: bool) -> list[Tensor]:
        """Gradients of the weight, and of the bias if asked for and there, from an input and an output's gradient."""
        return []


class Convolution(Link[nn.Conv2d]):
    """``nn.Conv2d``, zero-padded."""

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, None]:
        return self._convolved(x, *parameters), None

    def tangent(self, t: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        return self._convolved(t, parameters[0])

    def transposed(self, g: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        if self._narrow:
            return self._shifted_sums(g, x, parameters[0])
        found: Tensor = self._backward(g, x, parameters, [True, False, False])[0]
        return found

    def products(self, x: Tensor, g: Tensor, parameters: Sequence[Tensor], *, bias: bool) -> list[Tensor]:
        wanted = bias and len(parameters) > 1
        _, weight, of_bias = self._backward(g, x, parameters, [False, True, wanted])
        return [weight, of_bias] if wanted else [weight]

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        own = self.layer
        return F.conv2d(x, weight, bias, own.stride, own.padding, own.dilation, own.groups)

    def _backward(self, g: Tensor, x: Tensor, parameters: Sequence[Tensor], mask: list[bool]) -> Any:
        own, sizes = self.layer, [len(parameters[0])]
        return aten.convolution_backward(
            g, x, parameters[0], sizes, own.stride, own.padding, own.dilation, False, [0, 0], own.groups, mask
        )

    @property
    def _narrow(self) -> bool:
        """Few input values per output value: a convolution kernel would leave most of a vector unit idle."""
        own = self.layer
        plain = own.stride == (1, 1) and own.padding == (0, 0) and own.dilation == (1, 1) and own.groups == 1
        on_cpu = own.weight.device.type == "cpu"
        return plain and on_cpu and own.in_channels * own.kernel_size[0] * own.kernel_size[1] <= NARROW

    def _shifted_sums(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows, columns = weight.shape[2:]
        outputs = g.permute(0, 2, 3, 1).reshape(-1, g.shape[1])
        parts = torch.mm(weight.flatten(1).t(), outputs.t())
        parts = parts.view(channels, rows, columns, batch, *g.shape[2:])
        total = g.new_zeros(channels, batch, height, width)
        for row in range(rows):
            for column in range(columns):
                total[:, :, row : row + g.shape[2], column : column + g.shape[3]] += parts[:, row, column]
        return total.transpose(0, 1)


class Dense(Link[nn.Linear]):
    """``nn.Linear`` of (B, D)."""

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, None]:
        return F.linear(x, *parameters), None

    def tangent(self, t: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        return F.linear(t, parameters[0])

    def transposed(self, g: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        return g @ parameters[0]

    def products(self, x: Tensor, g: Tensor, parameters: Sequence[Tensor], *, bias: bool) -> list[Tensor]:
        weight = g.t() @ x
        return [weight, g.sum(dim=0)] if bias and len(parameters) > 1 else [weight]


class Rectifier(Link[nn.ReLU]):
    """``nn.ReLU``; remembers its output: where that is 0 nothing passes.

    Works in place, so what it gets must be the output of a layer with weights, which nobody else looks at.
    """

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        y = x.relu_()
        return y, y

    def tangent(self, t: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        return _masked(t, seen)

    def transposed(self, g: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        return _masked(g, seen)


class Mapping(Link[Layer]):
    """A layer without weights that is a linear map itself."""

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, None]:
        return self.layer(x), None

    def tangent(self, t: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        mapped: Tensor = self.layer(t)
        return mapped


class MeanPool(Mapping[nn.AvgPool2d]):
    """``nn.AvgPool2d``."""

    def transposed(self, g: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        own = self.layer
        rows, columns = _pair(own.kernel_size)
        if _blocks(own) and x.shape[2] % rows == 0 and x.shape[3] % columns == 0:
            return F.interpolate(g / (rows * columns), size=x.shape[2:], mode="nearest")
        sizes = map(_pair, (own.kernel_size, own.stride, own.padding))
        found: Tensor = aten.avg_pool2d_backward(
            g, x, *sizes, own.ceil_mode, own.count_include_pad, own.divisor_override
        )
        return found


class MaxPool(Link[nn.MaxPool2d]):
    """``nn.MaxPool2d``; remembers where the maxima were."""

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        y, places = aten.max_pool2d_with_indices(x, *self._settings)
        return y, places

    def tangent(self, t: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        return t.flatten(2).gather(2, seen.flatten(2)).view(seen.shape)

    def transposed(self, g: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        found: Tensor = aten.max_pool2d_with_indices_backward(g, x, *self._settings, seen)
        return found

    @property
    def _settings(self) -> tuple[Any, ...]:
        own = self.layer
        return *map(_pair, (own.kernel_size, own.stride, own.padding, own.dilation)), own.ceil_mode


class Flattening(Mapping[nn.Flatten]):
    """``nn.Flatten()`` of all but the batch."""

    def transposed(self, g: Tensor, x: Tensor, seen: Any, parameters: Sequence[Tensor]) -> Tensor:
        back = g.reshape(x.shape)
        return back.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else back


def links(layers: Sequence[nn.Module]) -> list[Link[Any]] | None:
    """What differentiates layers by hand; None: nothing here does, or none of them has weights."""
    found: list[Link[Any]] = []
    for layer in layers:
        one = link(layer)
        weighted = any(each.parameters for each in found)
        if one is None or (isinstance(one, Rectifier) and not weighted):
            return None
        found.append(one)
    return found if any(each.parameters for each in found) else None


def link(layer: nn.Module) -> Link[Any] | None:
    """What differentiates a layer by hand; None: nothing here does."""
    kind = _LINKS.get(type(layer))
    if kind is None or not _plain(layer) or any(each.dtype != torch.float32 for each in layer.parameters()):
        return None
    return kind(layer)


_LINKS: dict[type[nn.Module], type[Link[Any]]] = {
    nn.Conv2d: Convolution,
    nn.Linear: Dense,
    nn.ReLU: Rectifier,
    nn.AvgPool2d: MeanPool,
    nn.MaxPool2d: MaxPool,
    nn.Flatten: Flattening,
}


def add(layer: type[nn.Module], kind: type[Link[Any]]) -> None:
    """Let layers of another type be differentiated by hand."""
    _LINKS[layer] = kind


def _plain(layer: nn.Module) -> bool:
    """Whether a layer does what its type says and nothing else."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    if any(hooks) or getattr(layer, "parametrizations", None):
        return False
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return not isinstance(layer, nn.Flatten) or (layer.start_dim, layer.end_dim) == (1, -1)


def _blocks(pool: nn.AvgPool2d) -> bool:
    """Whether a pool's windows lie side by side."""
    plain = not pool.ceil_mode and pool.divisor_override is None and _pair(pool.padding) == [0, 0]
    return plain and _pair(pool.stride) == _pair(pool.kernel_size)


def _masked(g: Tensor, y: Tensor) -> Tensor:
    """g where y is positive, in place."""
    found: Tensor = aten.threshold_backward.grad_input(g, y, 0, grad_input=g)
    return found


def _pair(size: Any) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)
