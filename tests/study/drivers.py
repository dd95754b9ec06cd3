"""A driver without Ray and MLflow: a real journal, a recorder, and a tracker that remembers."""

from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from lsx.study import quiet
from lsx.study.spec import StudySpec
from tests.study import fakes

quiet.prepare()

from lsx.study.folder import StudyFolder  # noqa: E402
from lsx.study.ledger import Ledger  # noqa: E402
from lsx.study.recorder import Recorder  # noqa: E402


class FakeTracker:
    """Remembers what it is told, and how the journal stood when a run was ended."""

    uri, parent = "fake://", "parent"

    def __init__(self) -> None:
        self.states: dict[str, str] = {"parent": "RUNNING"}
        self.metrics: dict[str, list[tuple[str, float, int]]] = {}
        self.tags: dict[str, dict[str, Any]] = {}
        self.attached: list[str] = []
        self.journal_at_end: list[TrialState] = []
        self.ledger: Ledger

    def open_trial(self, number: int, name: str, run_id: str | None, params: Any, tags: Any, again: bool) -> str:
        run_id = run_id or f"run{number}"
        self.states[run_id] = "RUNNING"
        return run_id

    def log(self, run_id: str, metrics: dict[str, float], step: int = 0, tags: dict[str, Any] | None = None) -> None:
        self.metrics.setdefault(run_id, []).extend((name, value, step) for name, value in metrics.items())
        self.tags.setdefault(run_id, {}).update(tags or {})

    def attach(self, run_id: str, path: Path) -> None:
        if path.is_file():
            self.attached.append(f"{run_id}/{path.name}")

    def end(self, run_id: str, ending: str) -> None:
        self.states[run_id] = ending
        if run_id != self.parent:
            self.journal_at_end.append(self.ledger.trial(int(run_id.removeprefix("run"))).state)


def driver(path: Path, spec: StudySpec | None = None, trials: int | None = None) -> Recorder:
    """A driver just started on a study's folder."""
    folder = StudyFolder(path, "fake")
    folder.path.mkdir(exist_ok=True)
    tracker: Any = FakeTracker()
    tracker.ledger = Ledger(spec or fakes.spec(), folder.journal, trials)
    return Recorder(tracker.ledger, tracker, folder)


def begin(recorder: Recorder) -> dict[str, Any]:
    assignment = recorder.begin()
    assert assignment is not None
    recorder.started(assignment["number"])
    return assignment


def states(recorder: Recorder) -> list[str]:
    return [trial.state.name for trial in recorder.ledger.study.get_trials()]
