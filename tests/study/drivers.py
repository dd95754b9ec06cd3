"""A driver without Ray and MLflow: a real journal, a recorder, an outbox that remembers, and a worker in between."""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from lsx.study.declared.spec import StudySpec
from lsx.study.environment import quiet
from tests.study import fakes

quiet.prepare()

from lsx.study.environment.folder import StudyFolder  # noqa: E402
from lsx.study.environment.places import CHECKPOINT, Storage  # noqa: E402
from lsx.study.running.recorder import Recorder  # noqa: E402
from lsx.study.search import optunastore  # noqa: E402
from lsx.study.search.ledger import Ledger  # noqa: E402
from lsx.study.worker import luggage, reporter, trial  # noqa: E402
from lsx.yamlfile import dump_plain  # noqa: E402

PARENT = "parent"


class FakeOutbox:
    """Remembers what it is told, by ``run<number>`` or ``parent``, and how the journal stood when a run was ended.

    Args:
        positions: how far trials have come with earlier drivers.
    """

    trouble: str | None = None
    refused = waiting = 0
    closed = False

    def __init__(self, positions: Mapping[int, int] | None = None) -> None:
        self.states: dict[str, str] = {PARENT: "RUNNING"}
        self.metrics: dict[str, list[tuple[str, float, int]]] = {}
        self.params: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, Any]] = {}
        self.attached: list[str] = []
        self.inputs: dict[str, list[Mapping[str, str]]] = {}
        self.experiment: dict[str, str] = {}
        self.journal_at_end: list[TrialState] = []
        self.positions: dict[int, int] = dict(positions or {})
        self.ledger: Ledger

    def open_trial(self, number: int, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        self.states[_run(number)] = "RUNNING"
        self.params[_run(number)] = dict(params)
        self.tags.setdefault(_run(number), {}).update(tags)

    def log(
        self,
        run: int | None,
        metrics: Mapping[str, float],
        step: int = 0,
        tags: Mapping[str, Any] | None = None,
        position: int | None = None,
        at: int | None = None,
    ) -> None:
        self.metrics.setdefault(_run(run), []).extend((name, value, step) for name, value in metrics.items())
        self.tags.setdefault(_run(run), {}).update(tags or {})
        if run is not None and position is not None:
            self.positions[run] = max(position, self.position(run))

    def attach(self, run: int | None, path: str | Path, folder: str | None = None) -> None:
        if Path(path).is_file():
            self.attached.append(f"{_run(run)}/{Path(path).name}")

    def log_inputs(self, run: int | None, datasets: Sequence[Mapping[str, str]]) -> None:
        self.inputs.setdefault(_run(run), []).extend(datasets)

    def describe_experiment(self, tags: Mapping[str, str]) -> None:
        self.experiment.update(tags)

    def end(self, run: int | None, ending: str) -> None:
        self.states[_run(run)] = ending
        if run is not None:
            self.journal_at_end.append(self.ledger.trial(run).state)

    def position(self, number: int) -> int:
        return self.positions.get(number, 0)

    def run_id(self, number: int) -> str | None:
        return _run(number) if _run(number) in self.states else None

    def flush(self, timeout: float, tick: Any = None) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def _run(number: int | None) -> str:
    return PARENT if number is None else f"run{number}"


def ledger(path: Path, spec: StudySpec | None = None, trials: int | None = None, name: str = "fake") -> Ledger:
    """The record in the journal of a study's folder below ``path``."""
    folder = StudyFolder(path, name)
    folder.path.mkdir(parents=True, exist_ok=True)
    spec = spec or fakes.spec()
    return Ledger(spec, optunastore.open_study(spec, folder.journal), trials)


def driver(path: Path, spec: StudySpec | None = None, trials: int | None = None, outbox: Any = None) -> Recorder:
    """A driver just started on a study's folder."""
    folder = StudyFolder(path, "fake")
    outbox = outbox or FakeOutbox()
    outbox.ledger = ledger(path, spec, trials)
    return Recorder(outbox.ledger, outbox, folder, Storage(folder.ray))


def begin(recorder: Recorder) -> dict[str, Any]:
    assignment = recorder.begin()
    assert assignment is not None
    recorder.started(assignment["number"])
    return assignment


def keep(recorder: Recorder, number: int, content: str = "", **files: str) -> Path:
    """Let a trial's checkpoint, a folder with these files, reach the storage, as Tune takes it there."""
    made = recorder.folder.ray / "20200101-000000-1" / f"{number:04d}-t" / f"checkpoint_{len(content):06d}"
    made.mkdir(parents=True, exist_ok=True)
    for name, text in {CHECKPOINT: content, **files}.items():
        (made / name).write_text(text)
    recorder.checkpointed(number, str(made))
    return made


def states(recorder: Recorder) -> list[str]:
    return [trial.state.name for trial in recorder.ledger.study.get_trials()]


def declare(recorder: Recorder, **surroundings: str) -> None:
    """Leave in the study's folder what a driver leaves there for those who look at it later."""
    (recorder.folder.path / "study.yaml").write_text(dump_plain(recorder.ledger.spec.plain()))
    recorder.folder.note_surroundings(**surroundings)


class Lost(BaseException):
    """The worker is gone."""


class FakeTune:
    """Keeps reports, and a copy of the checkpoint of each.

    Args:
        folder: of the copies, which are called by the report's index.
        lost_after: reports after which the worker is lost.
        newest: Tune's own checkpoint.
    """

    def __init__(self, folder: Path, lost_after: int | None = None, newest: Path | None = None) -> None:
        self.folder, self.lost_after, self.newest = folder, lost_after, newest
        self.reports: list[dict[str, Any]] = []
        self.Checkpoint = SimpleNamespace(from_directory=Path)

    def get_checkpoint(self) -> Any:
        if self.newest is None:
            return None
        return SimpleNamespace(to_directory=lambda made: shutil.copytree(self.newest, made, dirs_exist_ok=True))

    def install(self, monkeypatch: pytest.MonkeyPatch, word: "Word | None" = None) -> None:
        """Let a trial in this process use it, with no GPU."""
        for module in (trial, reporter, luggage):
            monkeypatch.setattr(module, "tune", self)
        monkeypatch.setattr(reporter, "StopWord", word or Word(math.inf))
        monkeypatch.setattr(trial.ray, "get_gpu_ids", list)

    def report(self, message: dict[str, Any], checkpoint: Path | None = None) -> None:
        if checkpoint is not None:
            shutil.copytree(checkpoint, self.folder / str(len(self.reports)))
        self.reports.append(message)
        if len(self.reports) == self.lost_after:
            raise Lost


class Word:
    """The stop word, which is said at the ``n``-th look."""

    looks = 0

    def __init__(self, n: float) -> None:
        self.n = n

    def __call__(self, key: str) -> "Word":
        return self

    def said(self) -> bool:
        self.looks += 1
        return self.looks >= self.n
