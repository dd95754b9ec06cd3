"""What stops hopeless trials: schedulers for Tune that spare reference trials.

Both continue where an earlier driver ended, from the guards that are in the journal.
"""

import math
import statistics
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from lsx.study.declared.sections import Scheduler
from lsx.study.search.ledger import SEARCH

MOST_POSITIONS = 20
"""Epochs at which the median rule decides, at most: each of them is a report with a checkpoint."""

History = Mapping[int, Mapping[int, float]]
"""Trial number to position to guard metric."""


class Driverside:
    """Lives in the driver; Tune pickles and copies it for restorations that never happen."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, _: Any) -> Any:
        return self


class Halving(Driverside, AsyncHyperBandScheduler):
    """ASHA (Li et al. 2020) that spares reference trials and remembers earlier drivers' trials.

    Args:
        settings: of the study.
        epochs: the longest trial; no rung is at its end, where stopping saves nothing.
        history: trial number to position to guard metric, from earlier drivers.
    """

    def __init__(self, settings: Scheduler, epochs: int, history: History) -> None:
        super().__init__(
            time_attr="position",
            metric="guard",
            mode="max" if settings.direction == "maximize" else "min",
            max_t=max(settings.grace_epochs, epochs - 1),
            grace_period=settings.grace_epochs,
            reduction_factor=settings.reduction_factor,
            stop_last_trials=False,
        )
        self._sign = _sign(settings)
        for number, values in sorted(history.items()):
            for position in sorted(values):
                self._judge(number, position, values[position])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a search trial that is not among the best at its rung."""
        if not _judged(trial, result):
            return str(TrialScheduler.CONTINUE)
        return self._judge(study_number(trial), result["position"], result["guard"])

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the last epoch was judged when it was reported."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing is kept per Tune trial."""

    def _judge(self, number: int, position: int, guard: float) -> str:
        # By the study's number: a trial that is taken up again is another trial to Tune.
        key: Any = SimpleNamespace(trial_id=number)
        decision = self._brackets[0].on_result(key, position, self._sign * guard)
        return str(decision)


class MedianStopping(Driverside, FIFOScheduler):
    """The median stopping rule (Golovin et al. 2017, section 3.2.2) over the decision positions.

    A search trial is stopped where its best guard so far is worse than the median of the other search trials' running
    means up to the same position, once ``least_trials`` of them have reached it. Means and bests are over the decision
    positions, from ``grace_epochs`` on; values that are not finite are left out of them. Unlike Tune's own rule it
    knows trials by their number in the study, pauses none, and may hear of an epoch twice.

    Args:
        settings: of the study.
        history: trial number to position to guard metric, from earlier drivers.
    """

    def __init__(self, settings: Scheduler, history: History) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sign = _sign(settings)
        self._grace, self._least = settings.grace_epochs, settings.least_trials
        # By the study's number: a trial that is taken up again is another trial to Tune.
        self._seen: dict[int, dict[int, float]] = {}
        for number, values in history.items():
            self._seen[number] = {position: self._sign * guard for position, guard in values.items()}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a search trial whose best is below the median of the others' means."""
        if not _judged(trial, result) or result["position"] < self._grace:
            return str(TrialScheduler.CONTINUE)
        number, position = study_number(trial), int(result["position"])
        own = self._seen.setdefault(number, {})
        if position in own:  # decided before, and continued
            return str(TrialScheduler.CONTINUE)
        own[position] = self._sign * result["guard"]
        return str(TrialScheduler.STOP if self._hopeless(number, position) else TrialScheduler.CONTINUE)

    def _hopeless(self, number: int, position: int) -> bool:
        others = [values for other, values in self._seen.items() if other != number and max(values) >= position]
        means = [statistics.fmean(known) for values in others if (known := self._finite(values, position))]
        if len(means) < self._least:
            return False
        return max(self._finite(self._seen[number], position), default=-math.inf) < statistics.median(means)

    def _finite(self, values: Mapping[int, float], position: int) -> list[float]:
        return [value for at, value in values.items() if self._grace <= at <= position and math.isfinite(value)]


def build(settings: Scheduler, longest: int, history: History) -> TrialScheduler | None:
    """The study's scheduler; None where there is none, or where it would have no epoch to decide at.

    Args:
        settings: of the study.
        longest: epochs of the longest trial.
        history: trial number to position to guard metric, from earlier drivers.
    """
    if not positions(settings, longest):
        return None
    if settings.type == "median":
        return MedianStopping(settings, history)
    return Halving(settings, longest, history)


def positions(settings: Scheduler, epochs: int) -> list[int]:
    """Positions at which the scheduler decides, ascending; none at the last epoch, where stopping saves nothing.

    Args:
        settings: of the study.
        epochs: of a trial, over all stages.
    """
    return spaced(settings, epochs) if settings.type == "median" else rungs(settings, epochs)


def rungs(settings: Scheduler, epochs: int) -> list[int]:
    """ASHA's positions: ``grace_epochs`` times the powers of ``reduction_factor``."""
    if settings.type == "none":
        return []
    count = int(math.log(epochs / settings.grace_epochs, settings.reduction_factor)) + 1 if epochs else 0
    found = (math.ceil(settings.grace_epochs * settings.reduction_factor**index) for index in range(count))
    return [position for position in found if position < epochs]


def spaced(settings: Scheduler, epochs: int) -> list[int]:
    """The median rule's positions: every epoch from ``grace_epochs`` to the last but one, or 20 spread over them."""
    span = epochs - 1 - settings.grace_epochs
    if span < MOST_POSITIONS:
        return list(range(settings.grace_epochs, epochs))
    return [settings.grace_epochs + index * span // (MOST_POSITIONS - 1) for index in range(MOST_POSITIONS)]


def study_number(trial: Any) -> int:
    """The number that the study gave a Tune trial."""
    return int(trial.config["number"])


def _judged(trial: Any, result: Mapping[str, Any]) -> bool:
    """Whether a scheduler decides on this report."""
    return trial.config["role"] == SEARCH and result.get("guard") is not None and "position" in result


def _sign(settings: Scheduler) -> float:
    return 1.0 if settings.direction == "maximize" else -1.0
