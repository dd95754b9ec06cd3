"""Training that is shown, tracked and kept: the trainer's callback behind ``lsx train``."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, Protocol

from torch import nn

from lsx import gallery
from lsx.cli.folder import Order
from lsx.cli.interrupts import Interrupts, Stopped
from lsx.data import Dataset
from lsx.errors import CheckpointError, LSXError
from lsx.progress import Progress
from lsx.training import Report, Tick, Trainer, checkpoint

SECONDS_BETWEEN_CHECKPOINTS = 2.0
SECONDS_WITHIN_EPOCH = 60.0
LARGEST_SHARE = 0.01
"""Of the time, for checkpoints within an epoch."""
Ending = Literal["FINISHED", "KILLED", "FAILED"]


class Follower(Protocol):
    """A tracker: takes reports, and is told what becomes of the run."""

    def __call__(self, report: Report) -> None:
        """One finished epoch."""

    def saved(self) -> None:
        """A checkpoint on disk holds everything that was reported."""

    def final(self, values: Mapping[str, float], reasons: Mapping[str, str]) -> None:
        """The finished run's metrics."""

    def close(self, ending: Ending) -> None:
        """Nothing follows."""


class Keeper:
    """The trainer's callback: shows, tracks and keeps every epoch.

    Args:
        order: what to train, and where it is kept.
        dataset: of the order's configuration.
        progress: shows it.

    Attributes:
        dataset: on the trainer's device once it trains.
    """

    def __init__(self, order: Order, dataset: Dataset, progress: Progress) -> None:
        self._order, self._folder = order, order.folder
        self.dataset, self._progress = dataset, progress
        self._saved = self._took = 0.0
        self._followers: list[Follower] = []

    def train(self, interrupts: Interrupts) -> nn.Module:
        """Train what is left.

        Raises:
            KeyboardInterrupt: a signal came; the checkpoint is of that moment.
            LSXError: the trainer or a tracker refuses, with nothing written; or the run diverges.
        """

        def pulse(tick: Tick) -> None:
            interrupts.check()
            self._progress.pulse(tick)
            if time.monotonic() - self._saved >= max(SECONDS_WITHIN_EPOCH, self._took / LARGEST_SHARE):
                self._save(trainer.state)

        order = self._order
        if order.state is None:
            trainer = Trainer(order.config, self.dataset, self, pulse)
        else:
            trainer = Trainer.resume(order.state, self.dataset, self, pulse)
        self.dataset = trainer.dataset
        self._followers = _followers(order, self.dataset)
        self._folder.begin(order.config)  # when all that can be refused was not
        self._folder.rewind(order.position)
        source, count = self.dataset.provenance["description"], len(self.dataset.train)
        head = f"lsx train: {source}, {count} training images, in {self._folder.path}"
        self._progress.console.print(head, markup=False, highlight=False, soft_wrap=True)
        self._saved = time.monotonic() - SECONDS_BETWEEN_CHECKPOINTS  # the first epoch is kept, however short
        try:
            with interrupts.between_steps():
                return trainer.run()
        except Stopped:
            with suppress(CheckpointError):  # no stage has an epoch
                self._save(trainer.state)
            raise

    def __call__(self, report: Report) -> None:
        """Show, track and keep one finished epoch."""
        self._progress(report)
        place = {"stage": report.stage, "epoch": report.epoch, "position": report.position}
        self._folder.append(place | {"seconds": report.seconds, **report.metrics})
        if report.ends_stage:
            gallery.draw(report.learner, report.stage, self._order.config, self.dataset, self._folder.path)
        self.tell("__call__", report)
        if report.ends_stage or time.monotonic() - self._saved >= SECONDS_BETWEEN_CHECKPOINTS:
            self._save(report.checkpoint)

    def _save(self, state: Callable[[], dict[str, Any]]) -> None:
        began = time.monotonic()
        checkpoint.save(state(), self._folder.checkpoint)
        self._saved = time.monotonic()
        self._took = self._saved - began
        self.tell("saved")

    def tell(self, what: str, *news: Any) -> None:
        """Call a method of every tracker; one that fails is left, since a run of hours must not end with its server."""
        for follower in list(self._followers):
            try:
                getattr(follower, what)(*news)
            except (LSXError, OSError) as error:
                self._followers.remove(follower)
                line = f"lsx: {error}; the run goes on without this tracker, and history.jsonl has its epochs"
                self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _followers(order: Order, dataset: Dataset) -> list[Follower]:
    """The trackers that were asked for, now or when the run was begun: all of them, or an error and none."""
    config, memory, found = order.config, order.folder.memory, list[Follower]()
    try:
        if store := memory.get("mlflow"):
            from lsx.study.environment import quiet

            quiet.prepare()
            from lsx.study.tracked.foreground import ForegroundRun

            where, known = (store["uri"], store["experiment"]), store.get("run_id")
            run = ForegroundRun(*where, memory["name"], config, order.folder.path, known)
            store["run_id"] = run.run_id
            found.append(run)
        if place := memory.get("logdir"):
            from lsx.tensorboard import TensorBoard

            found.append(TensorBoard(place, config, dataset, order.position))
    except BaseException as error:
        for one in found:
            one.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    return found
