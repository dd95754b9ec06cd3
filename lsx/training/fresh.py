"""Freshly initialised networks, drawn again and again without building modules, which takes longer than the drawing."""

from collections.abc import Callable

import torch
from torch import nn

from lsx.training.device import isolated_randomness, randomness, restore_randomness

Builder = Callable[[], nn.Module]


class Fresh:
    """Draws the weights of one network anew, as building it would.

    Where that is what its layers' ``reset_parameters`` draw, in order, they do it, in place; a first try decides.

    Args:
        build: makes the network from torch's global generators of ``device``, which this leaves as they are.
        device: of the network.
    """

    def __init__(self, build: Builder, device: torch.device) -> None:
        self._build = build
        with isolated_randomness(device):
            start = randomness(device)
            self._network = build()
            expected = [one.detach().clone() for one in self._network.parameters()], randomness(device)
            restore_randomness(start, device)
            self._resets = self._layers() if self._complete() else []
            self.draw()
            found = list(self._network.parameters()), randomness(device)
        pairs = [*zip(found[0], expected[0], strict=True), *((found[1][name], expected[1][name]) for name in found[1])]
        if not all(torch.equal(*pair) for pair in pairs):
            self._resets = []

    def draw(self) -> nn.Module:
        """The network with new weights; the same object every time where layers draw, so they are to be copied."""
        if not self._resets:
            return self._build()
        for reset in self._resets:
            reset()
        return self._network

    def _layers(self) -> list[Callable[[], None]]:
        found = (getattr(layer, "reset_parameters", None) for layer in self._network.modules())
        return [reset for reset in found if callable(reset)]

    def _complete(self) -> bool:
        """Whether all weights are of layers that can be drawn: others would keep what they have learned."""
        owners = [layer for layer in self._network.modules() if hasattr(layer, "reset_parameters")]
        own = {id(one) for layer in owners for one in layer.parameters(recurse=False)}
        return own == {id(one) for one in self._network.parameters()}
