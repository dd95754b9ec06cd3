"""Whole studies of fake trials through real Ray, Optuna and MLflow."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import yaml
from rich.console import Console

from lsx.study import quiet
from tests.study import fakes

quiet.prepare()

from mlflow import MlflowClient  # noqa: E402

from lsx.errors import StudyError  # noqa: E402
from lsx.study import cluster, runner  # noqa: E402
from lsx.study.display import Display  # noqa: E402
from lsx.study.runner import StudyResult, run  # noqa: E402
from lsx.study.spec import Resources  # noqa: E402


def journal(result: StudyResult) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(str(result.folder / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name=result.folder.name, storage=storage)


def starts(result: StudyResult, number: int) -> list[str]:
    return (result.folder / "trials" / f"{number:04d}" / "starts.txt").read_text().split()


def test_a_study_with_a_crashing_and_a_dying_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAKE_CRASHES", "2@3")
    monkeypatch.setenv("FAKE_DEATHS", "3@3")
    output = io.StringIO()
    display = Display(Console(file=output, width=100))
    result = run(fakes.spec(), trainable=fakes.run_fake, display=display)
    assert (result.status, result.finished, result.planned, result.started) == ("complete", 6, 6, 6)
    trials = journal(result).get_trials()
    assert [trial.state.name for trial in trials] == [
        "COMPLETE",
        "COMPLETE",
        "FAIL",
        "COMPLETE",
        "COMPLETE",
        "COMPLETE",
    ]
    assert trials[2].user_attrs["reason"] == "RuntimeError: boom in trial 2"
    assert "boom" in (result.folder / "trials" / "0002" / "error.txt").read_text()
    # Both went on from the checkpoint of epoch 2, the one until its starts were used up.
    assert starts(result, 2) == starts(result, 3) == ["0", "2"]
    assert starts(result, 4) == ["0"]
    client = MlflowClient(tracking_uri=result.tracking_uri)
    child = trials[3].user_attrs["run_id"]
    steps = [
        m.step for stage in ("pretrain", "joint", "finetune") for m in client.get_metric_history(child, f"{stage}/loss")
    ]
    assert steps == [1, 2, 3, 4]
    assert client.get_run(trials[2].user_attrs["run_id"]).info.status == "FAILED"
    assert "RuntimeError: boom in trial 2" in client.get_run(trials[2].user_attrs["run_id"]).data.tags["lsx.reason"]
    assert yaml.safe_load((result.folder / "study.yaml").read_text())["name"] == "fake"
    assert not (result.folder / "ray").exists()
    assert "trial 2 failed" in output.getvalue()
    assert "MNIST, embedded" in output.getvalue()
    experiment = client.get_experiment_by_name("fake").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`lsx.role` = 'study'")
    assert parent.data.tags["lsx.data"].startswith("MNIST, embedded")
    assert len(parent.data.tags["lsx.data_sha256"]) == 64
    _go_on(result, monkeypatch)


def _go_on(first: StudyResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same study again, changed, and started over, in a place where Ray does not start."""

    def broken(**_: Any) -> None:
        raise ConnectionError("no\nroom")

    monkeypatch.setattr(cluster.ray, "init", broken)
    with monkeypatch.context() as gone:
        gone.setattr(runner, "preflight", _data_is_gone)
        again = run(fakes.spec())
        assert (again.status, again.started, again.finished) == ("complete", 0, 6)
        for changes in ({"trials": 7}, {"fresh": True}):
            with pytest.raises(StudyError, match="^the data is gone$"):
                run(fakes.spec(), **changes)
        assert len(list(first.folder.parent.iterdir())) == 1
    with pytest.raises(StudyError, match="seed: 0 became 5"):
        run(fakes.spec(seed=5))
    with pytest.raises(StudyError, match="^Ray does not start: no room; the earlier study lies in /.*/fake-[0-9-]+$"):
        run(fakes.spec(seed=5), fresh=True)
    old = [folder for folder in first.folder.parent.iterdir() if folder != first.folder]
    assert len(old) == 1
    assert (old[0] / "best.yaml").is_file()
    client = MlflowClient(tracking_uri=first.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("fake").experiment_id], max_results=100)
    parents = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    assert sorted(one.info.status for one in parents) == ["FINISHED", "KILLED"]
    assert len(runs) == 2 + 6


def test_a_fault_in_the_middle_is_one_line_that_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def search(self: Any) -> int:
        self.watch.run(lambda: tracking_is_gone())
        self.watch.check()
        return 0

    def tracking_is_gone() -> None:
        raise StudyError("MLflow cannot be used")

    monkeypatch.setattr(runner._Driver, "_search", search)
    with pytest.raises(StudyError, match="^MLflow cannot be used; nothing is lost: the same command continues"):
        run(fakes.spec())


def _data_is_gone(_: Any) -> None:
    raise StudyError("the data is gone")


@pytest.mark.parametrize(
    ("settings", "uri", "message"),
    [
        ({"data.source": "folder", "data.root": "none"}, None, "^study fake: .*'none' is not a folder"),
        ({}, "sqlite://", "kept in memory"),
    ],
)
def test_what_all_trials_would_fail_of_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], uri: str | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=message):
        run(fakes.spec(settings={**fakes.CONTENT["settings"], **settings}), tracking_uri=uri)
    assert list(tmp_path.iterdir()) == []


def test_the_scheduler_counts_searched_epochs() -> None:
    spec = fakes.spec(
        settings={"pretrain.epochs": 1, "finetune.epochs": 1, "evaluation.encoder_epochs": 0},
        space={"joint.epochs": {"type": "int", "low": 1, "high": 30}},
        reference_trials={},
        scheduler={"type": "asha", "grace_epochs": 14, "reduction_factor": 2},
    )
    ledger: Any = SimpleNamespace(guards=dict)
    driver: Any = SimpleNamespace(spec=spec, ledger=ledger)
    halving = runner._Driver._scheduler(driver)
    assert halving is not None  # Config's own joint.epochs, 10, would leave no rung
    assert runner.rungs(spec.scheduler, spec.longest) == [14, 28]


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What Ray says it has."""
    resources = {"CPU": 8.0, "GPU": 0.0}
    monkeypatch.setattr(cluster, "resources_there", lambda: resources)
    monkeypatch.setattr(cluster, "automatic_share", lambda: 0.25)
    return resources


@pytest.mark.parametrize(
    ("gpus", "settings", "most", "share", "slots"),
    [
        (0, {}, None, 0, 8),
        (0, {"cpus_per_trial": 3}, None, 0, 2),
        (0, {"cpus_per_trial": 0.5}, 5, 0, 5),
        (1, {}, None, 0.25, 4),
        (2, {}, 100, 0.25, 8),
        (1, {"gpus_per_trial": 0.1}, None, 0.1, 8),
        (1, {"gpus_per_trial": 1}, None, 1, 1),
        (1, {"gpus_per_trial": 0}, None, 0, 8),
    ],
)
def test_what_trials_occupy(
    there: dict[str, float], gpus: int, settings: dict[str, Any], most: int | None, share: float, slots: int
) -> None:
    there["GPU"] = gpus
    wanted = cluster.request(Resources(**settings))
    assert wanted["gpu"] == share
    assert cluster.slots(wanted, most) == slots


def test_more_than_there_is_is_refused(there: dict[str, float]) -> None:
    with pytest.raises(StudyError, match="a trial needs 9 CPUs; Ray has 8"):
        cluster.request(Resources(cpus_per_trial=9))
    with pytest.raises(StudyError, match=r"a trial needs 0\.5 GPUs; Ray has 0"):
        cluster.request(Resources(gpus_per_trial=0.5))
