"""Optimisers and losses that learner and critic share."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsx.config import OptimizerName

BLOCK = 65536
"""Numbers that an optimiser works through at a time on a CPU: its five arrays of them fit the second-level cache."""


class Adadelta(torch.optim.Adadelta):
    """torch's Adadelta (Zeiler 2012), bit for bit; on a CPU it goes through memory once, not once per operation."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """See :class:`torch.optim.Adadelta`; parameters elsewhere than on a CPU are left to it."""
        plain = closure is None and all(_plain(group) for group in self.param_groups)
        if not plain:
            return super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return None

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["square_avg"], state["acc_delta"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        rho, eps, rate = group["rho"], group["eps"], float(group["lr"])
        arrays = (parameter, gradient.contiguous(), state["square_avg"], state["acc_delta"])
        for weight, slope, square, change in zip(*(one.view(-1).split(BLOCK) for one in arrays), strict=True):
            square.mul_(rho).addcmul_(slope, slope, value=1 - rho)
            deviation = square.add(eps).sqrt_()
            delta = change.add(eps).sqrt_().div_(deviation).mul_(slope)
            change.mul_(rho).addcmul_(delta, delta, value=1 - rho)
            weight.add_(delta, alpha=-rate)


def _plain(group: dict[str, Any]) -> bool:
    special = group["weight_decay"] or group["maximize"] or group["capturable"] or group["differentiable"]
    return not special and all(one.device.type == "cpu" and one.is_contiguous() for one in group["params"])


_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adadelta": Adadelta,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


def optimizer(name: OptimizerName, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """A fresh optimiser with torch's defaults but for the learning rate."""
    return _OPTIMIZERS[name](parameters, lr=learning_rate)  # type: ignore[call-arg]


def weighted_cross_entropy(log_probabilities: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """CE_w: negative log-likelihood with class weights, weighted mean.

    Args:
        log_probabilities: (B, K).
        labels: int64 (B,).
        weights: (K,), class frequencies n_k / N.
    """
    return F.nll_loss(log_probabilities, labels, weight=weights)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that a user has not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
