"""Optimisers and losses that learner and critic share."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsx.config import OptimizerName

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adadelta": torch.optim.Adadelta,
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
