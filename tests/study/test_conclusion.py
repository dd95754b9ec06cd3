"""The end of a study: tests once, tags, choices, and what is kept of checkpoints."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lsx.study.recorder import Recorder
from tests.study import fakes
from tests.study.drivers import begin, driver

from lsx.study import conclusion, results  # isort: skip
from lsx.study.folder import CHECKPOINT  # isort: skip


@pytest.fixture(autouse=True)
def tested(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No network is loaded; λ_e says which trial was tested."""
    weights: list[float] = []

    class Dataset:
        def to(self, _: Any) -> "Dataset":
            return self

    def evaluate(learner: Any, dataset: Any, split: str, config: Any) -> dict[str, float]:
        assert split == "test"
        weights.append(config.loss.lambda_e)
        return {"accuracy": 0.25, "ridge": float("nan")}

    monkeypatch.setattr(conclusion.data, "load", lambda config: Dataset())
    monkeypatch.setattr(conclusion, "load_learner", lambda path, dataset: (None, None))
    monkeypatch.setattr(conclusion.metrics, "evaluate", evaluate)
    return weights


def play(recorder: Recorder, *outcomes: tuple[float, float] | str) -> None:
    """Trials that end with these objective values, or for this reason."""
    for outcome in outcomes:
        number = begin(recorder)["number"]
        recorder.report(number, fakes.report(4))
        checkpoint = recorder.folder.ray / str(number) / CHECKPOINT
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_text(str(number))
        recorder.checkpointed(number, checkpoint)
        if isinstance(outcome, str):
            recorder.finish(number, {"failed": outcome})
        else:
            recorder.finish(number, {"final": dict(zip(("accuracy", "ridge"), outcome, strict=True))})


def conclude(recorder: Recorder) -> str:
    output = io.StringIO()
    report = conclusion.conclude(recorder, lambda _: None, lambda: None, "mlflow ui")
    Console(file=output, width=200).print(report)
    return output.getvalue()


def kept(recorder: Recorder) -> list[int]:
    return [int(path.parent.name) for path in sorted(recorder.folder.path.glob(f"trials/*/{CHECKPOINT}"))]


def test_front_and_baseline_are_tested_tagged_and_kept(tmp_path: Path, tested: list[float]) -> None:
    recorder = driver(tmp_path)
    tracker: Any = recorder.tracker
    play(recorder, (0.5, 0.5), (0.6, 0.4), (0.7, 0.6), (0.4, 0.9), "diverged")
    said = conclude(recorder)
    assert {number for number in range(5) if tracker.tags[f"run{number}"].get("lsx.front") == "true"} == {1, 2}
    assert kept(recorder) == [0, 1, 2]  # front and baseline
    assert len(tested) == 3
    assert ("test/accuracy", 0.25, 0) in tracker.metrics["run0"]
    assert not [name for name, _, _ in tracker.metrics["run3"] if name.startswith("test/")]
    attributes = [trial.user_attrs.get("test") for trial in recorder.ledger.view().get_trials()]
    assert attributes == [{"accuracy": 0.25}] * 3 + [None] * 2
    assert tracker.states["parent"] == "FINISHED"
    summary = {name: value for name, value, _ in tracker.metrics["parent"]}
    assert (summary["trials/complete"], summary["trials/failed"]) == (4, 1)
    assert (summary["best/accuracy"], summary["best/ridge"]) == (0.7, 0.4)
    assert (recorder.folder.path / "best.yaml").is_file()
    assert (recorder.folder.path / "front.png").stat().st_size > 5000
    assert "0.2500" in said


def test_a_longer_study_tests_only_what_is_new(tmp_path: Path, tested: list[float]) -> None:
    recorder = driver(tmp_path)
    play(recorder, (0.5, 0.5), (0.6, 0.4))
    conclude(recorder)
    conclude(recorder)
    assert len(tested) == 2
    attached: list[str] = recorder.tracker.attached  # type: ignore[attr-defined]
    assert [name for name in attached if CHECKPOINT in name] == [f"run1/{CHECKPOINT}"]
    longer = driver(tmp_path)
    tracker: Any = longer.tracker
    play(longer, (0.9, 0.1))
    conclude(longer)
    assert len(tested) == 3
    assert tracker.tags["run1"] == {"lsx.front": "false"}
    assert tracker.tags["run2"]["lsx.front"] == "true"
    assert kept(longer) == [0, 2]
    chosen = results.choose(longer.ledger.view(), longer.ledger.spec)
    assert chosen is not None
    assert chosen.number == 2


def test_without_a_complete_trial(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    play(recorder, "diverged", "diverged")
    assert "No trial completed" in conclude(recorder)
    assert not (recorder.folder.path / "best.yaml").exists()
    assert recorder.tracker.states["parent"] == "FINISHED"  # type: ignore[attr-defined]


def test_a_lost_checkpoint_leaves_a_trial_untested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lsx.training import load_learner

    monkeypatch.setattr(conclusion, "load_learner", load_learner)
    recorder = driver(tmp_path)
    tracker: Any = recorder.tracker
    play(recorder, (0.5, 0.5))
    conclude(recorder)
    assert "damaged" in str(tracker.tags["run0"]["lsx.untested"])
    assert "test" not in recorder.ledger.view().get_trials()[0].user_attrs


def test_one_objective_has_no_picture_and_pruned_trials_no_checkpoint(tmp_path: Path) -> None:
    recorder = driver(tmp_path, fakes.spec(objectives=[{"metric": "ridge", "direction": "minimize"}]))
    play(recorder, (0.5, 0.5))
    number = begin(recorder)["number"]
    (recorder.folder.trial(number) / CHECKPOINT).write_text("")
    recorder.finish(number, {})
    conclude(recorder)
    assert not (recorder.folder.path / "front.png").exists()
    assert kept(recorder) == [0]
