"""How anything leaves training: one report an epoch, given to one callback, and a pulse between steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from lsx.config import Stage


@dataclass(frozen=True)
class Report:
    """One finished epoch.

    Attributes:
        stage: the running stage.
        epoch, epochs: position within the stage, 1 ≤ epoch ≤ epochs.
        position, total: epochs finished and planned over all stages of the run; a common step axis.
        metrics: finite floats by name: ``loss``, ``classification_loss``, ``validation_accuracy``,
            ``learning_rate`` (of the last step); in joint training also ``critic_loss_mean``, ``critic_loss_last``
            (over the passes of the epoch) and both relative to chance, ln K (``critic_loss_mean_to_chance``,
            ``critic_loss_last_to_chance``); in finetuning also ``explanation_loss``.
        seconds: wall-clock time of the epoch.
        learner: the network being trained; look, do not touch.
        checkpoint: makes the state (tensors and plain data) from which training resumes after this epoch;
            call it before the callback returns.
    """

    stage: Stage
    epoch: int
    epochs: int
    position: int
    total: int
    metrics: Mapping[str, float]
    seconds: float
    learner: nn.Module
    checkpoint: Callable[[], dict[str, Any]]

    @property
    def ends_stage(self) -> bool:
        """Whether this was the stage's last epoch."""
        return self.epoch == self.epochs


Callback = Callable[[Report], None]
"""What training reports to. It may raise to stop training."""


class Tick(NamedTuple):
    """The moment before a step.

    Attributes:
        stage: the running stage.
        epoch, epochs: finished epochs of the stage, and all of them.
        step, steps: finished steps of the running epoch, and all of them.
        position, total: epochs finished and planned over all stages of the run.
    """

    stage: Stage
    epoch: int
    epochs: int
    step: int
    steps: int
    position: int
    total: int


Pulse = Callable[[Tick], None]
"""What training tells where it is. It may raise to stop training at that moment."""
