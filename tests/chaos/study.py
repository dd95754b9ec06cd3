"""A study of noted trials in a folder of its own, and the drivers that run it."""

import contextlib
import functools
import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from lsx.study.environment import quiet
from tests.study import fakes

quiet.prepare()

import optuna  # noqa: E402

from tests.chaos import trials  # noqa: E402
from tests.chaos.trials import Order  # noqa: E402

NAME = "fake"
SECONDS_BETWEEN_LOOKS = 1.0
PATIENCE = 240.0
"""Seconds for one driver; a loaded machine needs several times what a quiet one does."""
CONTENT: dict[str, Any] = {
    **fakes.CONTENT,
    "sampler": {"type": "random"},
    "budget": {"trials": 6, "attempts": 50},  # a kill of the driver counts as a start of what was running
    "resources": {"max_concurrent": 2},
}
GRID: dict[str, Any] = {
    "sampler": {"type": "grid"},
    "space": {"loss.lambda_e": {"type": "float", "low": 1.0, "high": 100.0, "log": True, "points": 5}},
    "reference_trials": {"baseline": {"stages": ["pretrain"]}, "published": {"loss.lambda_e": 10.0}},
}
TPE: dict[str, Any] = {
    "sampler": {"type": "tpe", "startup_trials": 2},
    "resources": {"max_concurrent": 1},
    "budget": {"trials": 5, "attempts": 50},
}
VARIANTS: dict[str, dict[str, Any]] = {"random": {}, "grid": GRID, "tpe": TPE}
"""Studies that give the same trials, in whatever order they end."""


@functools.cache
def nursery() -> Any:
    """Where drivers come from: a process without threads that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["lsx.study.cli", "lsx.study.commands", "lsx.study.running.runner", "tests.chaos.trials"]
    )
    return context


class Driver:
    """One process that runs a study, in a process group of its own, as a shell starts it.

    It is forked from one that has imported everything, which would take half of the time of a small study.

    Args:
        command: its arguments.
        folder: the working folder; output goes there, to files of the driver's own.
        environment: what is set in addition.

    Attributes:
        process: the process itself.
        family: processes below it that were seen, Ray's.
        began: when, in seconds since 1970.
    """

    count = 0

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        Driver.count += 1
        self._out, self._err = folder / f"out-{Driver.count}.txt", folder / f"err-{Driver.count}.txt"
        self._out.touch()
        self._err.touch()
        order = Order(command, folder, {"OMP_NUM_THREADS": "1", "COLUMNS": "100", **environment}, self._out, self._err)
        self.process = nursery().Process(target=trials.run, args=(order,))
        self.process.start()
        self.family: set[psutil.Process] = set()
        self.began, self._looked = time.time(), 0.0

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def output(self) -> str:
        """On one line."""
        return " ".join(self._out.read_text(errors="replace").split())

    @property
    def errors(self) -> str:
        return self._err.read_text(errors="replace")

    @property
    def over(self) -> bool:
        """Whether it has ended; takes note of its family while it has not."""
        if self.process.exitcode is not None:
            return True
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self.look()
        return False

    def look(self) -> None:
        """Take note of the processes below; that costs some."""
        self._looked = time.monotonic()
        with contextlib.suppress(psutil.Error):
            self.family |= set(psutil.Process(self.pid).children(recursive=True))

    def until(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> bool:
        """Wait until something holds; False: the driver has ended before."""
        end = time.monotonic() + seconds
        while not condition():
            if self.over:
                return False
            assert time.monotonic() < end, f"nothing happened for {seconds} s: {self.output[-500:]} {self.errors}"
            time.sleep(0.03)
        return True

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal, to the whole process group as a terminal does; nothing if the driver has ended."""
        self.look()
        if self.process.exitcode is None:
            os.killpg(self.pid, number) if group else os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit status."""
        self.until(lambda: False, seconds)
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def orphans(self, seconds: float = 20.0) -> list[str]:
        """What is left of its family after some time; Ray's two agents notice the end of others within a minute."""
        end, left = time.monotonic() + seconds, self.family
        while left := {one for one in left if _lives(one) and "agent" not in _title(one).lower()}:
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        return [_title(one) for one in left]


class Study:
    """A study and its traces.

    Args:
        folder: of its own; it exists.
        variant: of :data:`VARIANTS`.
        changes: sections of the study file.
        environment: of its drivers.

    Attributes:
        finished: by trial that was seen finished, how often it had been started then.
    """

    def __init__(self, folder: Path, variant: str = "random", changes: Any = None, **environment: str) -> None:
        self.path, self.environment = folder, environment
        self.content: dict[str, Any] = {**CONTENT, **VARIANTS[variant], **(changes or {})}
        self.folder, self.notes = folder / "lsx-studies" / NAME, folder / "notes"
        self.journal, self.outbox = self.folder / "journal.log", self.folder / "outbox.jsonl"
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.drivers: list[Driver] = []
        self.finished: dict[int, int] = {}
        self.write()

    @property
    def planned(self) -> int:
        return int(self.content["budget"]["trials"])

    def write(self, **changes: Any) -> None:
        """Write the study file, with sections changed."""
        self.content |= changes
        (self.path / "fake.yaml").write_text(yaml.safe_dump(self.content))

    def start(self, *flags: str, **environment: str) -> Driver:
        """The command that runs or continues the study."""
        self.note_finished()
        known = {"CHAOS_NOTES": str(self.notes), **self.environment, **environment}
        self.drivers.append(driver := Driver(["--study", "fake.yaml", *flags], self.path, known))
        return driver

    def finish(self, *flags: str, **environment: str) -> Driver:
        """The same, to the end."""
        driver = self.start(*flags, **environment)
        status = driver.wait()
        assert status == 0, f"exit status {status}: {driver.output[-500:]} {driver.errors[-2000:]}"
        return driver

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Optuna's, also beside a driver; none before the study is there."""
        if not self.journal.is_file():
            return []
        backend = optuna.storages.journal.JournalFileBackend(str(self.journal))
        try:
            return optuna.load_study(study_name=NAME, storage=optuna.storages.JournalStorage(backend)).get_trials()
        except (KeyError, ValueError):  # not there yet, or a line that is being written
            return []

    @property
    def identity(self) -> str | None:
        """Tells this study from others of its name; None before it is there."""
        text = self.journal.read_text(errors="replace") if self.journal.exists() else ""
        found = re.findall(r'"identity":\s*"(\w+)"', text)
        return found[0] if found else None

    def forget(self) -> None:
        """The study begins anew: what was noted belongs to the old one."""
        if self.notes.exists():
            self.notes.rename(self.path / f"notes-{len(self.drivers)}")
        self.finished.clear()

    def end(self) -> None:
        """Kill the drivers that still run, and wait until their processes are gone."""
        for driver in self.drivers:
            driver.signal(signal.SIGKILL)
            driver.process.join()
            driver.orphans(60)

    def noted(self, number: int) -> list[dict[str, Any]]:
        """What a trial noted."""
        return trials.read(self.notes / f"{number:04d}.jsonl")

    def starts(self, number: int) -> int:
        return sum("start" in one for one in self.noted(number))

    def note_finished(self) -> None:
        """Remember the trials that are finished by now: they must not be started again."""
        for trial in self.trials():
            if trial.state.is_finished():
                self.finished.setdefault(trial.number, self.starts(trial.number))

    def workers(self) -> list[psutil.Process]:
        """Living processes that run a trial."""
        found = []
        for file in sorted(self.notes.glob("*.jsonl")):
            for one in trials.read(file):
                if "process" in one and psutil.pid_exists(one["process"]):
                    process = psutil.Process(one["process"])
                    if "ray::" in _title(process):
                        found.append(process)
        return found

    def size(self) -> int:
        """Lines of journal and outbox: how far the study is."""
        return sum(file.read_bytes().count(b"\n") for file in (self.journal, self.outbox) if file.exists())

    def bytes(self) -> dict[str, bytes]:
        """All files of the study's folder."""
        return {
            str(file.relative_to(self.folder)): file.read_bytes() for file in self.folder.rglob("*") if file.is_file()
        }

    def last_words(self) -> str:
        """What the drivers said last, for a person who looks for the reason."""
        lines = [f"{index}: {one.output[-300:]} | {one.errors[-1500:]}" for index, one in enumerate(self.drivers)]
        return "\n".join(lines)


def table(found: list[optuna.trial.FrozenTrial]) -> dict[int, Any]:
    """What must come out the same, whatever happened: number to configuration and values."""
    return {one.number: (json.dumps(one.user_attrs.get("config"), sort_keys=True), one.values) for one in found}


def front(found: list[optuna.trial.FrozenTrial]) -> set[Any]:
    """The configurations that no other complete trial beats, with their values (the first is maximised)."""
    done = [(key, values) for key, values in table(found).values() if values is not None]
    return {
        (key, *values)
        for key, values in done
        if not any(other != values and other[0] >= values[0] and other[1] <= values[1] for _, other in done)
    }


def damage_line(text: str) -> str | None:
    """The file that a notice about a damaged journal names."""
    found = re.search(r"what was cut off lies in (\S+)", text)
    return None if found is None else found[1]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200] or str(process.name())
    except psutil.Error:
        return ""
