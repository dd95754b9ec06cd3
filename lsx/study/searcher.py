"""Ray Tune's hooks: a searcher that suggests, a callback that records, a scheduler that stops.

They only translate; decisions and records are the recorder's.
"""

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher as TuneSearcher

from lsx.study.folder import CHECKPOINT
from lsx.study.ledger import SEARCH
from lsx.study.recorder import Recorder
from lsx.study.sections import Scheduler


class Halt(BaseException):
    """Ends Tune's loop from one of its safe points; no ``except Exception`` of Tune's may delay it."""


class Watch:
    """Why the loop must end, if it must.

    An error inside of a Tune callback would be blamed on a trial or lost: it is kept here and raised between two steps.

    Attributes:
        fault: the first error in a callback.
        signal: the signal that asked for the end.
    """

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.signal: int | None = None

    @property
    def over(self) -> bool:
        """Whether the loop must end."""
        return self.fault is not None or self.signal is not None

    def check(self) -> None:
        """Raises Halt when the loop must end."""
        if self.over:
            raise Halt

    def run(self, action: Callable[[], Any], otherwise: Any = None) -> Any:
        """Do something unless the loop must end; an error ends it."""
        if self.over:
            return otherwise
        try:
            return action()
        except Exception as error:
            self.fault = error
            return otherwise


class _Driver:
    """Lives in the driver; Tune pickles and copies it for restorations that never happen."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, _: Any) -> Any:
        return self


class Searcher(_Driver, TuneSearcher):
    """Suggests what the recorder plans. ``metric`` stays unset, so that the scheduler has its own."""

    def __init__(self, recorder: Recorder, watch: Watch) -> None:
        super().__init__(metric=None, mode=None)
        self._recorder = recorder
        self._watch = watch

    def suggest(self, trial_id: str) -> Any:
        """The next assignment, or ``FINISHED``."""
        assignment = self._watch.run(self._recorder.begin)
        return TuneSearcher.FINISHED if assignment is None else assignment

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: :class:`Recording` knows the trial's number and the error's text."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal has everything."""


class Recording(_Driver, Callback):
    """Tells the recorder what happens to trials, and the display what it looks like."""

    def __init__(self, recorder: Recorder, watch: Watch, show: Callable[[], None]) -> None:
        self._recorder = recorder
        self._watch = watch
        self._show = show

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Redraw; leave the loop if it must end."""
        self._watch.run(self._show)
        self._watch.check()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count the start, and give the trial the failures that it has left over all drivers."""

        def start() -> None:
            left = self._recorder.started(_number(trial))
            trial.max_failures = trial.run_metadata.num_failures + left

        self._watch.run(start)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record an epoch."""
        if "position" in result:
            self._watch.run(lambda: self._recorder.report(_number(trial), result))

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        """Record where the checkpoint lies; Tune deletes the one before only after this."""
        self._watch.run(lambda: self._recorder.checkpointed(_number(trial), f"{checkpoint.path}/{CHECKPOINT}"))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the end."""
        self._watch.run(lambda: self._recorder.finish(_number(trial), trial.last_result or {}))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a failure that no further start is left for."""
        self._watch.run(lambda: self._recorder.fail(_number(trial), _reason(trial.error_file), trial.error_file))


class Halving(_Driver, AsyncHyperBandScheduler):
    """ASHA (Li et al. 2020) that spares reference trials and remembers earlier drivers' trials.

    Args:
        settings: of the study.
        epochs: the longest trial; no rung is at its end, where stopping saves nothing.
        history: trial number to position to guard metric, from earlier drivers.
    """

    def __init__(self, settings: Scheduler, epochs: int, history: Mapping[int, Mapping[int, float]]) -> None:
        super().__init__(
            time_attr="position",
            metric="guard",
            mode="max" if settings.direction == "maximize" else "min",
            max_t=max(settings.grace_epochs, epochs - 1),
            grace_period=settings.grace_epochs,
            reduction_factor=settings.reduction_factor,
            stop_last_trials=False,
        )
        self._sign = 1.0 if settings.direction == "maximize" else -1.0
        for number, values in sorted(history.items()):
            for position in sorted(values):
                self._judge(number, position, values[position])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a search trial that is not among the best at its rung."""
        known = result.get("guard") is not None and "position" in result
        if trial.config["role"] != SEARCH or not known:
            return str(TrialScheduler.CONTINUE)
        return self._judge(_number(trial), result["position"], result["guard"])

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the last epoch was judged when it was reported."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing is kept per Tune trial."""

    def _judge(self, number: int, position: int, guard: float) -> str:
        # By the study's number: a trial that is taken up again is another trial to Tune.
        key: Any = SimpleNamespace(trial_id=number)
        decision = self._brackets[0].on_result(key, position, self._sign * guard)
        return str(decision)


def rungs(settings: Scheduler, epochs: int) -> list[int]:
    """Positions at which the scheduler decides; none at the last epoch, where stopping saves nothing."""
    if settings.type == "none":
        return []
    count = int(math.log(epochs / settings.grace_epochs, settings.reduction_factor)) + 1 if epochs else 0
    positions = (math.ceil(settings.grace_epochs * settings.reduction_factor**index) for index in range(count))
    return [position for position in positions if position < epochs]


def _number(trial: Any) -> int:
    return int(trial.config["number"])


def _reason(path: str | None) -> str:
    """The last line of a traceback."""
    try:
        with open(path or "", encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
    except OSError:
        lines = []
    return lines[-1] if lines else "the worker process was lost"
