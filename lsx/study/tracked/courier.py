"""How an entry of the outbox becomes requests to MLflow."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lsx.study.tracked.spool import Entry, State
from lsx.study.tracked.tracking import Tracker, definite


class Courier:
    """Delivers entries; every delivery can be repeated.

    Args:
        tracker: the store.
        folder: to which the files' paths are relative.
        state: run ids by trial, and how the runs are opened; entries it knows already are an earlier driver's.
        note: is told the id of a run that was found or made.
    """

    def __init__(self, tracker: Tracker, folder: Path, state: State, note: Callable[[int, str], None]) -> None:
        self._tracker, self._folder, self._state, self._note = tracker, folder, state, note
        self._inherited = state.following
        self._doubtful: set[int] = set()

    def deliver(self, batch: list[Entry]) -> None:
        """Deliver one entry, or several with metrics of one run; whatever MLflow raises gets through.

        A run that a person has deleted, or that is in another store than today's, is made anew.
        """
        run = batch[0]["run"]
        try:
            self._send(batch)
        except Exception as error:
            run_id = self._tracker.parent if run is None else self._state.runs.get(run)
            if not definite(error) or run_id is None:
                raise
            if not self._tracker.exists(run_id):
                self._renew(run)
            self._send(batch)  # also to a run that is there: it may just have been restored

    def works(self) -> bool:
        """Whether the store takes a small entry."""
        try:
            self._tracker.touch()
        except Exception as error:
            if definite(error):  # the study's run is gone: its own next entry may be far behind the one that fails
                with suppress(Exception):
                    self._tracker.renew_study()
            return False
        return True

    def _send(self, batch: list[Entry]) -> None:
        first = batch[0]
        run, do = first["run"], first["do"]
        if do == "open":
            self._open(run, first)
        elif do == "log":
            rows = [(entry["at"], entry["step"], entry["metrics"]) for entry in batch]
            tags = {name: value for entry in batch for name, value in entry["tags"].items()}
            self._tracker.log_rows(self._run(run), rows, tags)
        elif do == "attach":
            self._tracker.attach(self._run(run), self._folder / first["path"], first["folder"])
        elif do == "inputs":
            self._tracker.log_inputs(self._run(run), first["datasets"])
        elif do == "describe":
            self._tracker.describe_experiment(first["tags"])
        elif run is not None or first["n"] >= self._inherited:  # the study has been opened again since
            self._end(run, first)

    def _end(self, run: int | None, entry: Entry) -> None:
        run_id = self._run(run)
        self._tracker.end(run_id, entry["ending"], entry["at"])
        if run is not None and run in self._doubtful:
            self._tracker.discard_doubles(run, run_id)
            self._doubtful.discard(run)

    def _run(self, number: int | None) -> str:
        if number is None:
            return self._tracker.parent
        return self._state.runs.get(number) or self._renew(number)

    def _renew(self, number: int | None) -> str:
        """Make a run anew, as it was opened; and ended, if it was."""
        if number is None:
            self._tracker.renew_study()
            return self._tracker.parent
        unknown: Entry = {"name": f"{number:03d}", "params": {}, "tags": {}, "at": None}
        run_id = self._open(number, self._state.openings.get(number, unknown))
        if number in self._state.endings:
            self._tracker.end(run_id, *self._state.endings[number])
        return run_id

    def _open(self, number: int, opening: Entry) -> str:
        known = self._state.runs.get(number)
        try:
            run_id = self._tracker.open_trial(number, opening["name"], known, opening["tags"], opening["at"])
        except Exception:
            self._doubtful.add(number)
            raise
        if run_id != known:
            self._note(number, run_id)
        self._tracker.describe(run_id, opening["params"])
        return run_id
