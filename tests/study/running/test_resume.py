"""Ctrl-C in the middle of a study, and the same command again."""

import os
import signal
from pathlib import Path

import psutil
import yaml

from tests.study import drive, fakes

COMMAND = ["-m", "tests.study.fakes", "--study", "fake.yaml"]


def test_interrupted_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "fake.yaml").write_text(yaml.safe_dump({**fakes.CONTENT, "budget": {"trials": 3, "attempts": 1}}))
    folder = tmp_path / "lsx-studies" / "fake"
    driver = drive.start(COMMAND, tmp_path, FAKE_SECONDS="0.5")
    journal = folder / "journal.log"
    drive.wait_until(lambda: journal.is_file() and '"checkpoint":' in journal.read_text(), driver)
    children = drive.descendants(driver)
    os.killpg(driver.pid, signal.SIGINT)  # what a terminal does: Ray's processes get it, too
    assert driver.wait(30) == 130
    output = (tmp_path / "stdout.txt").read_text()
    assert "lsx: stopping: trials write their checkpoints" in output
    assert "continue with: python -m tests.study.fakes --study fake.yaml" in output
    assert (tmp_path / "stderr.txt").read_text() == ""
    assert psutil.wait_procs(children, timeout=20)[1] == []
    _, parents, runs = drive.runs(tmp_path / "mlflow.db", "fake")
    assert {one.info.status for one in (*parents, *runs)} == {"KILLED"}

    assert drive.start(COMMAND, tmp_path).wait(120) == 0
    trials = drive.trials(folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3  # one start each: interruptions do not count
    client, parents, runs = drive.runs(tmp_path / "mlflow.db", "fake")
    assert [one.info.status for one in parents] == ["FINISHED"]
    assert sorted(one.info.run_id for one in runs) == sorted(trial.user_attrs["run_id"] for trial in trials)
    assert {one.info.status for one in runs} == {"FINISHED"}
    starts = [(tmp_path / "starts" / f"{n:04d}.txt").read_text().split() for n in range(2)]
    assert any(len(one) == 2 and int(one[1]) > 0 for one in starts)  # from its checkpoint
    for one in runs:
        history = [
            m.step
            for stage in ("pretrain", "joint", "finetune")
            for m in client.get_metric_history(one.info.run_id, f"{stage}/loss")
        ]
        assert history == [1, 2, 3, 4]
