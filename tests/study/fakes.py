"""A study of no network at all: trials whose outcome their settings decide, through real Ray, Optuna and MLflow."""

import math
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsx.study.declared.spec import StudySpec
from lsx.study.environment.places import CHECKPOINT, download
from lsx.study.worker.stopping import StopWord

EPOCHS = 4

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
        "history": [{"seed_index": 0, "stage": stage, "step": position, "position": position, "metrics": metrics}],
        "guard": guard,
        "picture": False,
    }


def final(assignment: Mapping[str, Any], nan: bool = False) -> dict[str, Any]:
    """Objectives that trade off in λ_e."""
    weight = assignment["config"]["loss"]["lambda_e"]
    found = {"accuracy": 1 - weight / 200, "ridge": math.nan if nan else 1 / (1 + weight)}
    return {"final": found, "seeds": {name: [value] for name, value in found.items()}}


def run_fake(assignment: Mapping[str, Any]) -> None:
    """Four epochs of nothing, resumable.

    Environment variables make it slow (FAKE_SECONDS an epoch), wrong at every start (FAKE_CRASHES), dead at its first
    (FAKE_DEATHS), without a sign of life at every start (FAKE_HANGS) or NaN at the end (FAKE_NANS): ``3@2`` is trial 3
    in epoch 2. FAKE_STARTS names a folder where each start is noted, with the epoch that it began from.
    """
    from ray import tune

    number, begun = assignment["number"], _position(assignment)
    stop = StopWord(assignment["stop"])
    notes = Path(os.environ["FAKE_STARTS"]) / f"{number:04d}.txt"
    with notes.open("a") as file:
        file.write(f"{begun}\n")
    again = len(notes.read_text().split()) > 1
    for position in range(begun + 1, EPOCHS + 1):
        here = f"{number}@{position}"
        _wait(float(os.environ.get("FAKE_SECONDS", "0")), stop)
        if here in os.environ.get("FAKE_CRASHES", "").split():
            raise RuntimeError(f"boom in trial {number}")
        if here in os.environ.get("FAKE_DEATHS", "").split() and not again:
            os._exit(1)
        if here in os.environ.get("FAKE_HANGS", "").split():
            time.sleep(3600)
        if stop.said():
            tune.report({"stopped": True})
            return
        with tempfile.TemporaryDirectory() as made:
            Path(made, CHECKPOINT).write_text(str(position))
            tune.report(report(position), checkpoint=tune.Checkpoint.from_directory(made))
    tune.report(final(assignment, nan=str(number) in os.environ.get("FAKE_NANS", "").split()))


def _wait(seconds: float, stop: StopWord) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop.said():
        time.sleep(0.02)


def _position(assignment: Mapping[str, Any]) -> int:
    """Of the newest checkpoint: Tune's own, or the one that an earlier driver left."""
    from ray import tune

    newest = tune.get_checkpoint()
    with tempfile.TemporaryDirectory() as made:
        if newest is not None:
            newest.to_directory(made)
        elif assignment["checkpoint"] is not None:
            download(assignment["checkpoint"], Path(made))
        else:
            return 0
        return int(Path(made, CHECKPOINT).read_text())


def main() -> int:
    """``tune.py`` with fake trials."""
    from lsx.study import cli
    from lsx.study.running import runner

    runner.run_trial = run_fake
    os.environ.setdefault("FAKE_STARTS", str(Path.cwd() / "starts"))
    Path(os.environ["FAKE_STARTS"]).mkdir(exist_ok=True)
    return cli.main()


if __name__ == "__main__":
    # By its importable name: a worker cannot find what __main__ defines.
    import sys

    from tests.study import fakes

    sys.exit(fakes.main())
