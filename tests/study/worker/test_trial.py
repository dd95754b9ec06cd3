"""What a worker reports, trained for real, with Tune replaced by a list."""

import errno
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lsx.study.environment import quiet

quiet.prepare()

from lsx import Config, load_data, load_learner  # noqa: E402
from lsx.study.environment.places import CHECKPOINT, PICTURE  # noqa: E402
from lsx.study.worker import reporter, trial  # noqa: E402
from lsx.study.worker.luggage import DONE  # noqa: E402
from lsx.training import checkpoint  # noqa: E402
from tests.study import fakes  # noqa: E402
from tests.study.drivers import FakeTune, Lost, Word, begin, driver  # noqa: E402

SETTINGS = {
    "data": {"dataset": "decoy_mnist", "few_shot_fraction": 0.05},
    "model.name": "SimpleConvNet",
    "pretrain": {"epochs": 3, "optimizer": "adam", "learning_rate": 1e-3},
    "joint": {"epochs": 1, "batch_size": 64},
    "finetune": {"epochs": 1, "optimizer": "adam", "learning_rate": 1e-3},
    "critic": {"batches": 2, "batch_size": 8},
    "evaluation": {"encoder_epochs": 0, "max_images": 32, "batch_size": 32},
}
SHORT = {"stages": ["pretrain"], "pretrain.epochs": 2, "evaluation.metrics": ["accuracy", "ridge", "relevance_mass"]}


@pytest.fixture(autouse=True)
def few_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """At rungs and at the ends of stages only, however slow the machine is."""
    for name in ("SECONDS_BETWEEN_REPORTS", "SECONDS_WITHIN_EPOCH"):
        monkeypatch.setattr(reporter, name, 1e9)


def run(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resume: Path | None = None,
    lost_after: int | None = None,
    newest: Path | None = None,
    repeats: int = 1,
    stop_at: float = math.inf,
    pulse: float = 1e9,
    together: bool | str = False,
    **changes: Any,
) -> FakeTune:
    tune = FakeTune(path, lost_after, newest)
    tune.install(monkeypatch, Word(stop_at))
    assignment = {
        "number": 0,
        "role": "search",
        "config": Config.build(SETTINGS, changes).plain(),
        "repeats": repeats,
        "guard": "validation_accuracy",
        "rungs": [2],
        "cpus": 1,
        "checkpoint": None if resume is None else str(resume),
        "pulse": pulse,
        "stop": "key",
        "together": together,
        "alone": False,
    }
    try:
        trial.run_trial(assignment)
    except Lost:
        assert lost_after is not None
    return tune


def figures(report: Mapping[str, Any]) -> str:
    """All that a last report says of metrics, so that NaN equals NaN and floats only the same floats."""
    rows = [{**row, "metrics": _timeless(row["metrics"])} for row in report["curves"]]
    return repr({**{name: report[name] for name in ("final", "seeds", "reasons")}, "curves": rows})


def _timeless(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "seconds"}


def test_reports_of_a_whole_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole"
    *epochs, evaluating, last = run(whole, monkeypatch).reports
    # The rung, and the end of every stage; what lies between is in their history.
    assert [(one["stage"], one["position"], one["picture"]) for one in epochs] == [
        ("pretrain", 2, False),
        ("pretrain", 3, True),
        ("joint", 4, True),
        ("finetune", 5, True),
    ]
    rows = [row for one in epochs for row in one["history"]]
    assert [(row["position"], row["step"], row["seed_index"]) for row in rows] == [(n, n, 0) for n in range(1, 6)]
    assert {one["total"] for one in epochs} == {5}
    assert [one["guard"] for one in epochs] == [epochs[0]["metrics"]["validation_accuracy"], None, None, None]
    assert epochs[2]["metrics"]["critic_loss_last_to_chance"] > 0
    assert evaluating == {"pulse": {"stage": "evaluation"}}
    assert set(last) == {"final", "seeds", "reasons", "curves", "manifest"}
    assert 0 < last["final"]["accuracy"] < 1
    assert 0 <= last["final"]["reference_relevance_mass"] <= 1
    assert last["seeds"]["accuracy"] == [last["final"]["accuracy"]]
    assert last["curves"] == []  # one seed has said its own already
    assert (last["manifest"]["seeds"], last["manifest"]["threads"], last["manifest"]["device"]) == ([0], 1, "cpu")
    ended = whole / "5"
    columns = torch.load(ended / "explanations.pt", weights_only=True)
    assert list(columns) == ["after pretraining", "after joint training", "after finetuning"]
    assert (ended / PICTURE).stat().st_size > 5000
    assert not (ended / CHECKPOINT).exists()  # only the learner is left, without what training needs
    _, config = load_learner(ended / "learner-0.pt", load_data(Config.build(SETTINGS)))
    assert config.plain() == {**Config.build(SETTINGS).plain(), "device": "cpu"}
    assert (ended / "learner-0.pt").stat().st_size < 0.7 * (whole / "3" / CHECKPOINT).stat().st_size

    # A worker that is lost after any report goes on from there to the very same end.
    run(tmp_path / "lost", monkeypatch, lost_after=3)
    resumed = run(tmp_path / "resumed", monkeypatch, resume=tmp_path / "lost" / "2").reports
    assert [one.get("position") for one in resumed] == [5, None, None]
    assert figures(resumed[-1]) == figures(last)
    again = torch.load(tmp_path / "resumed" / "2" / "explanations.pt", weights_only=True)
    assert list(again) == list(columns)
    assert all(torch.equal(again[name], columns[name]) for name in columns)

    # After the last epoch there is only the evaluation left; Tune's own checkpoint is newer than the assigned one.
    ended_reports = run(tmp_path / "end", monkeypatch, resume=tmp_path / "lost" / "0", newest=whole / "3").reports
    assert [one.get("position") for one in ended_reports] == [None, None]
    assert figures(ended_reports[-1]) == figures(last)


def test_two_seeds_and_their_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {**SHORT, "seed": 5}
    reports = run(tmp_path / "two", monkeypatch, repeats=2, **changes).reports
    told, last = [one for one in reports if "position" in one], reports[-1]
    assert [(one["position"], one["total"], one["picture"]) for one in told] == [(2, 4, True), (4, 4, False)]
    rows = [row for one in told for row in one["history"]]
    assert [(row["seed_index"], row["step"], row["position"]) for row in rows] == [
        (0, 1, 1),
        (0, 2, 2),
        (1, 1, 3),
        (1, 2, 4),
    ]
    assert [one["guard"] is None for one in told] == [False, True]  # the scheduler judges first seeds
    assert last["manifest"]["seeds"] == [5, 6]
    seeds = last["seeds"]
    assert seeds["accuracy"][0] != seeds["accuracy"][1]
    for name, values in seeds.items():
        mean = (values[0] + values[1]) / 2
        assert last["final"][name] == pytest.approx(mean, nan_ok=True) and len(values) == 2
    assert [row["position"] for row in last["curves"]] == [1, 2]
    losses = [row["metrics"]["classification_loss"] for row in rows]
    assert last["curves"][1]["metrics"]["classification_loss"] == pytest.approx((losses[1] + losses[3]) / 2)
    assert {file.name for file in (tmp_path / "two" / str(len(reports) - 1)).glob("*.pt")} >= {
        "learner-0.pt",
        "learner-1.pt",
    }
    # The second seed is what a trial of that seed alone would have been.
    alone = run(tmp_path / "alone", monkeypatch, **{**changes, "seed": 6}).reports[-1]
    assert repr({name: values[1:] for name, values in seeds.items()}) == repr(alone["seeds"])


@pytest.mark.parametrize("within_epochs", [False, True])
def test_a_trial_lost_in_its_second_seed_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within_epochs: bool
) -> None:
    whole = run(tmp_path / "whole", monkeypatch, repeats=2, **SHORT).reports[-1]
    with monkeypatch.context() as often:
        often.setattr(reporter, "SECONDS_WITHIN_EPOCH" if within_epochs else "SECONDS_BETWEEN_REPORTS", 0)
        often.setattr(reporter, "LARGEST_SHARE", 0)
        kept = run(tmp_path / "kept", often, repeats=2, **SHORT)
    folders = {index: tmp_path / "kept" / str(index) for index in range(len(kept.reports))}
    wanted = [index for index, one in enumerate(kept.reports) if one.get("kept") or one.get("position") == 3]
    states = {index: checkpoint.load(folders[index] / CHECKPOINT) for index in wanted}
    done = {index: len(json.loads((folders[index] / DONE).read_text())["done"]) for index in wanted}
    index = max(one for one in wanted if done[one] == 1 and states[one]["epoch"] == 1)
    assert (states[index]["step"] > 0) == within_epochs
    resumed = run(tmp_path / "resumed", monkeypatch, resume=folders[index], repeats=2, **SHORT).reports
    assert [one["position"] for one in resumed if "position" in one] == [4]
    assert figures(resumed[-1]) == figures(kept.reports[-1]) == figures(whole)


@pytest.mark.parametrize("look", [1, 4])
def test_a_stop_word_is_answered_with_the_checkpoint_of_this_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    changes: dict[str, Any] = {**SHORT, "pretrain.batch_size": 60}  # three steps an epoch
    whole = run(tmp_path / "whole", monkeypatch, **changes).reports[-1]
    stopped = run(tmp_path / "stopped", monkeypatch, stop_at=look, **changes)
    *_, kept, last = stopped.reports
    assert (last, kept["kept"]) == ({"stopped": True}, True)
    state = checkpoint.load(tmp_path / "stopped" / str(len(stopped.reports) - 2) / CHECKPOINT)
    assert (state["epoch"], state["step"]) == divmod(look - 1, 3)
    resumed = run(tmp_path / "resumed", monkeypatch, tmp_path / "stopped" / str(len(stopped.reports) - 2), **changes)
    assert figures(resumed.reports[-1]) == figures(whole)


def test_rows_that_were_not_sent_go_with_the_checkpoint_within_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {**SHORT, "pretrain.epochs": 4, "pretrain.batch_size": 60}
    stopped = run(tmp_path / "stopped", monkeypatch, stop_at=3 * 3 + 2, **changes).reports  # in the fourth epoch
    assert [[row["position"] for row in one["history"]] for one in stopped[:-1]] == [[1, 2], [3]]


def test_a_sign_of_life_between_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = run(tmp_path / "alive", monkeypatch, pulse=0, **{**SHORT, "pretrain.batch_size": 60}).reports
    steps = [(one["pulse"]["epoch"], one["pulse"]["step"]) for one in reports if "step" in one.get("pulse", {})]
    assert steps == [(epoch, step) for epoch in (0, 1) for step in range(3)]


def test_what_cannot_be_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"stages": ["pretrain"], "pretrain.epochs": 1, "evaluation.max_images": 1}
    last = run(tmp_path / "one", monkeypatch, **changes).reports[-1]
    lost = [name for name, value in last["final"].items() if value != value]
    assert "ridge" in lost and set(lost) <= set(last["reasons"])


def test_every_epoch_is_reported_when_epochs_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "SECONDS_BETWEEN_REPORTS", 0)
    monkeypatch.setattr(reporter, "LARGEST_SHARE", 0)
    reports = run(tmp_path / "long", monkeypatch, stages=["pretrain"]).reports
    assert [one.get("position") for one in reports] == [1, 2, 3, None, None]


def test_curves_of_long_stages_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "POINTS", 2)
    reports = run(tmp_path / "thin", monkeypatch, **{"stages": ["pretrain"], "pretrain.epochs": 5}).reports
    rows = [row["position"] for one in reports for row in one.get("history", ())]
    assert rows == [3, 5]


def test_what_no_repetition_mends_is_reported_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = run(tmp_path / "failed", monkeypatch, **{"explainer.method": "input"}).reports
    assert [set(one) for one in reports] == [{"failed"}]
    assert "'input'" in reports[0]["failed"]


@pytest.mark.parametrize(
    ("error", "report"),
    [
        (torch.OutOfMemoryError("tried to allocate\n  2 GiB"), {"out_of_memory": "tried to allocate 2 GiB"}),
        (OSError(errno.ENOSPC, "No space left on device"), {"no_room": "[Errno 28] No space left on device"}),
    ],
)
def test_what_is_no_fault_of_the_trial_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, report: dict[str, str]
) -> None:
    def evaluate(*_: Any) -> None:
        raise error

    monkeypatch.setattr(trial.metrics, "evaluate_with_reasons", evaluate)
    assert run(tmp_path / "full", monkeypatch, **SHORT).reports[-1] == report
    assert (trial._loaded == {}) == ("out_of_memory" in report)


def test_a_checkpoint_that_finds_no_room_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    (only,) = run(tmp_path / "full", monkeypatch, **SHORT).reports
    assert set(only) == {"no_room"} and "No space left" in only["no_room"]


def test_a_crash_is_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(trial.metrics, "evaluate_with_reasons", crash)
    with pytest.raises(OSError, match="broken"):
        run(tmp_path / "crash", monkeypatch, **SHORT)


@pytest.mark.parametrize("damage", ["half", "gone"])
def test_a_damaged_checkpoint_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    damaged = tmp_path / "damaged"
    if damage == "half":
        damaged.mkdir()
        for name in (CHECKPOINT, DONE):
            (damaged / name).write_text("half")
    reports = run(tmp_path / "again", monkeypatch, resume=damaged, **SHORT).reports
    assert [one.get("position") for one in reports] == [2, None, None]
    assert "final" in reports[-1]


LITTLE: dict[str, Any] = {
    "data.few_shot_fraction": 0.03,
    "model.name": "MLP",
    "critic.batch_size": 4,
    "evaluation.metrics": ["accuracy", "ridge"],
}
"""All stages of a network that is quick."""


def close(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, values in expected["seeds"].items():
        assert found["seeds"][name] == pytest.approx(values, rel=1e-3, nan_ok=True)
    assert found["final"] == pytest.approx(expected["final"], rel=1e-3, nan_ok=True)
    assert found["final"].keys() == expected["final"].keys()


def test_seeds_that_train_together_say_what_they_say_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = run(tmp_path / "alone", monkeypatch, repeats=3, together="auto", **LITTLE).reports
    *reports, last = run(tmp_path / "all", monkeypatch, repeats=3, together=True, **LITTLE).reports
    close(last, alone[-1])
    assert last["manifest"]["training"] == {"seeds": "together", "reason": None}
    reason = "resources.seeds_together is auto, and the device cpu"
    assert alone[-1]["manifest"]["training"] == {"seeds": "one after the other", "reason": reason}

    told = [one for one in reports if "position" in one]
    assert [(one["position"], one["total"], one["picture"]) for one in told] == [
        (2, 5, False),
        (3, 5, True),
        (4, 5, True),
        (5, 5, True),
    ]
    rows = [row for one in told for row in one["history"]]
    assert [(row["position"], row["step"], row["seed_index"]) for row in rows] == [
        (epoch, epoch, seed) for epoch in range(1, 6) for seed in range(3)
    ]
    before = {
        (row["seed_index"], row["step"]): row["metrics"] for one in alone if "position" in one for row in one["history"]
    }
    for row in rows:
        expected = _timeless(before[row["seed_index"], row["step"]])
        assert _timeless(row["metrics"]) == pytest.approx(expected, rel=1e-3)
    # The scheduler judges the mean of all seeds.
    guards = [row["metrics"]["validation_accuracy"] for row in rows if row["position"] == 2]
    assert len(set(guards)) > 1
    assert told[0]["guard"] == pytest.approx(sum(guards) / 3)
    assert [one["guard"] for one in told[1:]] == [None, None, None]
    assert [row["position"] for row in last["curves"]] == [1, 2, 3, 4, 5]
    ended = {file.name for file in (tmp_path / "all" / str(len(reports))).glob("*.pt")}
    assert ended == {"explanations.pt", "learner-0.pt", "learner-1.pt", "learner-2.pt"}
    _, config = load_learner(
        tmp_path / "all" / str(len(reports)) / "learner-2.pt", load_data(Config.build(SETTINGS, LITTLE))
    )
    assert config.seed == 2


@pytest.mark.parametrize("position", [2, 4])
def test_seeds_that_were_lost_together_go_on_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    whole = run(tmp_path / "whole", monkeypatch, repeats=2, together=True, **LITTLE).reports
    index = next(index for index, one in enumerate(whole) if one.get("position") == position)
    folder = tmp_path / "whole" / str(index)
    assert not (folder / CHECKPOINT).exists()
    # It goes on as it began, whatever the study says by now.
    resumed = run(tmp_path / "resumed", monkeypatch, resume=folder, repeats=2, together=False, **LITTLE).reports
    assert [one["position"] for one in resumed if "position" in one] == list(range(position + 1, 6))
    assert figures(resumed[-1]) == figures(whole[-1])
    assert resumed[-1]["manifest"]["training"]["seeds"] == "together"


def test_seeds_that_were_lost_between_their_evaluations_are_evaluated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", monkeypatch, repeats=3, together=True, **LITTLE).reports
    first = next(index for index, one in enumerate(whole) if one.get("kept"))
    assert len(json.loads((tmp_path / "whole" / str(first) / DONE).read_text())["done"]) == 1
    resumed = run(
        tmp_path / "resumed", monkeypatch, resume=tmp_path / "whole" / str(first), repeats=3, together=True, **LITTLE
    ).reports
    assert [one for one in resumed if "position" in one] == []
    assert sum(one.get("pulse") == {"stage": "evaluation"} for one in resumed) == 2
    assert figures(resumed[-1]) == figures(whole[-1])


@pytest.mark.parametrize("damage", ["half", "gone"])
def test_a_damaged_checkpoint_of_seeds_that_train_together_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    whole = run(tmp_path / "whole", monkeypatch, repeats=2, together=True, **LITTLE).reports
    damaged = tmp_path / "whole" / "0" / "checkpoint-1.pt"
    damaged.write_text("half") if damage == "half" else damaged.unlink()
    again = run(tmp_path / "again", monkeypatch, resume=damaged.parent, repeats=2, together=True, **LITTLE).reports
    assert [one["position"] for one in again if "position" in one] == [2, 3, 4, 5]
    assert figures(again[-1]) == figures(whole[-1])


def test_a_stop_word_is_answered_by_all_seeds_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {**LITTLE, "joint.batch_size": 30}  # three steps an epoch, as before it
    whole = run(tmp_path / "whole", monkeypatch, repeats=2, together=True, **changes).reports[-1]
    *_, kept, last = run(tmp_path / "stopped", monkeypatch, repeats=2, together=True, stop_at=11, **changes).reports
    assert (last, kept["kept"]) == ({"stopped": True}, True)
    folder = sorted((tmp_path / "stopped").iterdir(), key=lambda path: int(path.name))[-1]
    states = [checkpoint.load(folder / f"checkpoint-{index}.pt") for index in range(2)]
    assert [(state["config"]["seed"], state["stage"], state["step"]) for state in states] == [
        (0, "joint", 1),
        (1, "joint", 1),
    ]
    resumed = run(tmp_path / "resumed", monkeypatch, resume=folder, repeats=2, together=True, **changes).reports
    assert figures(resumed[-1]) == figures(whole)


@pytest.mark.parametrize("finished", [0, 1])
def test_a_trial_that_began_one_after_the_other_goes_on_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    whole = run(tmp_path / "whole", monkeypatch, repeats=2, **LITTLE).reports
    index = next(index for index, one in enumerate(whole) if one.get("position") == 3 + 5 * finished)
    resumed = run(
        tmp_path / "resumed", monkeypatch, resume=tmp_path / "whole" / str(index), repeats=2, together=True, **LITTLE
    ).reports
    assert figures(resumed[-1]) == figures(whole[-1])
    assert resumed[-1]["manifest"]["training"] == {"seeds": "one after the other", "reason": "the trial began so"}


@pytest.mark.parametrize(
    ("repeats", "together", "changes", "reason"),
    [
        (1, True, {}, "there is one seed"),
        (2, False, {}, "resources.seeds_together is false"),
        (2, True, {"explainer.method": "smoothgrad"}, "explainer 'smoothgrad' is more than an input gradient"),
    ],
)
def test_seeds_that_train_one_after_the_other_say_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    repeats: int,
    together: bool,
    changes: dict[str, Any],
    reason: str,
) -> None:
    last = run(
        tmp_path / "apart",
        monkeypatch,
        repeats=repeats,
        together=together,
        **{**LITTLE, "pretrain.epochs": 1},
        **changes,
    ).reports[-1]
    assert last["manifest"]["training"] == {"seeds": "one after the other", "reason": reason}
    assert len(last["seeds"]["accuracy"]) == repeats


def test_a_seed_that_diverges_fails_the_trial_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {
        **LITTLE,
        "pretrain.optimizer": "sgd",
        "pretrain.learning_rate": 100.0,
        "stages": ["pretrain"],
    }
    reports = run(tmp_path / "lost", monkeypatch, repeats=2, together=True, **changes).reports
    assert "training diverged with seed" in reports[-1]["failed"]


@pytest.mark.parametrize("said", ["auto", True, False])
def test_an_assignment_says_what_the_study_says(tmp_path: Path, said: bool | str) -> None:
    spec = fakes.spec(resources={"seeds_together": said})
    assert begin(driver(tmp_path, spec))["together"] == said
