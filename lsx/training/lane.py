"""One of several seeds that train together."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from lsx.config import Stage, StageConfig
from lsx.training.course import Course, continue_from
from lsx.training.device import randomness, restore_randomness
from lsx.training.report import Report, Tick
from lsx.training.shares import Share
from lsx.training.trainer import Trainer


class Lane(Trainer):
    """One seed: its random state, its batch order, its networks, whose weights are parts of a stack's.

    The inherited ``_stopped_at``, the random state that a checkpoint holds, is always this seed's own.
    """

    @property
    def course(self) -> Course | None:
        """Where it is; None before its first stage."""
        return self._course

    @property
    def resumes(self) -> dict[str, Any] | None:
        """The state that it has yet to be put in."""
        return self._resume_from

    @resumes.setter
    def resumes(self, state: dict[str, Any] | None) -> None:
        self._resume_from = state

    @property
    def place(self) -> tuple[Any, ...]:
        """What must be the same for all."""
        state = self._resume_from or {}
        return self.config.replace({"seed": 0}), *(state.get(name, 0) for name in ("stage", "epoch", "step"))

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Torch's generators in this seed's state."""
        if self._stopped_at is not None:
            restore_randomness(self._stopped_at, self.device)
        yield
        self._stopped_at = randomness(self.device)

    def enter(self, stage: Stage) -> None:
        """Seed a stage, and make its learner."""
        with self.drawing():
            self._enter(stage)

    def start(self, stage: Stage, optim: Share) -> Course:
        """The stage's beginning."""
        batches = torch.Generator().manual_seed(self._seed(stage) + 1)
        self._course = Course(stage, cast(torch.optim.Optimizer, optim), batches)
        return self._course

    def proceed(self, state: Mapping[str, Any]) -> None:
        """Put the stage where a checkpoint left it."""
        assert self._course is not None
        with self.drawing():
            continue_from(self._course, state, self.device)

    def targets(self) -> Tensor:
        """e*, (N, C, H, W)."""
        return self._targets()

    def tick(self, settings: StageConfig, steps: int) -> Tick:
        """Of the step that begins."""
        assert self._course is not None
        return self._tick(self._course, settings, steps)

    def close_epoch(self, settings: StageConfig, metrics: dict[str, float], seconds: float) -> Report:
        """Count an epoch, and report it."""
        course = self._course
        assert course is not None
        self._position += 1
        course.epoch, course.step, course.shuffle, course.totals = course.epoch + 1, 0, None, {}
        self.history.append((course.stage, course.epoch, metrics))
        return self._report(course, settings, metrics, seconds)
