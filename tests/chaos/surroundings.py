"""Faults of a study's surroundings: servers and databases that go away, files that are locked, disks that fill up.

Also an entry point, ``python -m tests.chaos.surroundings --study fake.yaml``: ``tune.py`` with fake trials that meet a
full disk as real ones do.
"""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.study import drive, fakes

COMMAND = ["-m", "tests.chaos.surroundings", "--study", "fake.yaml"]
EPOCHS = fakes.EPOCHS


def run_guarded(assignment: Mapping[str, Any]) -> None:
    """A fake trial within the real one's way out."""
    from lsx.study.worker import trial

    trial._run = fakes.run_fake
    trial.run_trial(assignment)


class Study:
    """One study and the processes that run it, in a folder of its own.

    Args:
        path: of the study's YAML file and of what the processes write; it exists.
        trials, attempts: of the budget; with one attempt, a fault that uses it up makes the trial fail.
        flags: of the command line.
        folder: of all studies; ``lsx-studies`` below ``path`` by default.
        seconds: of an epoch.
    """

    def __init__(
        self,
        path: Path,
        *flags: str,
        trials: int = 6,
        attempts: int = 1,
        folder: Path | None = None,
        seconds: float = 0.5,
        **environment: str,
    ) -> None:
        self.path, self.seconds = path, seconds
        self.folder = (folder or path / "lsx-studies") / "fake"
        self.starts = path / "starts"
        self._command = [*COMMAND, "--folder", str(self.folder.parent), *flags]
        self._environment = {"FAKE_SECONDS": str(seconds), "FAKE_STARTS": str(self.starts), **environment}
        self.url = next((flags[at + 1] for at, flag in enumerate(flags) if flag == "--optuna-storage"), None)
        content = {
            **fakes.CONTENT,
            "sampler": {"type": "random"},
            "budget": {"trials": trials, "attempts": attempts},
            "resources": {"max_concurrent": 2},
        }
        (path / "fake.yaml").write_text(yaml.safe_dump(content))
        self._ended: dict[int, int] = {}

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """The command, in the background."""
        self._ended |= {one.number: len(self.begun()[one.number]) for one in self.trials() if one.state.is_finished()}
        return drive.start(self._command, self.path, **self._environment, **environment)

    def finish(self, process: subprocess.Popen[str] | None = None, seconds: float = 240, **environment: str) -> int:
        """The command's exit status."""
        return (process or self.start(**environment)).wait(seconds)

    @property
    def output(self) -> str:
        """Of the newest process, on one line."""
        return " ".join((self.path / "stdout.txt").read_text().split())

    @property
    def errors(self) -> str:
        return (self.path / "stderr.txt").read_text()

    def trials(self) -> list[Any]:
        """Optuna's, read beside the driver; none before there is a study."""
        import optuna

        try:
            if self.url is None:
                return drive.trials(self.folder)
            return optuna.load_study(study_name="fake", storage=self.url).get_trials()
        except Exception:  # half-made, locked, or gone
            return []

    def finished(self) -> int:
        """Trials that have ended; asked often, beside a driver, it is to be cheap and must not make a database."""
        if self.url is not None:
            return _count_finished(Path(self.url.removeprefix("sqlite:///")))
        return sum(trial.state.is_finished() for trial in self.trials())

    def resumable(self) -> list[int]:
        """Running trials with a checkpoint."""
        running = [trial for trial in self.trials() if trial.state.name == "RUNNING"]
        return [trial.number for trial in running if "checkpoint" in trial.user_attrs]

    def begun(self) -> list[list[int]]:
        """Of each trial that was started, by number: from which epoch, at each start."""
        return [[int(word) for word in file.read_text().split()] for file in sorted(self.starts.glob("*.txt"))]

    def check(self, database: Path, reference: list[Any]) -> None:
        """Everything that must hold at the end, whatever happened in between.

        Args:
            database: MLflow's.
            reference: the trials of an undisturbed study.
        """
        found = self.trials()
        assert [trial.state.name for trial in found] == ["COMPLETE"] * len(reference)
        assert [(trial.params, trial.values) for trial in found] == [(one.params, one.values) for one in reference]
        assert {trial.user_attrs["attempts"] for trial in found} == {1}
        begun = self.begun()
        assert [starts[0] for starts in begun] == [0] * len(reference)
        assert {number: len(begun[number]) for number in self._ended} == self._ended, "a finished trial was run again"
        client, parents, runs = drive.runs(database, "fake")
        assert [one.info.status for one in parents] == ["FINISHED"]
        assert {one.info.status for one in runs} == {"FINISHED"}
        by_trial = {int(one.data.tags["lsx.trial"]): one for one in runs}
        assert len(runs) == len(by_trial) == len(found)
        for number, one in by_trial.items():
            trial = found[number]
            assert trial.user_attrs.get("run_id", one.info.run_id) == one.info.run_id
            assert one.data.tags["lsx.status"] == "complete"
            assert one.data.tags["lsx.front"] == str(not _beaten(trial, reference)).lower()
            assert one.data.metrics["final/accuracy"] == trial.values[0]
            assert _history(client, one.info.run_id) == list(range(1, EPOCHS + 1))


def _count_finished(file: Path) -> int:
    """Trials that have ended in Optuna's SQLite file."""
    if not file.exists():
        return 0
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        states = database.execute("SELECT state FROM trials").fetchall()
        return sum(state in ("COMPLETE", "PRUNED", "FAIL") for (state,) in states)
    return 0


def _beaten(trial: Any, others: list[Any]) -> bool:
    """Whether another trial has more of the first objective and less of the second."""
    accuracy, ridge = trial.values
    return any(one.values[0] >= accuracy and one.values[1] <= ridge and one.values != trial.values for one in others)


def _history(client: Any, run_id: str) -> list[int]:
    """Steps of the loss, in the order of the database's entries."""
    stages = ("pretrain", "joint", "finetune")
    return [metric.step for stage in stages for metric in client.get_metric_history(run_id, f"{stage}/loss")]


class Proxy:
    """Passes on, while it is entered, what goes to a server on this machine, late.

    Args:
        port: of the server.

    Attributes:
        uri: where it listens.
        seconds: by which every request is late.
        requests: passed on so far.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.seconds, self.requests = 0.0, 0

    def __enter__(self) -> "Proxy":
        self._listening = socket.create_server(("127.0.0.1", self._port))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Refuse connections, and break those that are there."""
        for one in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, asking: bool) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 20):
                if asking:
                    time.sleep(self.seconds)
                    self.requests += 1
                sink.sendall(content)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """A SQLite file that nobody else can read or write."""
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


@contextmanager
def disk(path: Path, megabytes: int = 8) -> Iterator[Path]:
    """A small disk; skips the test where none can be mounted."""
    path.mkdir()
    _or_skip("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(folder: Path) -> Path:
    """Use up what is left on the folder's disk; returns the file that does."""
    big = folder / "big"
    with big.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return big


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A disk (see :func:`disk`) that takes no writes."""
    _or_skip("mount", "-o", "remount,ro", str(path))
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(path)], check=True)


@contextmanager
def immutable(file: Path) -> Iterator[None]:
    """A file that not even root can write, nor who has it open already."""
    _or_skip("chattr", "+i", str(file))
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(file)], check=True)


def _or_skip(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]} here")
    if done.returncode:
        pytest.skip(f"{' '.join(command[:2])} is not allowed here: {done.stderr.strip()}")


def main() -> int:
    """``tune.py`` with :func:`run_guarded`."""
    from lsx.study import cli
    from lsx.study.running import runner

    runner.run_trial = run_guarded
    Path(os.environ["FAKE_STARTS"]).mkdir(exist_ok=True)
    return cli.main()


if __name__ == "__main__":
    # By its importable name: a worker cannot find what __main__ defines.
    from tests.chaos import surroundings

    sys.exit(surroundings.main())
