"""What goes to MLflow, kept on disk until MLflow has it: training never waits for a tracking server.

Entries are appended to a file by the driver and delivered by one thread, those of a run in their order. Metrics are
gathered for some seconds, so that several reports are one request: a request costs the server and the driver time that
trainings on the same processors lose. A server that is gone, slow or locked makes entries wait; the next driver
delivers what is left. Every entry carries the time at which it was said, so that a second delivery, after a kill
between delivery and acknowledgement, changes nothing in MLflow.
"""

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lsx.errors import StudyError
from lsx.study.environment.credentials import redacted
from lsx.study.tracked.courier import Courier
from lsx.study.tracked.spool import Entry, Spool
from lsx.study.tracked.tracking import METRICS_A_BATCH, TAGS_A_BATCH, Ending, Tracker, definite

GATHERING = 5.0
"""Seconds that metrics wait for others, while there is nothing else to deliver and nobody waits for the outbox."""
SHORTEST_PAUSE, LONGEST_PAUSE, HURRIED_PAUSE = 0.5, 30.0, 1.0
LAST_REQUEST = 5.0
"""Seconds that :meth:`Outbox.close` waits for the request in hand."""
DOUBTS = 3
"""Failures of an entry after which the store is asked whether it works at all."""
ANSWERS = 5
"""Answers in a row, each after a failure, that make the failure the entry's own."""
TICK = 0.2


class Outbox:
    """The file and its thread; MLflow is used by the thread only, once it is started.

    Args:
        path: of the file, in the study's folder; what an earlier driver left there is delivered first.
        tracker: the store; the study's run is open.
        runs: known MLflow run ids, by trial.

    Raises:
        StudyError: the file cannot be read or written.
    """

    def __init__(self, path: Path, tracker: Tracker, runs: Mapping[int, str] | None = None) -> None:
        self._folder = path.absolute().parent
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._closed = self._hurried = self._urgent = False
        self._trouble: str | None = None
        self._failures = self._answers = self._singles = 0
        self._refusals = path.with_name(f"{path.stem}-refused{path.suffix}")
        try:
            self._spool = Spool(path)
            self._refused = self._refusals.read_bytes().count(b"\n") if self._refusals.exists() else 0
            self._report_damage()
        except OSError as error:
            raise StudyError(f"outbox {str(path)!r} cannot be used: {error.strerror or error}") from error
        state = self._spool.state
        state.runs = {**(runs or {}), **state.runs}
        self._courier = Courier(tracker, self._folder, state, self._note_run)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def open_trial(self, number: int, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Open a trial's run, again if it exists. This and the other entries raise StudyError when the disk is full."""
        self._append("open", number, name=name, params=_texts(params), tags=_texts(tags))

    def log(
        self,
        run: int | None,
        metrics: Mapping[str, float],
        step: int = 0,
        tags: Mapping[str, Any] | None = None,
        position: int | None = None,
        at: int | None = None,
    ) -> None:
        """Metrics at a step, and tags.

        Args:
            run: number of the trial; None is the study's run.
            metrics: values, which may be NaN or infinite.
            step: of the metrics.
            tags: of the run.
            position: how far the trial has come with this; see :meth:`position`.
            at: when it counts as said, in ms since 1970; now by default. Said twice as of one time, it counts once.
        """
        values = {name: float(value) for name, value in metrics.items()}
        said = {} if at is None else {"at": at}
        self._append("log", run, metrics=values, step=step, tags=_texts(tags or {}), position=position, **said)

    def attach(self, run: int | None, path: str | Path, folder: str | None = None) -> None:
        """Log a file, as it is when it is delivered; one that is gone then is left out."""
        file = Path(path).absolute()
        if file.is_relative_to(self._folder):
            file = file.relative_to(self._folder)  # the folder can be moved
        self._append("attach", run, path=str(file), folder=folder)

    def log_inputs(self, run: int | None, datasets: Sequence[Mapping[str, str]]) -> None:
        """Data that a run used; see :func:`lsx.study.tracked.inputs.describe`."""
        self._append("inputs", run, datasets=[dict(one) for one in datasets])

    def describe_experiment(self, tags: Mapping[str, str]) -> None:
        """Tags of the experiment; see :mod:`lsx.study.tracked.views`."""
        self._append("describe", None, tags=dict(tags))

    def end(self, run: int | None, ending: Ending) -> None:
        """Set a run's final state."""
        self._append("end", run, ending=ending)

    def position(self, number: int) -> int:
        """The largest position ever appended for a trial, by any driver; 0 if none."""
        return self._spool.state.positions.get(number, 0)

    def run_id(self, number: int) -> str | None:
        """The MLflow run of a trial, once it is known."""
        return self._spool.state.runs.get(number)

    @property
    def waiting(self) -> int:
        """Entries that are not delivered yet."""
        return len(self._spool.waiting)

    @property
    def refused(self) -> int:
        """Entries that MLflow would not have; they lie, with the reasons, in ``outbox-refused.jsonl``."""
        return self._refused

    @property
    def trouble(self) -> str | None:
        """Why nothing is delivered, in one line without credentials; None when it works."""
        return self._trouble

    def flush(self, timeout: float, tick: Callable[[], None] | None = None) -> bool:
        """Wait until everything is delivered.

        Args:
            timeout: seconds.
            tick: called several times a second; what it raises ends the waiting.

        Returns:
            whether nothing waits any longer.
        """
        end = time.monotonic() + timeout
        self._hurry(True)
        try:
            while True:
                with self._changed:
                    if not self._spool.waiting:
                        return True
                    if (left := end - time.monotonic()) <= 0:
                        return False
                    self._changed.wait(min(left, TICK))
                if tick is not None:
                    tick()
        finally:
            self._hurry(False)

    def close(self) -> None:
        """Stop after the request in hand, or without it when it takes too long; what waits stays on disk."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(LAST_REQUEST)
        with self._changed:
            if self._closed:
                return
            self._closed = True
            if not self._spool.waiting:
                with suppress(OSError):
                    self._spool.compact()
            self._spool.close()

    def _append(self, do: str, run: int | None, **content: Any) -> None:
        with self._changed:
            if self._closed:
                raise StudyError(f"outbox {str(self._spool.path)!r} is closed")
            try:
                self._spool.append({"do": do, "run": run, "at": int(time.time() * 1000), **content})
            except OSError as error:
                reason = error.strerror or error
                raise StudyError(f"outbox {str(self._spool.path)!r} cannot be written: {reason}") from error
            self._urgent |= do != "log"
            self._changed.notify_all()

    def _hurry(self, on: bool) -> None:
        with self._changed:
            self._hurried = on
            self._changed.notify_all()

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._courier.deliver(batch)
            except Exception as error:  # the thread must outlive whatever MLflow and its stores raise
                self._stumble(batch, error)
            else:
                self._done(batch)

    def _next(self) -> list[Entry]:
        """What one request can carry: one entry, or metrics that follow each other in one run; nothing at the end."""
        with self._changed:
            if not self._spool.waiting:
                self._urgent = False
                self._changed.wait_for(lambda: self._closing or self._spool.waiting)
                self._changed.wait_for(lambda: self._closing or self._hurried or self._urgent, GATHERING)
            if self._closing:
                return []
            waiting = self._spool.waiting.values()
            first, *others = itertools.islice(waiting, 1 if self._singles else METRICS_A_BATCH)
            batch = [first.entry]
            if batch[0]["do"] != "log":
                return batch
            metrics, tags = len(batch[0]["metrics"]), len(batch[0]["tags"])
            for entry in (one.entry for one in others if one.run == first.run):
                if entry["do"] != "log":
                    break
                metrics, tags = metrics + len(entry["metrics"]), tags + len(entry["tags"])
                if metrics > METRICS_A_BATCH or tags > TAGS_A_BATCH:
                    break
                batch.append(entry)
            return batch

    def _note_run(self, number: int, run_id: str) -> None:
        with self._changed:
            if not self._closed:
                self._spool.note_run(number, run_id)

    def _done(self, batch: list[Entry]) -> None:
        with self._changed:
            if self._closed:
                return  # the request outlived its outbox, and is delivered again
            self._failures = self._answers = 0
            self._singles = max(0, self._singles - len(batch))
            self._trouble = None
            try:
                self._spool.acknowledge([entry["n"] for entry in batch])
                if self._spool.bloated:
                    self._spool.compact()
            except OSError as error:
                self._trouble = f"outbox {str(self._spool.path)!r} cannot be written: {error.strerror or error}"
            self._changed.notify_all()

    def _stumble(self, batch: list[Entry], error: Exception) -> None:
        """Try again later; or, when no repetition helps, leave the entry out."""
        if self._closing:
            return
        self._failures += 1
        if not definite(error) and not self._peculiar():
            self._trouble = _line(error)
            self._pause()
        elif len(batch) > 1:
            self._singles, self._failures, self._answers = len(batch), 0, 0
        else:
            self._refuse(batch[0], error)

    def _peculiar(self) -> bool:
        """Whether the entry fails although the store takes others, several times in a row."""
        if self._failures < DOUBTS:
            return False
        self._answers = self._answers + 1 if self._courier.works() else 0
        return self._answers >= ANSWERS

    def _pause(self) -> None:
        pause = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        with self._changed:
            if self._hurried:
                self._changed.wait_for(lambda: self._closing, min(pause, HURRIED_PAUSE))
            else:
                self._changed.wait_for(lambda: self._closing or self._hurried, pause)

    def _refuse(self, entry: Entry, error: Exception) -> None:
        try:
            self._set_aside({"reason": _line(error), "entry": entry})
        except OSError as full:
            self._trouble = f"{str(self._refusals)!r} cannot be written: {full.strerror or full}"
            self._pause()
        else:
            self._done([entry])

    def _set_aside(self, refusal: Mapping[str, Any]) -> None:
        with self._refusals.open("ab") as file:
            file.write(json.dumps(refusal).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._refused += 1

    def _report_damage(self) -> None:
        for line in self._spool.damaged:
            self._set_aside({"reason": "damaged line", "line": line.decode(errors="replace")})
        if self._spool.damaged:
            self._spool.compact()


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _line(error: Exception) -> str:
    return redacted(" ".join(str(error).split()))[:400] or type(error).__name__
