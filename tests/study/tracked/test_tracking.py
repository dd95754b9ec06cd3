"""What stands in MLflow afterwards, in a real SQLite store, read through MLflow's own client."""

import math
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lsx.errors import StudyError
from lsx.study.environment import quiet

quiet.prepare()

from mlflow import MlflowClient  # noqa: E402

from lsx.study.tracked import stores  # noqa: E402
from lsx.study.tracked.tracking import PARENT, Tracker, default_uri, definite, explained, ui_line  # noqa: E402


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests, each with its own experiment: making it takes seconds."""
    return default_uri(tmp_path_factory.mktemp("store") / "new" / "folder")


@pytest.fixture
def make(uri: str, tmp_path: Path) -> Callable[..., Tracker]:
    experiment = uuid.uuid4().hex

    def tracker(identity: str = "study-a", place: str = "here", keep: set[str] | None = None) -> Tracker:
        tracker = Tracker(uri, experiment, identity, tmp_path / place)
        tracker.open_study("name", {"lsx.question": "why?"}, keep or set())
        return tracker

    return tracker


def child(tracker: Tracker, number: int = 0, run_id: str | None = None, **params: Any) -> str:
    run_id = tracker.open_trial(number, f"00{number} name", run_id, {"lsx.role": "search"})
    tracker.describe(run_id, params)
    return run_id


def run(tracker: Tracker, run_id: str) -> Any:
    return MlflowClient(tracking_uri=tracker.uri).get_run(run_id)


def test_a_study_and_its_trial(make: Callable[..., Tracker], tmp_path: Path) -> None:
    tracker = make()
    params = {f"key.{index}": index for index in range(150)} | {"long": "x" * 9000, "list": ["pretrain", "joint"]}
    trial = child(tracker, **params)
    tracker.log(trial, {"joint/loss": 0.5, "joint/nan": math.nan}, 3, {"lsx.status": "complete"})
    tracker.log(trial, {"joint/loss": 0.25}, 4)
    (tmp_path / "config.yaml").write_text("seed: 1")
    tracker.attach(trial, tmp_path / "config.yaml")
    tracker.attach(trial, tmp_path / "missing.png")
    tracker.end(trial, "FINISHED")
    tracker.end(tracker.parent, "FINISHED")
    parent, made = run(tracker, tracker.parent), run(tracker, trial)
    assert (parent.info.run_name, parent.info.status) == ("name", "FINISHED")
    assert parent.data.tags["lsx.question"] == "why?"
    assert (made.info.run_name, made.info.status) == ("000 name", "FINISHED")
    assert made.data.tags[PARENT] == tracker.parent
    assert made.data.tags["lsx.status"] == "complete"
    assert made.data.params["key.149"] == "149"
    assert made.data.params["list"] == "['pretrain', 'joint']"
    assert len(made.data.params) == 152
    client = MlflowClient(tracking_uri=tracker.uri)
    assert [(m.step, m.value) for m in client.get_metric_history(trial, "joint/loss")] == [(3, 0.5), (4, 0.25)]
    assert [artifact.path for artifact in client.list_artifacts(trial)] == ["config.yaml"]
    assert "/new/folder/mlartifacts/" in made.info.artifact_uri  # beside the database


def test_a_restart_continues_the_same_runs(make: Callable[..., Tracker]) -> None:
    before = make()
    trial = child(before, a=1)
    before.end(trial, "KILLED")
    before.end(before.parent, "KILLED")
    after = make(keep={trial})
    assert after.parent == before.parent
    assert child(after, run_id=trial, a=1) == child(after, a=1) == trial
    assert run(after, trial).info.status == run(after, after.parent).info.status == "RUNNING"


def test_a_run_whose_id_was_never_recorded_is_found(make: Callable[..., Tracker]) -> None:
    tracker = make()
    assert child(tracker, 1) == child(tracker, 1)
    assert child(tracker, 1) != child(tracker, 2)


def test_a_run_that_is_not_there_any_more_is_made_anew(make: Callable[..., Tracker]) -> None:
    tracker = make()
    gone = child(tracker)
    MlflowClient(tracking_uri=tracker.uri).delete_run(gone)
    fresh = child(tracker, run_id=gone)
    assert fresh != gone
    assert child(tracker, run_id="0" * 32) == fresh  # its tags tell
    assert child(tracker, 1, run_id="0" * 32) not in (gone, fresh, "0" * 32)
    assert run(tracker, fresh).info.status == "RUNNING"


def test_what_is_said_twice_counts_once(make: Callable[..., Tracker]) -> None:
    tracker = make()
    trial = tracker.open_trial(0, "000 name", None, {}, start=1000)
    rows = [(2000, step, {"loss": 1 / (step + 1), "nan": math.nan}) for step in range(1200)]
    tags = {f"tag{index}": index for index in range(150)}
    for _ in range(2):
        tracker.log_rows(trial, rows, tags)
        tracker.end(trial, "FINISHED", 3000)
    client = MlflowClient(tracking_uri=tracker.uri)
    for name in ("loss", "nan"):
        assert [(m.step, m.timestamp) for m in client.get_metric_history(trial, name)] == [
            (n, 2000) for n in range(1200)
        ]
    made = run(tracker, trial)
    assert (made.info.start_time, made.info.end_time) == (1000, 3000)
    assert made.data.tags["tag149"] == "149"


def test_empty_doubles_of_a_run_are_deleted(make: Callable[..., Tracker]) -> None:
    tracker = make()
    client = MlflowClient(tracking_uri=tracker.uri)
    tags = {"lsx.study": "study-a", "lsx.trial": "7"}
    doubles = [client.create_run(tracker._experiment, tags=tags).info.run_id for _ in range(3)]
    tracker.log(doubles[1], {"loss": 1.0})
    other = child(tracker, 8)
    assert child(tracker, 7) == doubles[1]
    assert [tracker.exists(one) for one in (*doubles, other)] == [False, True, False, True]
    tracker.discard_doubles(8, "another")
    assert not tracker.exists(other)


def test_a_study_whose_run_was_deleted_takes_its_trials_over(make: Callable[..., Tracker]) -> None:
    tracker = make()
    trial, before = child(tracker), tracker.parent
    elsewhere = child(other := make("study-b"))
    client = MlflowClient(tracking_uri=tracker.uri)
    client.delete_run(before)
    with pytest.raises(StudyError) as caught:
        tracker.touch()
    assert definite(caught.value)
    tracker.renew_study()
    tracker.touch()
    assert tracker.parent != before
    assert run(tracker, trial).data.tags[PARENT] == tracker.parent
    assert run(tracker, elsewhere).data.tags[PARENT] == other.parent
    assert run(tracker, tracker.parent).data.tags["lsx.question"] == "why?"
    tracker.renew_study()
    assert len({make().parent, tracker.parent}) == 1


def test_orphans_of_this_folder_are_ended_and_others_left_alone(make: Callable[..., Tracker]) -> None:
    before = make("study-a")
    orphan, continued = child(before, 1), child(before, 2)
    elsewhere = make("study-b", place="there")
    other = child(elsewhere, 1)
    after = make("study-c", keep={continued})  # --fresh: another study in the same folder
    states = {
        name: run(after, one).info.status
        for name, one in {
            "orphan": orphan,
            "old parent": before.parent,
            "continued": continued,
            "other": other,
            "other parent": elsewhere.parent,
            "parent": after.parent,
        }.items()
    }
    assert states == {
        "orphan": "KILLED",
        "old parent": "KILLED",
        "continued": "RUNNING",
        "other": "RUNNING",
        "other parent": "RUNNING",
        "parent": "RUNNING",
    }


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "no server answers there"),
        ("nonsense://x", "unsupported URI|scheme"),
        ("sqlite:////proc/none/mlflow.db", "No such file"),
        ("mlruns", "database backend"),
        ("sqlite://", "kept in memory and lost; name a file"),
        ("sqlite:///", "kept in memory and lost; name a file"),
        ("sqlite:///:memory:", "kept in memory and lost; name a file"),
        ("sqlite:///here", "is a folder; name a file in it, such as sqlite:///here/mlflow.db"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(
    uri: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StudyError, match=message) as caught:
        Tracker(uri, "x", "id", tmp_path)
    assert "\n" not in str(caught.value)
    assert uri in str(caught.value)


@pytest.mark.parametrize("content", ["locked", "no database"])
def test_a_file_that_takes_no_writes_is_refused_at_once(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LOCK_SECONDS", 0.1)
    with closing(sqlite3.connect(tmp_path / "x.db")) as other:
        if content == "locked":
            other.execute("BEGIN IMMEDIATE")
        else:
            (tmp_path / "x.db").write_text("something else" * 100)
        with pytest.raises(StudyError, match="x.db' cannot be used: (database is locked|file is not a database)$"):
            Tracker(f"sqlite:///{tmp_path}/x.db", "x", "id", tmp_path)


@pytest.mark.parametrize("uri", ["http://someone:secret@127.0.0.1:9", "postgresqlx://someone:secret@host/db"])
def test_no_error_shows_a_password(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StudyError, match="cannot be used") as caught:
        Tracker(uri, "x", "id", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_password_is_hidden_also_where_the_reason_is_cut() -> None:
    with pytest.raises(StudyError) as caught, explained("http://host"):
        raise ValueError("x" * 280 + " http://someone:secretsecretsecret@host/")
    assert "secret" not in str(caught.value)


def test_a_deleted_experiment_is_named_with_its_remedy(uri: str, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(identity := client.create_experiment("gone"))
    with pytest.raises(StudyError, match=f"was deleted.*--experiment-id {identity}"):
        Tracker(uri, "gone", "id", tmp_path)


def test_the_line_that_opens_the_results() -> None:
    assert ui_line("sqlite:////a/mlflow.db") == "mlflow ui --backend-store-uri sqlite:////a/mlflow.db"
    assert ui_line("sqlite:////my a/b.db") == "mlflow ui --backend-store-uri 'sqlite:////my a/b.db'"
    assert ui_line("http://host:5000") == "http://host:5000"
    assert "secret" not in ui_line("http://someone:secret@host:5000") + ui_line("mysql://someone:secret@host/db")
