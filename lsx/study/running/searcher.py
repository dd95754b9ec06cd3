"""Ray Tune's hooks: a searcher that suggests, and a callback that records.

They only translate; decisions and records are the recorder's.
"""

from collections.abc import Callable
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.search import Searcher as TuneSearcher

from lsx.study.running.losses import node_lost
from lsx.study.running.recorder import Recorder
from lsx.study.running.watch import Watch
from lsx.study.search.schedulers import Driverside, study_number

MOST_LOSSES = 5
"""Of a trial's nodes in a row, without a new checkpoint in between: one that takes its node down is no victim."""


class Searcher(Driverside, TuneSearcher):
    """Suggests what the recorder plans. ``metric`` stays unset, so that the scheduler has its own.

    Args:
        recorder: plans trials.
        watch: knows which are out there.
        limit: how many may be, at the moment: nodes come and go.
        extras: what every assignment gets in addition.
    """

    def __init__(self, recorder: Recorder, watch: Watch, limit: Callable[[], int], extras: dict[str, Any]) -> None:
        super().__init__(metric=None, mode=None)
        self._recorder, self._watch, self._limit, self._extras = recorder, watch, limit, extras

    def suggest(self, trial_id: str) -> Any:
        """The next assignment; None when there is none for now; ``FINISHED`` when there will be none any more."""
        return self._watch.run(self._suggest, TuneSearcher.FINISHED)

    def _suggest(self) -> Any:
        live = self._watch.live
        if self._watch.reason or len(live) >= self._limit():
            return None
        assignment = self._recorder.begin()
        if assignment is None:  # a trial out there may come back, to be started again
            return None if live else TuneSearcher.FINISHED
        live.add(assignment["number"])
        return assignment | self._extras

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: :class:`Recording` knows the trial's number and the error's text."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the storage has everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the storage has everything."""


class Recording(Driverside, Callback):
    """Tells the recorder what happens to trials, and the display what it looks like.

    Args:
        recorder: of the study.
        watch: of the loop.
        between: called between two steps of the loop.
        ask: tells the trials that the study stops.
    """

    def __init__(
        self, recorder: Recorder, watch: Watch, between: Callable[[], None], ask: Callable[[], None] = lambda: None
    ) -> None:
        self._recorder, self._watch, self._between, self._ask = recorder, watch, between, ask
        self._lost: set[int] = set()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Redraw, kill what hangs, leave the loop if it must end."""
        self._watch.run(self._between)
        self._watch.run(lambda: self._end_stalled(trials))
        self._watch.tell(self._ask)
        self._watch.check()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count the start, and give the trial the failures that it has left over all drivers."""
        number = study_number(trial)

        def start() -> None:
            left = self._recorder.started(number, excused=number in self._lost)
            self._lost.discard(number)
            trial.max_failures = trial.run_metadata.num_failures + left

        self._watch.run(start)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A failure after which Tune starts the trial again."""
        if self._losses(trial) in range(1, MOST_LOSSES + 1):
            self._lost.add(study_number(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a sign of life, or an epoch."""
        if "history" in result or "pulse" in result:
            self._watch.run(lambda: self._recorder.report(study_number(trial), result))

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        """Record where the checkpoint lies; Tune deletes the one before only after this."""
        self._watch.run(lambda: self._recorder.checkpointed(study_number(trial), checkpoint.path))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the end."""
        self._watch.run(lambda: self._recorder.finish(study_number(trial), trial.last_result or {}))
        self._watch.live.discard(study_number(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a failure that no further start is left for; the loss of a node is none."""
        number, losses = study_number(trial), self._losses(trial)
        if 0 < losses <= MOST_LOSSES:
            self._watch.run(lambda: self._recorder.excuse(number))
        else:
            reason = _reason(trial.error_file)
            if losses:
                reason = f"its node was lost {losses} times without a new checkpoint in between: {reason}"
            self._watch.run(lambda: self._recorder.fail(number, reason, trial.error_file))
        self._watch.live.discard(number)

    def _losses(self, trial: Any) -> int:
        """Of nodes, since the trial's last checkpoint, the present one included; 0 if it failed by itself."""
        if not self._watch.run(lambda: node_lost(_failure(trial.error_file)), False):
            return 0
        number, ledger = study_number(trial), self._recorder.ledger
        known = ledger.trial(number).user_attrs
        before, checkpoint = known.get("losses", {}), known.get("checkpoint")
        count = 1 + (int(before["count"]) if before.get("checkpoint") == checkpoint and before else 0)
        self._watch.run(lambda: ledger.note(number, losses={"checkpoint": checkpoint, "count": count}))
        return count

    def _end_stalled(self, trials: list[Any]) -> None:
        """Kill the workers of trials that give no sign of life; Tune sees a dead worker and starts the trial again."""
        for number in self._recorder.stalled():
            for trial in trials:
                if study_number(trial) == number and trial.temporary_state.ray_actor is not None:
                    self._recorder.note_stall(number)
                    ray.kill(trial.temporary_state.ray_actor)


def _failure(path: str | None) -> str:
    """The last failure's text; Tune appends one to the other, each below a line of its own."""
    return _text(path).rpartition("Failure # ")[2].partition("\n")[2]


def _reason(path: str | None) -> str:
    """The last line of a traceback."""
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    return lines[-1] if lines else "the worker process was lost"


def _text(path: str | None) -> str:
    try:
        with open(path or "", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
