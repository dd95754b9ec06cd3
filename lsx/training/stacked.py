"""Several networks of one architecture as one: a group of every convolution, a matrix of every product, for each.

S small networks one after the other make a GPU wait for its host, which launches S times as many kernels as it must.
Here a layer of all of them is one kernel: convolutions have a group for each network, linear layers are batches of
matrices, and what has no weights works on more channels. The whole is again a chain (:mod:`lsx.chain`), with about as
many launches as one network has.

Images of the networks lie in turns: image 0 for networks 0 to S − 1, image 1 for them, and so on. A row is one of them.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lsx import links
from lsx.chain import chain_of
from lsx.links import Link, Mapping
from lsx.models import Layered


class Folding(nn.Module):
    """Rows (N · S, C, H, W) to images whose channels are those of all networks, (N, S · C, H, W)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        images = rows.reshape(len(rows) // self.count, -1, *rows.shape[2:])
        # cuDNN's grouped kernels are at their best with whole channels, the CPU's with whole pixels.
        return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images


class Flattening(nn.Module):
    """(N, S · C, H, W) to (S, N, C · H · W); what is flat already stays as it is."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return images if images.dim() == 3 else images.unflatten(1, (self.count, -1)).transpose(0, 1).flatten(2)


class Linear(nn.Module):
    """S linear layers, (S, N, D) to (S, N, O); their weight is (S, O, D), their bias (S, O) or None."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return _products(x, self.weight, self.bias)


class Unfolding(nn.Module):
    """(S, N, K) to rows (N · S, K)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.transpose(0, 1).flatten(0, 1)


class _FoldingLink(Mapping[Folding]):
    def transposed(self, g: Tensor, x: Tensor, seen: None, parameters: Sequence[Tensor]) -> Tensor:
        return g.reshape(x.shape)


class _FlatteningLink(Mapping[Flattening]):
    def transposed(self, g: Tensor, x: Tensor, seen: None, parameters: Sequence[Tensor]) -> Tensor:
        if x.dim() == 3:
            return g
        back = g.transpose(0, 1).reshape(x.shape)
        return back.contiguous(memory_format=torch.channels_last) if back.device.type == "cpu" else back


class _LinearLink(Link[Linear]):
    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, None]:
        return _products(x, *parameters), None

    def tangent(self, t: Tensor, x: Tensor, seen: None, parameters: Sequence[Tensor]) -> Tensor:
        return _products(t, parameters[0])

    def transposed(self, g: Tensor, x: Tensor, seen: None, parameters: Sequence[Tensor]) -> Tensor:
        return torch.bmm(g, parameters[0])

    def products(self, x: Tensor, g: Tensor, parameters: Sequence[Tensor], *, bias: bool) -> list[Tensor]:
        weight = torch.bmm(g.transpose(1, 2), x)
        return [weight, g.sum(dim=1)] if bias and len(parameters) > 1 else [weight]


class _UnfoldingLink(Mapping[Unfolding]):
    def transposed(self, g: Tensor, x: Tensor, seen: None, parameters: Sequence[Tensor]) -> Tensor:
        return g.reshape(x.shape[1], x.shape[0], -1).transpose(0, 1)


links.add(Folding, _FoldingLink)
links.add(Flattening, _FlatteningLink)
links.add(Linear, _LinearLink)
links.add(Unfolding, _UnfoldingLink)


def _products(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    transposed = weight.transpose(1, 2)
    return torch.bmm(x, transposed) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, transposed)


class Stack(Layered):
    """S networks as one, a chain of rows (N · S, C, H, W) to log-probabilities (N · S, K).

    Args:
        networks: of one architecture, without an :func:`obstacle`, on one device; their weights are copied.

    Attributes:
        count: S.
        weights: all parameters, in the order of one network's; each holds those of the networks one after the other.
        shapes: (S, …) of each of them, … being that of one network's.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.count = len(networks)
        first = _layers(networks[0])
        *body, last = [_joined(same) for same in zip(*map(_layers, networks), strict=True)]
        self.body = nn.ModuleList([Folding(self.count), *body, Unfolding(), last])
        of = {
            id(old): new
            for one, joined in zip(first, [*body, last], strict=True)
            for old, new in zip(one.parameters(), joined.parameters(), strict=True)
        }
        self.weights = [of[id(old)] for old in networks[0].parameters()]
        self.shapes = [(self.count, *old.shape) for old in networks[0].parameters()]

    def layers(self) -> list[nn.Module]:
        """See :class:`lsx.models.Layered`."""
        return list(self.body)

    def parts(self, values: Sequence[Tensor]) -> list[list[Tensor]]:
        """Views of what is shaped like the weights: S lists of what is shaped like one network's."""
        split = [value.detach().view(shape) for value, shape in zip(values, self.shapes, strict=True)]
        return [[each[index] for each in split] for index in range(self.count)]

    def lend(self, networks: Sequence[nn.Module]) -> None:
        """Let networks have their weights here: they change with these, at no cost."""
        for network, own in zip(networks, self.parts(self.weights), strict=True):
            for parameter, view in zip(network.parameters(), own, strict=True):
                parameter.data = view

    @torch.no_grad()
    def fill(self, networks: Sequence[nn.Module]) -> None:
        """Copy the networks' weights, in place."""
        for network, own in zip(networks, self.parts(self.weights), strict=True):
            torch._foreach_copy_(own, list(network.parameters()))


def obstacle(network: nn.Module) -> str | None:
    """Why networks of this architecture cannot be one; None: they can."""
    name, chain = type(network).__name__, chain_of(network)
    if chain is None:
        return f"model {name} is no chain of layers that is differentiated by hand"
    parameters = list(network.parameters())
    if len(parameters) != len(chain.parameters) or {id(one) for one in parameters} != {
        id(one) for one in chain.parameters
    }:
        return f"model {name} has weights outside of its chain of layers, or a layer twice"
    if not all(one.requires_grad for one in parameters):
        return f"model {name} has frozen weights"
    return f"model {name} has buffers" if list(network.buffers()) else None


def _layers(network: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = network.layers()  # type: ignore[operator]
    return found


def _joined(layers: Sequence[nn.Module]) -> nn.Module:
    """One layer for all networks."""
    first, count = layers[0], len(layers)
    if isinstance(first, nn.Flatten):
        return Flattening(count)
    if isinstance(first, nn.Linear):
        bias = None if first.bias is None else torch.stack([one.bias.detach() for one in layers])  # type: ignore[operator]
        return Linear(torch.stack([one.weight.detach() for one in layers]), bias)  # type: ignore[operator]
    if isinstance(first, nn.Conv2d):
        return _grouped(first, layers)
    return first


def _grouped(first: nn.Conv2d, layers: Sequence[nn.Module]) -> nn.Conv2d:
    joined, count = copy.deepcopy(first), len(layers)
    joined.in_channels, joined.out_channels = count * first.in_channels, count * first.out_channels
    joined.groups = count * first.groups
    for name in dict(first.named_parameters()):
        setattr(joined, name, nn.Parameter(torch.cat([getattr(one, name).detach() for one in layers])))
    return joined
