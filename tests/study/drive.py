"""Helpers to start drivers as processes, wait for what they write, and look at what they leave."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from lsx.study.environment import quiet

quiet.prepare()

import optuna  # noqa: E402
from mlflow import MlflowClient  # noqa: E402

ROOT = Path(__file__).parents[2]


def start(command: Sequence[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A driver in a process group of its own, as a shell starts it; its output goes to ``folder``."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **environment},
        stdout=(folder / "stdout.txt").open("w"),
        stderr=(folder / "stderr.txt").open("w"),
        text=True,
        process_group=0,
    )


def wait_until(
    condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 120
) -> None:
    """Fails when it does not come true, or when the process that should make it so has ended."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the driver ended too early"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    return optuna.load_study(study_name=folder.name, storage=optuna.storages.JournalStorage(backend)).get_trials()


def runs(database: Path, experiment: str) -> tuple[MlflowClient, list[Any], list[Any]]:
    """The client, and the parent and child runs of an experiment."""
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], max_results=1000)
    parents = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
    return client, parents, [one for one in found if "mlflow.parentRunId" in one.data.tags]
