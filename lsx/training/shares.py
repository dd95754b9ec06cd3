"""One optimiser of several networks' weights, seen as one for each of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lsx.training.stacked import Stack


class Share:
    """One network's part of an optimiser whose steps are elementwise, in the form of its own.

    Args:
        whole: of the stack's weights, in their order.
        stack: S networks.
        index: of the network, 0 to S − 1.

    Attributes:
        loaded: the last state that was loaded; :func:`load` brings it to the whole.
    """

    def __init__(self, whole: torch.optim.Optimizer, stack: Stack, index: int) -> None:
        self._whole, self._stack, self._index = whole, stack, index
        self.loaded: Mapping[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """As the network's own optimiser would give it; tensors are copies, so that none carries the others' along."""
        whole = self._whole.state_dict()
        state = {
            number: {name: self._part(number, value) for name, value in values.items()}
            for number, values in whole["state"].items()
        }
        return {**whole, "state": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember it."""
        self.loaded = state

    def _part(self, number: int, value: Any) -> Any:
        """Of what is shaped like the weights; step counts are the same for all."""
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            return value
        return value.view(self._stack.shapes[number])[self._index].clone()


def load(whole: torch.optim.Optimizer, stack: Stack, shares: Sequence[Share]) -> None:
    """Give the whole optimiser the states that its shares have loaded."""
    first = shares[0].loaded
    state = {
        number: {
            name: torch.stack([one.loaded["state"][number][name] for one in shares]).view_as(stack.weights[number])
            if isinstance(value, torch.Tensor) and value.dim()
            else value
            for name, value in values.items()
        }
        for number, values in first["state"].items()
    }
    whole.load_state_dict({**first, "state": state})
