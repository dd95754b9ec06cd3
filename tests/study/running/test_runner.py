"""Whole studies of fake trials through real Ray, Optuna and MLflow."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from rich.console import Console

from lsx.study.environment import quiet
from tests.study import fakes

quiet.prepare()

from mlflow import MlflowClient  # noqa: E402
from ray.tune.execution import experiment_state, tune_controller  # noqa: E402

from lsx.errors import StudyError  # noqa: E402
from lsx.study.running import cluster, driver, idle, runner  # noqa: E402
from lsx.study.running.runner import StudyResult, run  # noqa: E402
from lsx.study.running.watch import Halt  # noqa: E402
from lsx.study.search import optunastore, schedulers  # noqa: E402
from lsx.study.shown.archive import names, open_past  # noqa: E402
from lsx.study.shown.display import Display  # noqa: E402
from tests.study.drivers import ledger  # noqa: E402

Starts = Callable[[int], list[str]]


@pytest.fixture(autouse=True)
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    """The epochs that a trial's starts began from."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starts").mkdir()
    monkeypatch.setenv("FAKE_STARTS", str(tmp_path / "starts"))
    return lambda number: (tmp_path / "starts" / f"{number:04d}.txt").read_text().split()


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a place where Ray does not start."""

    def broken(**_: Any) -> None:
        raise ConnectionError("no\nroom")

    monkeypatch.setattr(cluster.ray, "init", broken)


def journal(result: StudyResult) -> optuna.Study:
    return optunastore.load_study(result.folder.name, result.folder / "journal.log")


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials()]


def steps(client: MlflowClient, run_id: str) -> list[int]:
    stages = ("pretrain", "joint", "finetune")
    return [one.step for stage in stages for one in client.get_metric_history(run_id, f"{stage}/loss")]


def test_a_study_with_a_crashing_and_a_dying_trial(monkeypatch: pytest.MonkeyPatch, starts: Starts) -> None:
    monkeypatch.setenv("FAKE_CRASHES", "2@3")
    monkeypatch.setenv("FAKE_DEATHS", "3@3")
    output = io.StringIO()
    display = Display(Console(file=output, width=100))
    result = run(fakes.spec(), trainable=fakes.run_fake, display=display)
    assert (result.status, result.finished, result.planned, result.started) == ("complete", 6, 6, 6)
    assert (result.undelivered, result.notices, result.aside) == (0, (), None)
    trials = journal(result).get_trials()
    assert states(journal(result)) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[2].user_attrs["reason"] == "RuntimeError: boom in trial 2"
    assert "boom" in (result.folder / "trials" / "0002" / "error.txt").read_text()
    # Both went on from the checkpoint of epoch 2, the one until its starts were used up.
    assert starts(2) == starts(3) == ["0", "2"]
    assert starts(4) == ["0"]
    client = MlflowClient(tracking_uri=result.tracking_uri)
    assert steps(client, trials[3].user_attrs["run_id"]) == [1, 2, 3, 4]
    assert client.get_run(trials[2].user_attrs["run_id"]).info.status == "FAILED"
    assert "RuntimeError: boom in trial 2" in client.get_run(trials[2].user_attrs["run_id"]).data.tags["lsx.reason"]
    assert yaml.safe_load((result.folder / "study.yaml").read_text())["name"] == "fake"
    assert [path for path in (result.folder / "ray").iterdir() if path.is_dir()] == []
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
    edited = run(fakes.spec(sampler={"type": "random"}))
    assert edited.notices == (
        "the study was edited since it last ran: sampler.startup_trials: 3 became 10; sampler.type: tpe became random",
    )
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
    assert {one.data.tags.get("lsx.edits") for one in parents} == {None, "; ".join(_lines(edited.notices[0]))}
    assert len(runs) == 2 + 6


def _lines(notice: str) -> list[str]:
    return notice.partition("ran: ")[2].split("; ")


def test_a_hanging_trial_and_one_without_an_objective(monkeypatch: pytest.MonkeyPatch, starts: Starts) -> None:
    monkeypatch.setenv("FAKE_HANGS", "0@2")
    monkeypatch.setenv("FAKE_NANS", "1")
    budget = {"trials": 3, "attempts": 2, "stalled_after": "15s"}
    result = run(fakes.spec(reference_trials={}, budget=budget), trainable=fakes.run_fake, max_concurrent=2)
    assert (result.status, result.finished) == ("complete", 3)
    trials = journal(result).get_trials()
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "COMPLETE"]
    # Its worker was killed twice, and the second start went on from the first one's checkpoint.
    assert starts(0) == ["0", "1"]
    assert trials[0].user_attrs["reason"] == "no sign of life for 0.25 min (budget.stalled_after)"
    assert trials[0].user_attrs["attempts"] == 2
    assert trials[1].user_attrs["reason"] == "objective ridge is nan"
    assert starts(1) == ["0"]  # no repetition mends it


def test_time_is_up_and_a_larger_budget_goes_on(monkeypatch: pytest.MonkeyPatch, starts: Starts) -> None:
    spec = fakes.spec(budget={"trials": 3, "attempts": 1, "time": "2h"})
    with monkeypatch.context() as slow:
        slow.setenv("FAKE_SECONDS", "0.5")

        def spent(self: driver.Driver) -> float:
            """A hundred seconds, as soon as a trial has left a checkpoint."""
            known = self.around.ledger.study.get_trials(deepcopy=False)
            return 100.0 if any("checkpoint" in trial.user_attrs for trial in known) else 0.0

        slow.setattr(driver.Driver, "_spent", spent)
        first = run(spec, trainable=fakes.run_fake, time_budget="50s")
    assert first.status == "time is up" and first.finished < 3
    assert first.report is not None
    assert ledger(Path("lsx-studies"), spec).seconds_used == 100
    client = MlflowClient(tracking_uri=first.tracking_uri)
    (parent,) = client.search_runs([client.get_experiment_by_name("fake").experiment_id], "tags.`lsx.role` = 'study'")
    assert parent.info.status == "KILLED"
    time.sleep(1.5)  # which does not count
    began = time.monotonic()
    with monkeypatch.context() as nothing:
        nothing.setattr(cluster.ray, "init", lambda **_: pytest.fail("Ray was started"))
        again = run(spec, time_budget=50)
    assert (again.status, again.started) == ("time is up", 0)
    used = ledger(Path("lsx-studies"), spec).seconds_used
    assert 100 < used <= 100 + time.monotonic() - began
    last = run(spec, trainable=fakes.run_fake)
    assert (last.status, states(journal(last))) == ("complete", ["COMPLETE"] * 3)
    # One start each: those that were stopped went on from their checkpoints.
    assert any(len(starts(number)) == 2 and int(starts(number)[1]) > 0 for number in range(2))
    assert ledger(Path("lsx-studies"), spec).seconds_used > used
    for trial in journal(last).get_trials():
        assert steps(client, trial.user_attrs["run_id"]) == [1, 2, 3, 4]


def test_a_study_in_a_database_with_checkpoints_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: Starts
) -> None:
    monkeypatch.setenv("FAKE_DEATHS", "1@3")
    url, spec = f"sqlite:///{tmp_path}/trials.db", fakes.spec(budget={"trials": 3, "attempts": 2})
    shared = tmp_path / "shared"
    first = run(spec, trainable=fakes.run_fake, optuna_storage=url, storage=str(shared))
    assert (first.status, first.finished) == ("complete", 3)
    assert starts(1) == ["0", "2"]
    assert not (first.folder / "journal.log").exists() and not (first.folder / "ray").exists()
    assert [path.name for path in shared.glob("fake-*/*")] == [".lsx-storage"]
    study = optuna.load_study(study_name="fake", storage=url)
    assert states(study) == ["COMPLETE"] * 3
    assert study.user_attrs["driver"] == {}  # the lease was given back

    monkeypatch.setattr(cluster.ray, "init", lambda **_: pytest.fail("Ray was started"))
    again = run(spec)  # where its parts are is remembered
    assert (again.status, again.started, again.finished) == ("complete", 0, 3)

    with optunastore.Lease(study):
        for changes in ({}, {"fresh": True}):
            with pytest.raises(StudyError, match="^study 'fake' is being run already, by process [0-9]+ on "):
                run(spec, folder="elsewhere", optuna_storage=url, **changes)  # another machine has another folder
    assert optuna.get_all_study_names(url) == ["fake"]

    def broken(**_: Any) -> None:
        raise ConnectionError("no room")

    monkeypatch.setattr(cluster.ray, "init", broken)
    with pytest.raises(StudyError, match="^Ray does not start: no room; the earlier study lies in /.*/fake-[0-9-]+$"):
        run(spec, fresh=True, optuna_storage=url)
    old, new = sorted(optuna.get_all_study_names(url), reverse=True)
    assert (old.startswith("fake-"), new) == (True, "fake")
    assert states(optuna.load_study(study_name=old, storage=url)) == ["COMPLETE"] * 3
    assert "COMPLETE" not in states(optuna.load_study(study_name=new, storage=url))
    (aside,) = [name for name in names("lsx-studies") if name != "fake"]
    assert open_past("lsx-studies", aside).counts == {"complete": 3}

    (tmp_path / "trials.db").rename(tmp_path / "moved.db")
    with pytest.raises(StudyError, match="^the study's database '.*trials.db' is not there; give --optuna-storage"):
        run(spec)
    assert not (tmp_path / "trials.db").exists()
    moved = f"sqlite:///{tmp_path}/moved.db"
    with pytest.raises(StudyError, match="^Ray does not start: no room$"):
        run(spec, optuna_storage=moved)
    assert json.loads((first.folder / "surroundings.json").read_text())["optuna_storage"] == moved


@pytest.mark.parametrize(
    ("name", "flag"),
    [("tracking_uri", "--tracking-uri"), ("storage", "--storage"), ("optuna_storage", "--optuna-storage")],
)
def test_credentials_are_not_remembered_and_asked_for_again(no_ray: None, name: str, flag: str) -> None:
    ledger(Path("lsx-studies"))
    noted = Path("lsx-studies") / "fake" / "surroundings.json"
    noted.write_text(json.dumps({name: "scheme://***@host/place"}))
    with pytest.raises(StudyError) as caught:
        run(fakes.spec())
    assert str(caught.value) == (
        f"the study's {name.replace('_', ' ')} is 'scheme://***@host/place'; give {flag} again, with its credentials"
    )


def test_credentials_in_the_environment_are_found_again(no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger(Path("lsx-studies"))  # a study that was begun; for a new one the server would be asked first
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    for _ in range(2):
        with pytest.raises(StudyError, match="(^|; )Ray does not start|MLflow at 'http://.*127.0.0.1:9'") as caught:
            run(fakes.spec())
        assert "secret" not in str(caught.value)
    noted = json.loads((Path("lsx-studies") / "fake" / "surroundings.json").read_text())
    assert noted["tracking_uri"] == "http://***@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.2:9")
    with pytest.raises(StudyError, match="give --tracking-uri again"):
        run(fakes.spec())  # another server: the study is on the first


def test_a_run_has_its_own_way_of_workers_and_snapshots(no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    manager: Any = experiment_state._ExperimentCheckpointManager
    monkeypatch.setattr(tune_controller, "_ObjectCache", object)
    monkeypatch.setattr(manager, "sync_up_experiment_state", lambda *_: None)
    with pytest.raises(StudyError, match="Ray does not start"):
        run(fakes.spec())
    assert tune_controller._ObjectCache is idle.IdleWorkers
    assert manager.sync_up_experiment_state.at_the_end


def test_a_default_store_that_was_moved_is_made_where_the_study_is_now(
    no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StudyError, match="Ray does not start"):
        run(fakes.spec())
    noted = json.loads((Path("lsx-studies") / "fake" / "surroundings.json").read_text())
    assert noted["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "new").mkdir()
    Path("lsx-studies").rename(tmp_path / "new" / "lsx-studies")
    Path("mlflow.db").rename(tmp_path / "new" / "mlflow.db")
    monkeypatch.chdir(tmp_path / "new")
    with pytest.raises(StudyError, match="Ray does not start"):
        run(fakes.spec())
    assert not (tmp_path / "mlflow.db").exists()


def test_a_damaged_end_of_the_journal_is_told(no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match="Ray does not start"):
        run(fakes.spec())
    with (tmp_path / "lsx-studies" / "fake" / "journal.log").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    monkeypatch.setattr(driver.Driver, "search", lambda self: None)
    result = run(fakes.spec())
    (kept,) = result.folder.glob("journal.log.damaged-*")
    assert result.notices == (f"the journal's end was damaged; what was cut off lies in {kept}",)


def test_a_fault_in_the_middle_is_one_line_that_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(self: driver.Driver) -> None:
        self.around.watch.run(storage_is_gone)
        self.around.watch.check()

    def storage_is_gone() -> None:
        raise StudyError("the storage cannot be used")

    monkeypatch.setattr(driver.Driver, "search", search)
    with pytest.raises(StudyError, match="^the storage cannot be used; nothing is lost: the same command continues"):
        run(fakes.spec())


def test_a_bug_in_the_middle_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(self: driver.Driver) -> None:
        self.around.watch.run(lambda: 1 / 0)
        self.around.watch.check()

    monkeypatch.setattr(driver.Driver, "search", search)
    with pytest.raises(ZeroDivisionError):
        run(fakes.spec())


def test_an_interruption_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(self: driver.Driver) -> None:
        self.around.watch.stop("signal")
        raise Halt

    monkeypatch.setattr(driver.Driver, "search", search)
    result = run(fakes.spec())
    assert (result.status, result.report, result.finished) == ("interrupted", None, 0)


@pytest.mark.parametrize(("count", "status"), [(3, "complete"), (2, "time is up")])
def test_time_that_is_up_when_all_is_done_is_the_end(monkeypatch: pytest.MonkeyPatch, count: int, status: str) -> None:
    def search(self: driver.Driver) -> None:
        """All trials begin, some of them end, and time is up."""
        one = self.around.ledger
        self.recorder = self._open_recorder()
        for planned in [one.next() for _ in range(3)][:count]:
            assert planned is not None
            one.fail(planned.number, "for the test")
        self.around.watch.stop("time")
        raise Halt

    monkeypatch.setattr(driver.Driver, "search", search)
    result = run(fakes.spec(budget={"trials": 3}))
    assert (result.status, result.finished) == (status, count)


def _data_is_gone(_: Any) -> None:
    raise StudyError("the data is gone")


@pytest.mark.parametrize(
    ("settings", "where", "message"),
    [
        ({"data.source": "folder", "data.root": "none"}, {}, "^study fake: .*'none' is not a folder"),
        ({}, {"tracking_uri": "sqlite://"}, "kept in memory"),
        ({}, {"storage": "s4://bucket"}, "^storage 's4://bucket' cannot be used"),
        ({}, {"time_budget": "-3"}, "^time budget: '-3' is no duration above 0"),
    ],
)
def test_what_all_trials_would_fail_of_creates_nothing(
    tmp_path: Path, settings: dict[str, Any], where: dict[str, Any], message: str
) -> None:
    (tmp_path / "starts").rmdir()
    with pytest.raises(StudyError, match=message):
        run(fakes.spec(settings={**fakes.CONTENT["settings"], **settings}), **where)
    assert not (tmp_path / "studies").exists() and not list(tmp_path.glob("*.db"))


def test_the_scheduler_counts_searched_epochs() -> None:
    spec = fakes.spec(
        settings={"pretrain.epochs": 1, "finetune.epochs": 1, "evaluation.encoder_epochs": 0},
        space={"joint.epochs": {"type": "int", "low": 1, "high": 30}},
        reference_trials={},
        scheduler={"type": "asha", "grace_epochs": 14, "reduction_factor": 2},
    )
    # Config's own joint.epochs, 10, would leave no rung.
    assert schedulers.build(spec.scheduler, spec.longest, {}) is not None
    assert schedulers.positions(spec.scheduler, spec.longest) == [14, 28]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"tracking_uri": "ftp://host/runs"}, "MLflow at 'ftp://host/runs' cannot be used"),
        ({"optuna_storage": "nosuch://host/name"}, "study storage 'nosuch://host/name' cannot be used"),
        ({"tracking_uri": "http://127.0.0.1:1"}, "http://127.0.0.1:1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(tmp_path: Path, where: dict[str, str], said: str) -> None:
    with pytest.raises(StudyError) as refused:
        run(fakes.spec(), folder=tmp_path / "studies", **where)  # type: ignore[arg-type]
    assert said in str(refused.value)
    assert not (tmp_path / "studies").exists() and not list(tmp_path.glob("*.db"))
