"""A study of no network at all: trials whose outcome their settings decide, through real Ray, Optuna and MLflow."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsx.study.folder import CHECKPOINT
from lsx.study.spec import StudySpec

CONTENT: dict[str, Any] = {
    "name": "fake",
    "settings": {"pretrain.epochs": 2, "joint.epochs": 1, "finetune.epochs": 1, "evaluation.encoder_epochs": 0},
    "space": {
        "loss.lambda_e": {"type": "float", "low": 1.0, "high": 100.0, "log": True},
        "critic.optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
        "critic.learning_rate": [
            {"type": "float", "low": 1e-3, "high": 1e-1, "log": True, "when": {"critic.optimizer": "adam"}},
            {"type": "float", "low": 0.5, "high": 2.0, "when": {"critic.optimizer": "sgd"}},
        ],
    },
    "objectives": [
        {"metric": "accuracy", "direction": "maximize"},
        {"metric": "ridge", "direction": "minimize"},
    ],
    "reference_trials": {
        "baseline": {"stages": ["pretrain"]},
        "published": {"loss.lambda_e": 10.0, "critic.optimizer": "sgd", "critic.learning_rate": 1.0},
    },
    "scheduler": {"type": "none"},
    "sampler": {"type": "tpe", "startup_trials": 3},
    "budget": {"trials": 6, "attempts": 2},
}


def spec(**changes: Any) -> StudySpec:
    """Two objectives, two searched settings, two reference trials, four epochs."""
    return StudySpec.build({**CONTENT, **changes})


def report(position: int, total: int = 4, guard: float | None = None, **metrics: float) -> dict[str, Any]:
    """What a worker reports after an epoch."""
    stage = ("pretrain", "pretrain", "joint", "finetune")[min(position, 4) - 1]
    metrics = {"loss": 1 / position, **metrics}
    return {
        "stage": stage,
        "position": position,
        "total": total,
        "metrics": metrics,
        "history": [{"stage": stage, "position": position, "metrics": metrics}],
        "guard": guard,
        "picture": False,
    }


def final(assignment: Mapping[str, Any]) -> dict[str, Any]:
    """Objectives that trade off in λ_e."""
    weight = assignment["config"]["loss"]["lambda_e"]
    return {"final": {"accuracy": 1 - weight / 200, "ridge": 1 / (1 + weight)}}


def run_fake(assignment: Mapping[str, Any]) -> None:
    """Four epochs of nothing, resumable.

    Environment variables make it slow (FAKE_SECONDS an epoch), wrong at every start (FAKE_CRASHES) or dead at its
    first (FAKE_DEATHS): ``3@2`` is trial 3 in epoch 2.
    """
    from ray import tune

    number, folder = assignment["number"], Path(assignment["folder"])
    with (folder / "starts.txt").open("a") as file:
        file.write(f"{_position(assignment)}\n")
    again = len((folder / "starts.txt").read_text().split()) > 1
    for position in range(_position(assignment) + 1, 5):
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        if f"{number}@{position}" in os.environ.get("FAKE_CRASHES", "").split():
            raise RuntimeError(f"boom in trial {number}")
        if f"{number}@{position}" in os.environ.get("FAKE_DEATHS", "").split() and not again:
            os._exit(1)
        made = folder / "made"
        made.mkdir(exist_ok=True)
        (made / CHECKPOINT).write_text(str(position))
        tune.report(report(position), checkpoint=tune.Checkpoint.from_directory(made))
    tune.report(final(assignment))


def _position(assignment: Mapping[str, Any]) -> int:
    from ray import tune

    newest = tune.get_checkpoint()
    path = Path(newest.path, CHECKPOINT) if newest else assignment["checkpoint"]
    return int(Path(path).read_text()) if path else 0


def main() -> int:
    """``tune.py`` with fake trials."""
    from lsx.study import cli, runner

    runner.run_trial = run_fake
    return cli.main()


if __name__ == "__main__":
    # By its importable name: a worker cannot find what __main__ defines.
    import sys

    from tests.study import fakes

    sys.exit(fakes.main())
