"""What runs are tagged with, and what MLflow's pages say of them."""

from pathlib import Path
from typing import Any

import pytest

from lsx.study.running.recorder import Recorder, run_name
from tests.study import fakes
from tests.study.drivers import begin, driver, keep

from lsx.study.shown import notes  # isort: skip
from lsx.study.tracked import views  # isort: skip


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """Baseline, published and searched trials that completed, then one that was pruned and one that failed."""
    made = driver(tmp_path)
    made._provenance = {"dataset": "mnist", "sha256": "ab" * 32}
    for outcome in ((0.5, 0.5), (0.6, 0.4), (0.4, 0.6), "pruned", "diverged"):
        number = begin(made)["number"]
        made.report(number, fakes.report(4))
        keep(made, number, str(number))
        if outcome == "pruned":
            made.finish(number, {})
        elif isinstance(outcome, str):
            made.finish(number, {"failed": outcome})
        else:
            made.finish(number, {"final": dict(zip(("accuracy", "ridge"), outcome, strict=True)), "seeds": {}})
    return made


def test_every_trial_has_every_tag_that_people_filter_by(recorder: Recorder) -> None:
    outbox: Any = recorder.outbox
    rows = [
        tuple(outbox.tags[f"run{number}"][f"lsx.{name}"] for name in ("status", "pruned", "baseline", "source"))
        for number in range(5)
    ]
    assert rows == [
        ("complete", "false", "true", "reference trial"),
        ("complete", "false", "false", "reference trial"),
        ("complete", "false", "false", "sampler"),
        ("pruned", "true", "false", "sampler"),
        ("failed", "false", "false", "sampler"),
    ]
    assert {outbox.tags[f"run{number}"]["lsx.front"] for number in range(5)} == {"false"}
    explainers = [outbox.tags[f"run{number}"]["lsx.explainer"] for number in range(2)]
    assert explainers == ["none", "input_x_gradient"]


def test_a_trial_says_how_it_ended(recorder: Recorder) -> None:
    outbox: Any = recorder.outbox
    said = [outbox.tags[f"run{number}"][views.NOTE] for number in (0, 3, 4)]
    assert said == [
        "**Complete**: accuracy 0.5000, ridge 0.5000 on validation images.",
        "**Pruned**: stopped by the scheduler after epoch 4",
        "**Failed**: diverged",
    ]


def test_data_is_an_input_where_its_origin_is_known(recorder: Recorder) -> None:
    outbox: Any = recorder.outbox
    inputs = {number: [one["context"] for one in outbox.inputs[f"run{number}"]] for number in range(5)}
    assert inputs == {number: ["train", "validation"] for number in range(5)}
    recorder._provenance = {"dataset": "another"}
    recorder.log_inputs(0, recorder.ledger.spec.configure({}), ("test",))
    assert len(outbox.inputs["run0"]) == 2


def test_names_tell_explainer_and_weights(recorder: Recorder) -> None:
    spec = recorder.ledger.spec
    config = spec.configure({"loss.lambda_e": 12.5, "loss.lambda_c": 2.0, "loss.lambda_ft": 3.0})
    assert run_name("search", config) == "input_x_gradient λe=12.5 λc=2 λft=3"
    assert run_name("published", config.replace({"stages": ["joint"]})) == "published: input_x_gradient λe=12.5 λc=2"
    assert run_name("baseline", config.replace({"stages": ["pretrain"]})) == "baseline: classification only"
    assert run_name("search", None) == "search (refused)"


def test_a_study_says_what_came_of_it(recorder: Recorder) -> None:
    view, spec = recorder.ledger.view(), recorder.ledger.spec
    text = notes.study(view, spec).replace(notes.PADDING, " ")
    assert "| 000 (baseline) | 0.5000 | 0.5000 |" in text
    assert "| 001 (chosen) | 0.6000 | 0.4000 |" in text
    assert "002" not in text
    assert spec.command in text
    tags = notes.experiment(view, spec)
    assert tags[views.NOTE].startswith(f"[{views.NAMES[views.TRIALS]}]({views.address()})")
    assert "params.`critic.learning_rate`" in tags[f"mlflow.sharedViewState.{views.TRIALS}"]
    alone = notes.study(driver(recorder.folder.path / "other").ledger.view(), spec)
    assert "No trial completed" in alone and "|---" not in alone
