"""The trainer's callback in a worker: signs of life, checkpoints, reports, and the way out when the study stops."""

import math
import time
from collections.abc import Mapping
from typing import Any

from ray import tune

from lsx import gallery
from lsx.config import Config
from lsx.data import Dataset
from lsx.study.worker.luggage import Luggage
from lsx.study.worker.stopping import StopWord
from lsx.training import Report, Tick, Trainer

POINTS = 500  # of a stage's curves; ten thousand epochs of a hundred trials would choke a tracker
SECONDS_BETWEEN_REPORTS = 2.0
SECONDS_WITHIN_EPOCH = 30.0
LARGEST_SHARE = 0.01
"""Of a trial's time between two checkpoints, so that what a killed trial loses is a small part of it."""


class Stopped(Exception):
    """The driver asked for the end; the checkpoint of this moment is reported."""


class Reporter:
    """Reports of one seed of a trial.

    At every stage's end, at every rung of the scheduler and now and then between, with a checkpoint: ``stage``,
    ``position`` and ``total`` (epochs over all stages and seeds), ``metrics`` of the epoch; ``history``, rows of the
    epochs since the last report, each with ``seed_index``, ``stage``, ``step`` (epoch over all stages), ``position``
    and ``metrics``; ``guard``, at a rung of the first seed only; ``picture``, whether the checkpoint has a new one.
    Within a long epoch, checkpoints come without news; between steps, ``pulse`` is a sign of life.

    Args:
        config: of the seed.
        dataset: of the trial.
        assignment: see :func:`lsx.study.worker.trial.run_trial`.
        luggage: where the seed stands.

    Attributes:
        trainer: runs the seed; to be set before it trains.
        curves: all rows of the seed so far.
    """

    trainer: Trainer

    def __init__(self, config: Config, dataset: Dataset, assignment: Mapping[str, Any], luggage: Luggage) -> None:
        self._config, self._dataset, self._luggage = config, dataset, luggage
        self._guard, self._rungs = assignment["guard"], frozenset(assignment["rungs"])
        self._every, self._stop = float(assignment["pulse"]), StopWord(assignment["stop"])
        self._index, self._repeats = len(luggage.done), int(assignment["repeats"])
        self._start = self._sent = self._seen = time.monotonic()
        self._news: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = list(luggage.curves)

    def __call__(self, report: Report) -> None:
        """One finished epoch."""
        if report.ends_stage and self._index == 0:
            gallery.draw(report.learner, report.stage, self._config, self._dataset, self._luggage.folder)
        if report.ends_stage or report.epoch % math.ceil(report.epochs / POINTS) == 0:
            metrics = {**report.metrics, "seconds": report.seconds}
            row = {"stage": report.stage, "position": report.position, "metrics": metrics}
            self.curves.append(row)
            shift = self._index * report.total
            place = {"seed_index": self._index, "step": report.position, "position": report.position + shift}
            self._news.append({**row, **place})
        at_rung = self._index == 0 and report.position in self._rungs
        if report.ends_stage or at_rung or self._due(SECONDS_BETWEEN_REPORTS):
            self._send(report, at_rung)

    def pulse(self, tick: Tick) -> None:
        """Between two steps: stop if the driver says so, keep a long epoch, show that there is life.

        Raises:
            Stopped: after the checkpoint of this moment is reported.
        """
        if self._stop.said():
            self._keep()
            raise Stopped
        if tick.step and self._due(SECONDS_WITHIN_EPOCH):
            self._keep()
        elif time.monotonic() - self._seen >= self._every:
            self._tell({"pulse": tick._asdict()})

    def evaluating(self) -> None:
        """Training is over; what follows may take a while."""
        self._tell({"pulse": {"stage": "evaluation"}})

    def _due(self, seconds: float) -> bool:
        """Ever more rarely, so that a trial of a day reports a few hundred times; a loss of 1 % when it is killed."""
        now = time.monotonic()
        return now - self._sent >= max(seconds, LARGEST_SHARE * (now - self._start))

    def _send(self, report: Report, at_rung: bool) -> None:
        self._luggage.keep(report.checkpoint(), self.curves)
        message = {
            "stage": report.stage,
            "position": report.position + self._index * report.total,
            "total": report.total * self._repeats,
            "metrics": dict(report.metrics),
            "history": self._news,
            "guard": report.metrics.get(self._guard) if at_rung else None,
            "picture": report.ends_stage and self._index == 0,
        }
        self._tell(message, checkpoint=self._luggage.packed())
        self._news, self._sent = [], time.monotonic()

    def _keep(self) -> None:
        """A checkpoint in the middle of an epoch; rows that were not sent yet go with it."""
        self._luggage.keep(self.trainer.state(), self.curves)
        self._tell({"history": self._news, "kept": True}, checkpoint=self._luggage.packed())
        self._news, self._sent = [], time.monotonic()

    def _tell(self, message: Mapping[str, Any], checkpoint: tune.Checkpoint | None = None) -> None:
        tune.report(dict(message), checkpoint=checkpoint)
        self._seen = time.monotonic()
