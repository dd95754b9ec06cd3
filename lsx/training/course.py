"""Where a stage is, and its learning rate there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lsx.config import Stage, StageConfig
from lsx.training.device import restore_randomness


@dataclass
class Course:
    """Where a stage is: between two steps, everything that the rest of it depends on."""

    stage: Stage
    optimizer: torch.optim.Optimizer
    batches: torch.Generator
    epoch: int = 0  # finished
    step: int = 0  # finished, of the epoch that runs
    shuffle: Tensor | None = None  # state of `batches` before the running epoch's order was drawn
    totals: dict[str, Tensor] = field(default_factory=dict)


def continue_from(course: Course, state: Mapping[str, Any], device: torch.device) -> None:
    """Put a stage where a checkpoint left it; checkpoints without a step are from between two epochs."""
    course.epoch, course.step = state["epoch"], state.get("step", 0)
    course.totals = {name: value.to(device) for name, value in state.get("totals", {}).items()}
    course.optimizer.load_state_dict(state["optimizer"])
    course.batches.set_state(state["random"]["batches"])
    restore_randomness(state["random"], device)


def set_learning_rate(optim: torch.optim.Optimizer, settings: StageConfig, epoch: int, share: float) -> None:
    """The schedule as a function of the epochs that are done: nothing to store, nothing to resume."""
    done = (epoch + share) / settings.epochs
    factor = {
        "constant": 1.0,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "linear": 1 - done,
        "exponential": settings.decay**epoch,
    }[settings.schedule]
    for group in optim.param_groups:
        group["lr"] = settings.learning_rate * factor
