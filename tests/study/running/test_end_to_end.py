"""One real small study: its driver is killed in the middle, and the same command brings it to its end."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from optuna.trial import FrozenTrial

from lsx import Config, load_data, load_learner
from tests.study import drive

NAME = "decoy_mnist-quick"
COMMAND = [str(drive.ROOT / "tune.py"), "--study", "decoy_mnist", "--profile", "quick", "--trials", "3"]


def test_killed_resumed_and_complete(tmp_path: Path) -> None:
    folder = tmp_path / "lsx-studies" / NAME
    driver = drive.start(COMMAND, tmp_path)
    journal = folder / "journal.log"
    drive.wait_until(lambda: journal.is_file() and '"checkpoint":' in journal.read_text(), driver)
    ray = drive.descendants(driver)
    agents = {process for process in ray if "Agent" in process.name()}  # Ray's two; they notice within a minute
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert psutil.wait_procs(set(ray) - agents, timeout=30)[1] == []
    left = {trial.number: trial for trial in drive.trials(folder) if trial.state.name == "RUNNING"}
    assert left

    resumed = drive.start(COMMAND, tmp_path)
    assert resumed.wait(240) == 0, (tmp_path / "stderr.txt").read_text()
    assert (tmp_path / "stderr.txt").read_text() == ""
    output = (tmp_path / "stdout.txt").read_text()
    for phrase in ("Pareto front", "best.yaml", "mlflow ui --backend-store-uri sqlite:///", "--trials 8"):
        assert phrase in " ".join(output.split())
    _check_journal(folder, left)
    _check_runs(tmp_path, folder)

    again = drive.start(COMMAND, tmp_path)
    assert again.wait(60) == 0
    assert "is complete: 3 of 3 trials; extend it with --trials 6" in (tmp_path / "stdout.txt").read_text()
    assert len(drive.runs(tmp_path / "mlflow.db", NAME)[2]) == 3


def _check_journal(folder: Path, left: Mapping[int, FrozenTrial]) -> None:
    trials = drive.trials(folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert [trial.user_attrs["role"] for trial in trials] == ["baseline", "published", "search"]
    for number, before in left.items():
        assert trials[number].params == before.params
        assert trials[number].user_attrs["config"] == before.user_attrs["config"]
        assert before.user_attrs.get("run_id", (known := trials[number].user_attrs["run_id"])) == known
        assert trials[number].user_attrs["attempts"] == 2
    for trial in trials:
        metrics = trial.user_attrs["metrics"]
        assert trial.values == [metrics["accuracy"], metrics["reference_relevance_mass"]]
        config = Config.build(trial.user_attrs["config"])
        assert Config.load(place(folder, trial) / "config.yaml") == config
        assert ("critic_loss_last_to_chance" in metrics) == ("joint" in config.stages)


def place(folder: Path, trial: FrozenTrial) -> Path:
    return folder / "trials" / f"{trial.number:04d}"


def _check_runs(tmp_path: Path, folder: Path) -> None:
    client, parents, children = drive.runs(tmp_path / "mlflow.db", NAME)
    trials = {trial.user_attrs["run_id"]: trial for trial in drive.trials(folder)}
    assert [one.info.status for one in parents] == ["FINISHED"]
    artifacts = {artifact.path for artifact in client.list_artifacts(parents[0].info.run_id)}
    assert artifacts == {"study.yaml", "best.yaml", "front.png", "report.html"}
    assert {one.info.run_id for one in children} == set(trials)
    assert len(children) == 3
    for one in children:
        trial, config = trials[one.info.run_id], Config.build(trials[one.info.run_id].user_attrs["config"])
        assert one.info.status == "FINISHED"
        assert one.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert one.data.params["loss.lambda_e"] == str(config.loss.lambda_e)
        assert one.data.metrics["final/accuracy"] == trial.values[0]
        steps = [
            metric.step
            for stage in config.stages
            for metric in client.get_metric_history(one.info.run_id, f"{stage}/validation_accuracy")
        ]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) == sum(getattr(config, stage).epochs for stage in config.stages)
        names = {artifact.path for artifact in client.list_artifacts(one.info.run_id)}
        assert {"config.yaml", "explanations.png", "manifest.json"} <= names
        assert ("learner-0.pt" in names) == (one.data.tags["lsx.front"] == "true")
        tested = one.data.tags["lsx.front"] == "true" or one.data.tags["lsx.role"] == "baseline"
        assert ("test/accuracy" in one.data.metrics) == tested
        assert (place(folder, trial) / "explanations.png").stat().st_size > 5000
        made = json.loads((place(folder, trial) / "manifest.json").read_text())
        assert (made["config"], made["seeds"]) == ({**config.flat(), "device": "cpu"}, [config.seed])
    assert "true" in {one.data.tags["lsx.front"] for one in children}
    best = Config.load(folder / "best.yaml")
    front = [trial for run, trial in trials.items() if client.get_run(run).data.tags["lsx.front"] == "true"]
    assert best in [Config.build(trial.user_attrs["config"]) for trial in front]
    learner, config = load_learner(place(folder, front[0]) / "learner-0.pt", load_data(best))
    assert config.replace({"device": "auto"}) == Config.build(front[0].user_attrs["config"])
    assert all(bool(torch.isfinite(weight).all()) for weight in learner.parameters())
