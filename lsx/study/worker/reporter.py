"""The trainer's callback in a worker: signs of life, checkpoints, reports, and the way out when the study stops."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune

from lsx import gallery
from lsx.config import Config
from lsx.data import Dataset
from lsx.study.worker import maps, repeats
from lsx.study.worker.luggage import Luggage
from lsx.study.worker.stopping import StopWord
from lsx.training import Report, Tick

POINTS = 500  # of a stage's curves; ten thousand epochs of a hundred trials would choke a tracker
SECONDS_BETWEEN_REPORTS = 2.0
SECONDS_WITHIN_EPOCH = 30.0
LARGEST_SHARE = 0.01
"""Of a trial's time between two checkpoints, so that what a killed trial loses is a small part of it."""


class Stopped(Exception):
    """The driver asked for the end; the checkpoint of this moment is reported."""


class Reporter:
    """Reports of one seed of a trial, or of all when they train together.

    At every stage's end, at every rung of the scheduler and now and then between, with a checkpoint: ``stage``,
    ``position`` and ``total`` (epochs over all stages, and over all seeds that do not train together), ``metrics`` of
    the epoch, means over the seeds that train; ``history``, rows of the epochs since the last report, each with
    ``seed_index``, ``stage``, ``step`` (epoch over all stages), ``position`` and ``metrics``; ``guard``, at a rung, the
    mean over the seeds that train, unless the first is not among them; ``picture``, whether the checkpoint has a new
    one, of the first seed. Within a long epoch, checkpoints come without news; between steps, ``pulse`` is a sign of
    life.

    Args:
        config: of the (first) seed.
        dataset: of the trial.
        assignment: see :func:`lsx.study.worker.trial.run_trial`.
        luggage: where the trial stands.
        together: whether all seeds train at once.

    Attributes:
        states: of the seeds that train; to be set before they train.
        curves: all rows of each of them so far.
    """

    states: Callable[[], list[dict[str, Any]]]

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        assignment: Mapping[str, Any],
        luggage: Luggage,
        *,
        together: bool = False,
    ) -> None:
        self._config, self._dataset, self._luggage, self._together = config, dataset, luggage, together
        self._guard, self._rungs = assignment["guard"], frozenset(assignment["rungs"])
        self._every, self._stop = float(assignment["pulse"]), StopWord(assignment["stop"])
        self._index, self._turns = (0, 1) if together else (len(luggage.done), int(assignment["repeats"]))
        self._start = self._sent = self._seen = time.monotonic()
        self._news: list[dict[str, Any]] = []
        known = luggage.all_curves if together else [luggage.curves]
        self.curves = [list(rows) for rows in known] or [[] for _ in range(int(assignment["repeats"]))]

    def __call__(self, report: Report) -> None:
        """One finished epoch of one seed."""
        self.epoch([report])

    def epoch(self, reports: Sequence[Report]) -> None:
        """One finished epoch of the seeds that train."""
        report = reports[0]
        if report.ends_stage and self._index == 0:
            shown = (report.learner, report.stage, self._config, self._dataset, self._luggage.folder)
            gallery.draw(*shown)
            maps.keep(*shown)
        if report.ends_stage or report.epoch % math.ceil(report.epochs / POINTS) == 0:
            for offset, one in enumerate(reports):
                self._note(one, offset)
        at_rung = self._index == 0 and report.position in self._rungs
        if report.ends_stage or at_rung or self._due(SECONDS_BETWEEN_REPORTS):
            self._send(reports, at_rung)

    def _note(self, report: Report, offset: int) -> None:
        metrics = {**report.metrics, "seconds": report.seconds}
        row = {"stage": report.stage, "position": report.position, "metrics": metrics}
        self.curves[offset].append(row)
        position = report.position + self._index * report.total
        self._news.append({**row, "seed_index": self._index + offset, "step": report.position, "position": position})

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

    def evaluated(self) -> None:
        """One of the seeds that trained together is finished, and need not be evaluated again."""
        self._tell({"history": [], "kept": True}, checkpoint=self._luggage.packed())

    def _due(self, seconds: float) -> bool:
        """Ever more rarely, so that a trial of a day reports a few hundred times; a loss of 1 % when it is killed."""
        now = time.monotonic()
        return now - self._sent >= max(seconds, LARGEST_SHARE * (now - self._start))

    def _send(self, reports: Sequence[Report], at_rung: bool) -> None:
        report = reports[0]
        means = {name: repeats.mean([one.metrics[name] for one in reports]) for name in report.metrics}
        self._store([one.checkpoint() for one in reports])
        message = {
            "stage": report.stage,
            "position": report.position + self._index * report.total,
            "total": report.total * self._turns,
            "metrics": means,
            "history": self._news,
            "guard": means.get(self._guard) if at_rung else None,
            "picture": report.ends_stage and self._index == 0,
        }
        self._tell(message, checkpoint=self._luggage.packed())
        self._news, self._sent = [], time.monotonic()

    def _keep(self) -> None:
        """A checkpoint in the middle of an epoch; rows that were not sent yet go with it."""
        self._store(self.states())
        self._tell({"history": self._news, "kept": True}, checkpoint=self._luggage.packed())
        self._news, self._sent = [], time.monotonic()

    def _store(self, states: Sequence[dict[str, Any]]) -> None:
        if self._together:
            self._luggage.keep_all(states, self.curves)
        else:
            self._luggage.keep(states[0], self.curves[0])

    def _tell(self, message: Mapping[str, Any], checkpoint: tune.Checkpoint | None = None) -> None:
        tune.report(dict(message), checkpoint=checkpoint)
        self._seen = time.monotonic()
