"""What a worker reports, trained for real, with Tune replaced by a list."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lsx.study import quiet

quiet.prepare()

from lsx import Config  # noqa: E402
from lsx.study import trial  # noqa: E402
from lsx.study.folder import CHECKPOINT, PICTURE  # noqa: E402

SETTINGS = {
    "data": {"dataset": "decoy_mnist", "few_shot_fraction": 0.05},
    "model.name": "SimpleConvNet",
    "pretrain": {"epochs": 3, "optimizer": "adam", "learning_rate": 1e-3},
    "joint": {"epochs": 1, "batch_size": 64},
    "finetune": {"epochs": 1, "optimizer": "adam", "learning_rate": 1e-3},
    "critic": {"batches": 2, "batch_size": 8},
    "evaluation": {"encoder_epochs": 0, "max_images": 32, "batch_size": 32},
}


class Lost(BaseException):
    """The worker is gone."""


class FakeTune:
    """Keeps reports, and a copy of the checkpoint of each."""

    def __init__(self, folder: Path, lost_after: int | None = None) -> None:
        self.folder, self.lost_after = folder, lost_after
        self.reports: list[dict[str, Any]] = []
        self.Checkpoint = SimpleNamespace(from_directory=Path)

    def get_checkpoint(self) -> None:
        return None

    def report(self, message: dict[str, Any], checkpoint: Path | None = None) -> None:
        self.reports.append(message)
        if checkpoint is not None:
            self.folder.mkdir(exist_ok=True)
            shutil.copy(checkpoint / CHECKPOINT, self.folder / f"{message['position']}.pt")
        if len(self.reports) == self.lost_after:
            raise Lost


def run(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resume: Path | None = None,
    lost_after: int | None = None,
    **changes: Any,
) -> FakeTune:
    path.mkdir(exist_ok=True)
    tune = FakeTune(path / "checkpoints", lost_after)
    monkeypatch.setattr(trial, "tune", tune)
    monkeypatch.setattr(trial.ray, "get_gpu_ids", list)
    assignment = {
        "number": 0,
        "role": "search",
        "config": Config.build(SETTINGS, changes).plain(),
        "guard": "validation_accuracy",
        "rungs": [2],
        "cpus": 1,
        "folder": str(path),
        "checkpoint": None if resume is None else str(resume),
    }
    trial.run_trial(assignment)
    return tune


def test_reports_of_a_whole_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS_BETWEEN_REPORTS", 1e9)
    *epochs, last = run(tmp_path / "whole", monkeypatch).reports
    # The rung, and the end of every stage; what lies between is in their history.
    assert [(one["stage"], one["position"], one["picture"]) for one in epochs] == [
        ("pretrain", 2, False),
        ("pretrain", 3, True),
        ("joint", 4, True),
        ("finetune", 5, True),
    ]
    assert [row["position"] for one in epochs for row in one["history"]] == [1, 2, 3, 4, 5]
    assert {one["total"] for one in epochs} == {5}
    assert [one["guard"] for one in epochs] == [epochs[0]["metrics"]["validation_accuracy"], None, None, None]
    assert epochs[2]["metrics"]["critic_loss_last_to_chance"] > 0
    assert set(last) == {"final", "reasons"}
    assert 0 < last["final"]["accuracy"] < 1
    assert 0 <= last["final"]["reference_relevance_mass"] <= 1
    columns = torch.load(tmp_path / "whole" / "explanations.pt", weights_only=True)
    assert list(columns) == ["after pretraining", "after joint training", "after finetuning"]
    assert (tmp_path / "whole" / PICTURE).stat().st_size > 5000

    # A worker that is lost after any report goes on from there to the very same end.
    with pytest.raises(Lost):
        run(tmp_path / "lost", monkeypatch, lost_after=3)
    resumed = run(tmp_path / "lost", monkeypatch, resume=tmp_path / "lost" / "checkpoints" / "4.pt").reports
    assert [one.get("position") for one in resumed] == [5, None]
    assert resumed[-1] == last
    again = torch.load(tmp_path / "lost" / "explanations.pt", weights_only=True)
    assert list(again) == list(columns)
    assert all(torch.equal(again[name], columns[name]) for name in columns)

    # After the last epoch there is only the evaluation left.
    ended = run(tmp_path / "lost", monkeypatch, resume=tmp_path / "lost" / "checkpoints" / "5.pt").reports
    assert ended == [last]


def test_what_cannot_be_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"stages": ["pretrain"], "pretrain.epochs": 1, "evaluation.max_images": 1}
    last = run(tmp_path / "one", monkeypatch, **changes).reports[-1]
    lost = [name for name, value in last["final"].items() if value != value]
    assert "ridge" in lost and set(lost) <= set(last["reasons"])


def test_every_epoch_is_reported_when_epochs_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS_BETWEEN_REPORTS", 0)
    reports = run(tmp_path / "long", monkeypatch, stages=["pretrain"]).reports
    assert [one.get("position") for one in reports] == [1, 2, 3, None]


def test_curves_of_long_stages_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "POINTS", 2)
    reports = run(tmp_path / "thin", monkeypatch, **{"stages": ["pretrain"], "pretrain.epochs": 5}).reports
    rows = [row["position"] for one in reports[:-1] for row in one["history"]]
    assert rows == [3, 5]


def test_what_no_repetition_mends_is_reported_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = run(tmp_path / "failed", monkeypatch, **{"explainer.method": "input"}).reports
    assert [set(one) for one in reports] == [{"failed"}]
    assert "'input'" in reports[0]["failed"]


def test_a_damaged_checkpoint_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "damaged.pt"
    damaged.write_text("half")
    reports = run(tmp_path / "again", monkeypatch, resume=damaged, stages=["pretrain"]).reports
    assert [one.get("position") for one in reports][-2:] == [3, None]
    assert "final" in reports[-1]
