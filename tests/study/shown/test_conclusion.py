"""The end of a study: tests once, tags, choices, and what is kept of checkpoints."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lsx.errors import DataError
from lsx.study.running.recorder import Recorder
from tests.study import fakes
from tests.study.drivers import FakeOutbox, begin, driver, keep

from lsx.study.shown import conclusion, results  # isort: skip

LEARNER = "learner-0.pt"


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
        learners = {f"learner-{index}.pt": "weights" for index in range(recorder.ledger.spec.repeats)}
        keep(recorder, number, str(number), **learners)
        if isinstance(outcome, str):
            recorder.finish(number, {"failed": outcome})
        else:
            final = dict(zip(("accuracy", "ridge"), outcome, strict=True))
            seeds = {name: [value - 0.01, value, value + 0.01] for name, value in final.items()}
            recorder.finish(number, {"final": final, "seeds": seeds if recorder.ledger.spec.repeats > 1 else {}})


def conclude(recorder: Recorder, **more: Any) -> str:
    output = io.StringIO()
    report = conclusion.conclude(recorder, lambda _: None, lambda: None, "sqlite:///m.db", "mlflow ui", **more)
    Console(file=output, width=200).print(report)
    return output.getvalue()


def kept(recorder: Recorder) -> list[int]:
    return [int(path.parent.name) for path in sorted(recorder.folder.path.glob(f"trials/*/{LEARNER}"))]


def test_front_and_baseline_are_tested_tagged_and_kept(tmp_path: Path, tested: list[float]) -> None:
    recorder = driver(tmp_path)
    outbox: Any = recorder.outbox
    play(recorder, (0.5, 0.5), (0.6, 0.4), (0.7, 0.6), (0.4, 0.9), "diverged")
    said = conclude(recorder)
    assert {number for number in range(5) if outbox.tags[f"run{number}"].get("lsx.front") == "true"} == {1, 2}
    assert kept(recorder) == [0, 1, 2]  # front and baseline
    assert len(tested) == 3
    assert ("test/accuracy", 0.25, 4) in outbox.metrics["run0"]
    assert not [name for name, _, _ in outbox.metrics["run3"] if name.startswith("test/")]
    attributes = [trial.user_attrs.get("test") for trial in recorder.ledger.view().get_trials()]
    assert attributes == [{"accuracy": 0.25}] * 3 + [None] * 2
    assert outbox.states["parent"] == "FINISHED"
    summary = {name: value for name, value, _ in outbox.metrics["parent"]}
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
    attached: list[str] = recorder.outbox.attached  # type: ignore[attr-defined]
    assert [name for name in attached if LEARNER in name] == [f"run1/{LEARNER}"]
    longer = driver(tmp_path)
    outbox: Any = longer.outbox
    play(longer, (0.9, 0.1))
    conclude(longer)
    assert len(tested) == 3
    assert outbox.tags["run1"].keys() == {"lsx.front", "mlflow.note.content"}  # only what changed is said again
    assert outbox.tags["run1"]["lsx.front"] == "false"
    assert outbox.tags["run1"]["mlflow.note.content"].endswith("Not on the Pareto front.")
    assert outbox.tags["run2"]["lsx.front"] == "true"
    assert "run0" not in outbox.tags
    assert kept(longer) == [0, 2]
    chosen = results.choose(longer.ledger.view(), longer.ledger.spec)
    assert chosen is not None
    assert chosen.number == 2


def test_without_a_complete_trial(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    play(recorder, "diverged", "diverged")
    assert "No trial completed" in conclude(recorder)
    assert not (recorder.folder.path / "best.yaml").exists()
    assert recorder.outbox.states["parent"] == "FINISHED"  # type: ignore[attr-defined]


def test_a_lost_checkpoint_leaves_a_trial_untested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lsx.training import load_learner

    monkeypatch.setattr(conclusion, "load_learner", load_learner)
    recorder = driver(tmp_path)
    outbox: Any = recorder.outbox
    play(recorder, (0.5, 0.5))
    conclude(recorder)
    assert "damaged" in str(outbox.tags["run0"]["lsx.untested"])
    assert "test" not in recorder.ledger.view().get_trials()[0].user_attrs


def test_one_objective_has_no_picture_and_pruned_trials_no_checkpoint(tmp_path: Path) -> None:
    recorder = driver(tmp_path, fakes.spec(objectives=[{"metric": "ridge", "direction": "minimize"}]))
    play(recorder, (0.5, 0.5))
    number = begin(recorder)["number"]
    (recorder.folder.trial(number) / LEARNER).write_text("")
    recorder.finish(number, {})
    conclude(recorder)
    assert not (recorder.folder.path / "front.png").exists()
    assert kept(recorder) == [0]


def test_with_constraints_no_learner_is_dropped_and_the_front_is_feasible(tmp_path: Path) -> None:
    recorder = driver(tmp_path, fakes.spec(constraints=[{"metric": "accuracy", "low": 0.55}]))
    outbox: Any = recorder.outbox
    play(recorder, (0.5, 0.1), (0.6, 0.4), (0.7, 0.6), (0.58, 0.9))
    said = conclude(recorder)
    assert {number for number in range(4) if outbox.tags[f"run{number}"].get("lsx.front") == "true"} == {1, 2}
    assert kept(recorder) == [0, 1, 2, 3]  # a looser bound may bring them back
    assert "1 complete trial outside of accuracy ≥ 0.55" in said
    looser = driver(tmp_path, fakes.spec(constraints=[{"metric": "accuracy", "low": 0.2}]))
    outbox = looser.outbox
    conclude(looser)
    assert outbox.tags["run0"]["lsx.front"] == "true"
    assert f"run0/{LEARNER}" in outbox.attached


def test_only_infeasible_trials_are_no_front(tmp_path: Path) -> None:
    recorder = driver(tmp_path, fakes.spec(constraints=[{"metric": "ridge", "high": 0.05}]))
    outbox: Any = recorder.outbox
    play(recorder, (0.5, 0.5), (0.6, 0.4))
    said = conclude(recorder)
    assert "None of 2 complete trials is within ridge ≤ 0.05" in said
    assert not (recorder.folder.path / "best.yaml").exists()
    assert {outbox.tags[f"run{number}"]["lsx.front"] for number in range(2)} == {"false"}


def test_seeds_are_tested_one_by_one_and_compared_in_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def load(path: Path, dataset: Any) -> tuple[str, None]:
        return path.name, None

    def evaluate(learner: str, dataset: Any, split: str, config: Any) -> dict[str, float]:
        asked.append((learner, config.seed))
        return {"accuracy": 0.2 + 0.1 * config.seed, "ridge": float("nan")}

    monkeypatch.setattr(conclusion, "load_learner", load)
    monkeypatch.setattr(conclusion.metrics, "evaluate", evaluate)
    recorder = driver(tmp_path, fakes.spec(repeats=3))
    outbox: Any = recorder.outbox
    play(recorder, (0.5, 0.5), (0.6, 0.4))
    said = conclude(recorder)
    assert asked == [(f"learner-{index}.pt", index) for index in range(3)] * 2
    logged = {name: value for name, value, _ in outbox.metrics["run1"]}
    assert logged["test/accuracy"] == pytest.approx(0.3)
    assert logged["test/accuracy_std"] == pytest.approx(0.1)
    assert "test/ridge" not in logged
    assert logged["vs_baseline/accuracy"] == pytest.approx(0.1)
    assert logged["vs_baseline/accuracy_ci95"] == pytest.approx(0, abs=1e-9)  # the same seeds, as much better
    assert not [name for name, _, _ in outbox.metrics["run0"] if name.startswith("vs_baseline/")]
    known = recorder.ledger.view().get_trials()[1].user_attrs
    assert known["test_seeds"]["accuracy"] == pytest.approx([0.2, 0.3, 0.4])
    assert "±0.0248" in said  # 4.3027 · 0.01 / √3
    assert {f"run1/learner-{index}.pt" for index in range(3)} <= set(outbox.attached)


def test_data_that_is_gone_leaves_trials_untested_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: Any) -> None:
        raise DataError("s3://key:secret@bucket/images is gone")

    monkeypatch.setattr(conclusion.data, "load", load)
    recorder = driver(tmp_path)
    outbox: Any = recorder.outbox
    play(recorder, (0.5, 0.5))
    conclude(recorder)
    assert outbox.tags["run0"]["lsx.untested"] == "s3://***@bucket/images is gone"
    assert outbox.states["parent"] == "FINISHED"


def test_a_study_that_is_not_complete_ends_as_it_is_told(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    play(recorder, (0.5, 0.5))
    conclude(recorder, ending="KILLED")
    assert recorder.outbox.states["parent"] == "KILLED"  # type: ignore[attr-defined]


def test_an_interruption_between_two_tests_keeps_the_first(tmp_path: Path, tested: list[float]) -> None:
    class Enough(Exception):
        pass

    def check() -> None:
        if tested:
            raise Enough

    recorder = driver(tmp_path)
    play(recorder, (0.5, 0.5), (0.6, 0.4))
    with pytest.raises(Enough):
        conclusion.conclude(recorder, lambda _: None, check, "uri", "mlflow ui")
    assert recorder.outbox.states["parent"] == "RUNNING"  # type: ignore[attr-defined]
    again = driver(tmp_path, outbox=FakeOutbox())
    conclude(again)
    assert len(tested) == 2
