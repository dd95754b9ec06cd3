"""Fake trials that note what they do and meet faults, and ``tune.py`` with them, which dies where it is told.

Environment variables say what goes wrong: CHAOS_FAULTS, in trials (see :func:`run_noted`); CHAOS_KILL, in the driver
(see :func:`arm`); CHAOS_SECONDS is an epoch's time, and CHAOS_NOTES the folder of the trials' notes.
"""

import atexit
import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from lsx.study.environment.places import CHECKPOINT, download
from lsx.study.worker.stopping import StopWord
from tests.study import fakes

EPOCHS = fakes.EPOCHS
TICKS = 5
"""Steps of an epoch."""


class Faults:
    """What goes wrong in one trial.

    ``3@2=raise`` is trial 3 in epoch 2, every time it gets there; ``3@2=die!`` only the first time. Kinds: ``raise``,
    ``die`` (SIGKILL), ``hang`` (no sign of life), ``eat`` (memory, until something kills it) and ``nan`` (in the end).

    Args:
        text: several of these, separated by spaces.
        number: of the trial.
        notes: where it is noted what went wrong before.
    """

    def __init__(self, text: str, number: int, notes: Path) -> None:
        self._notes = notes
        self._kinds = {}
        for one in text.split():
            place, kind = one.split("=")
            trial, epoch = place.split("@")
            if int(trial) == number:
                self._kinds[int(epoch)] = kind

    def has(self, kind: str) -> bool:
        """Whether the trial has this fault in some epoch."""
        return kind in self._kinds.values()

    def meet(self, position: int) -> None:
        """Go wrong, if it is this epoch's turn."""
        kind = self._kinds.get(position, "")
        if kind.endswith("!") and any(one.get("fault") == position for one in read(self._notes)):
            return
        if kind:
            note(self._notes, fault=position)
        {"raise": _raise, "die": _die, "hang": _hang, "eat": _eat}.get(kind.rstrip("!"), lambda: None)()


def run_noted(assignment: Mapping[str, Any]) -> None:
    """Four epochs of some steps, resumable between any two steps; the outcome is a function of the configuration."""
    from ray import tune

    number = assignment["number"]
    notes = Path(os.environ["CHAOS_NOTES"], f"{number:04d}.jsonl")
    faults = Faults(os.environ.get("CHAOS_FAULTS", ""), number, notes)
    epoch, tick = _newest(assignment)
    note(notes, start=[epoch, tick], process=os.getpid())
    stop, seen = StopWord(assignment["stop"]), time.monotonic()
    while epoch < EPOCHS:
        if stop.said():
            _report({"history": [], "kept": True}, epoch, tick)
            note(notes, kept=[epoch, tick], stopped=True)
            tune.report({"stopped": True})
            return
        time.sleep(float(os.environ.get("CHAOS_SECONDS", "0.2")) / TICKS)
        tick += 1
        if tick < TICKS:
            if time.monotonic() - seen > assignment["pulse"]:
                seen = time.monotonic()
                tune.report({"pulse": {"step": tick}})
            continue
        faults.meet(epoch + 1)
        epoch, tick = epoch + 1, 0
        note(notes, trained=epoch)
        _report(fakes.report(epoch), epoch, tick)
        seen = time.monotonic()
        note(notes, kept=[epoch, tick])
    tune.report(fakes.final(assignment, nan=faults.has("nan")))


def read(notes: Path) -> list[dict[str, Any]]:
    """What a trial has noted, in order; a line that a kill has torn is left out."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def note(notes: Path, **what: Any) -> None:
    """Add a line, with the time."""
    with notes.open("a") as file:
        file.write(json.dumps({**what, "at": time.time()}) + "\n")


def _report(message: Mapping[str, Any], epoch: int, tick: int) -> None:
    """Returns when the driver has taken note of it."""
    from ray import tune

    with tempfile.TemporaryDirectory() as made:
        Path(made, CHECKPOINT).write_text(json.dumps([epoch, tick]))
        tune.report(dict(message), checkpoint=tune.Checkpoint.from_directory(made))


def _newest(assignment: Mapping[str, Any]) -> tuple[int, int]:
    """Epoch and step of the newest checkpoint: Tune's own, or the one that an earlier driver left."""
    from ray import tune

    newest = tune.get_checkpoint()
    with tempfile.TemporaryDirectory() as made:
        if newest is not None:
            newest.to_directory(made)
        elif assignment["checkpoint"] is not None:
            download(assignment["checkpoint"], Path(made))
        else:
            return 0, 0
        epoch, tick = json.loads(Path(made, CHECKPOINT).read_text())
        return epoch, tick


def _raise() -> None:
    raise RuntimeError("boom")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(3600)


def _eat() -> None:
    """Take memory, 100 MB at a time and really, until the monitor kills the process, long before it is 8 GB."""
    held = []
    while len(held) < 80:
        held.append(bytearray(os.urandom(1 << 20) * 100))
        time.sleep(0.05)
    raise RuntimeError("nothing has killed a trial of 8 GB")


def arm(text: str) -> None:
    """Let this process be killed at a place of the code.

    Args:
        text: ``module:Class.method:n:when``: at the n-th call, ``before`` it, ``after`` it, or ``torn``, when half of
            what the last argument holds (bytes) is written.
    """
    module, path, count, when = text.split(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for one in classes:
        owner = getattr(owner, one)
    original = getattr(owner, name)
    setattr(owner, name, _killing(original, int(count), when))


def _killing(original: Callable[..., Any], count: int, when: str) -> Callable[..., Any]:
    calls = 0

    @wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            _die()
        if calls == count and when == "torn":
            original(*args[:-1], args[-1][: len(args[-1]) // 2], **kwargs)
            _die()
        result = original(*args, **kwargs)
        if calls == count:
            _die()
        return result

    return called


def _measured(trial: Any, folder: Any, count: int) -> dict[str, list[float]]:
    """Instead of the test of real learners."""
    return {"accuracy": [value / 2 for value in [trial.values[0]] * count]}


def _tearing(backend: Any) -> None:
    """Let the journal write through a function that :func:`arm` can tear."""

    def append_logs(self: Any, logs: list[dict[str, Any]]) -> None:
        journal_write(self._file_path, "".join(json.dumps(log) + "\n" for log in logs).encode())

    backend.append_logs = append_logs


def journal_write(path: str, content: bytes) -> None:
    """Append to the journal as Optuna does."""
    with open(path, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True)
class Order:
    """What a driver is to do.

    Attributes:
        command: its arguments.
        folder: to work in.
        environment: what is set in addition.
        out, err: files for what it says.
    """

    command: list[str]
    folder: Path
    environment: dict[str, str]
    out: Path
    err: Path


def run(order: Order) -> None:
    """The whole life of a driver in a process that was forked for it: that of ``tune.py``."""
    os.setpgid(0, 0)
    os.chdir(order.folder)
    os.environ.update(order.environment)
    for stream, file in ((sys.stdout, order.out), (sys.stderr, order.err)):
        stream.flush()
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    sys.argv = ["tune.py", *order.command]
    sys.orig_argv = [sys.executable, *sys.argv]
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    atexit._run_exitfuncs()
    sys.exit(status)


def main() -> int:
    """``tune.py`` with noted trials."""
    from optuna.storages.journal import JournalFileBackend

    from lsx.study import cli
    from lsx.study.running import runner
    from lsx.study.shown import conclusion

    runner.run_trial = run_noted
    conclusion.measure_test = _measured
    Path(os.environ["CHAOS_NOTES"]).mkdir(exist_ok=True)
    if place := os.environ.pop("CHAOS_KILL", ""):
        if "journal_write" in place:
            _tearing(JournalFileBackend)
        arm(place)
    return cli.main()
