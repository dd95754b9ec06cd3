"""Studies whose tracking server, databases and disks fail them: nothing is lost, and nothing happens twice."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lsx.errors import CheckpointError
from lsx.study.tracked import stores
from lsx.training import checkpoint
from tests.chaos.surroundings import Proxy, Study, disk, fill, immutable, locked, read_only
from tests.study import drive
from tests.study.servers import Server

NOTHING_LOST = "nothing is lost: the same command continues the study"
BUFFERED = "wait on disk, training goes on"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Trials of a study that nothing happens to."""
    study = Study(tmp_path_factory.mktemp("reference"), seconds=0.0)
    assert study.finish() == 0, study.errors
    found = study.trials()
    study.check(study.path / "mlflow.db", found)
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    with Server(tmp_path / "server") as running:
        yield running


def test_a_server_that_is_dead_from_the_start_is_told_in_one_line(tmp_path: Path) -> None:
    uri = Server(tmp_path).uri
    study = Study(tmp_path, "--tracking-uri", uri)
    assert study.finish() == 2
    assert study.errors.strip() == f"lsx: MLflow at '{uri}' cannot be used: no server answers there"
    assert {trial.state.name for trial in study.trials()} <= {"WAITING"}
    assert study.begun() == []


def test_a_server_that_is_killed_and_comes_back_gets_everything_once(
    tmp_path: Path, server: Server, reference: Sequence[Any]
) -> None:
    study = Study(tmp_path, "--tracking-uri", server.uri)
    process = study.start()
    drive.wait_until(lambda: study.finished() >= 1, process)
    server.kill()
    before = study.finished()
    drive.wait_until(lambda: study.finished() >= before + 2, process)
    assert not server.answers()
    server.start()
    assert study.finish(process) == 0
    assert study.errors == ""
    assert study.output.count(BUFFERED) == 1
    study.check(server.database, reference)


def test_a_server_that_is_slow_and_then_gone_delays_no_trial_and_gets_the_rest_from_the_next_run(
    tmp_path: Path, server: Server, reference: Sequence[Any]
) -> None:
    proxy = Proxy(server.port)
    proxy.seconds = 0.5
    study = Study(tmp_path, "--tracking-uri", proxy.uri)
    with proxy:
        process = study.start(LSX_OUTBOX_PATIENCE="3")
        drive.wait_until(lambda: study.begun(), process)
        before = proxy.requests
        drive.wait_until(lambda: study.finished() == len(reference), process)
        late = (proxy.requests - before) * proxy.seconds
    assert study.finish(process) == 0
    assert study.errors == ""
    assert f"MLflow at {proxy.uri} does not take" in study.output
    assert f"entries; they wait in {study.folder}, and the same command delivers them" in study.output
    training = study.seconds * 4 * len(reference) / 2
    assert late > training / 2
    assert _span(study.trials()) < _span(reference) + training + late / 2

    proxy.seconds = 0.0
    with proxy:
        assert study.finish() == 0
    assert f"study fake is complete: {len(reference)} of {len(reference)} trials" in study.output
    assert "wait in" not in study.output
    study.check(server.database, reference)


def _span(trials: Sequence[Any]) -> float:
    """Seconds from the first start to the last end."""
    return float((max(one.datetime_complete for one in trials) - min(one.datetime_start for one in trials)).seconds)


def test_databases_that_are_locked_or_read_only_for_a_while_are_waited_for(
    tmp_path: Path, reference: Sequence[Any]
) -> None:
    tracking, trials = tmp_path / "mlflow.db", tmp_path / "optuna.db"
    study = Study(tmp_path, "--optuna-storage", f"sqlite:///{trials}", seconds=1.0, LSX_STORAGE_PATIENCE="20")
    process = study.start()
    drive.wait_until(lambda: study.finished() >= 1, process)
    with locked(tracking):
        before = study.finished()
        drive.wait_until(lambda: study.finished() > before, process)
        with locked(trials):
            time.sleep(6)  # more than one attempt's
    with immutable(tracking):
        before = study.finished()
        drive.wait_until(lambda: study.finished() > before and BUFFERED in study.output, process)
    assert study.finish(process) == 0
    assert study.errors == ""
    study.check(tracking, reference)


def test_a_tracking_file_that_takes_no_writes_is_refused_at_the_start(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as place:
        there, absent = place / "there.db", place / "absent.db"
        there.touch()
        study = Study(tmp_path, "--tracking-uri", f"sqlite:///{absent}")
        with read_only(place):
            assert study.finish() == 2
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                stores.prepare(f"sqlite:///{there}")
    begin = f"lsx: MLflow at 'sqlite:///{absent}' cannot be used: "
    assert study.errors == f"{begin}unable to open database file\n"
    assert {trial.state.name for trial in study.trials()} <= {"WAITING"}
    assert study.begun() == []


def test_a_database_that_is_locked_for_long_or_gone_stops_the_study_and_costs_nothing(
    tmp_path: Path, reference: Sequence[Any]
) -> None:
    file = tmp_path / "optuna.db"
    study = Study(tmp_path, "--optuna-storage", f"sqlite:///{file}", LSX_STORAGE_PATIENCE="2")
    process = study.start()
    drive.wait_until(lambda: study.finished() >= 1, process)
    with locked(file):
        assert study.finish(process) == 2
    begin = f"lsx: study storage 'sqlite:///{file}' cannot be used: "
    assert study.errors == f"{begin}database is locked; {NOTHING_LOST}\n"
    assert "RUNNING" in {trial.state.name for trial in study.trials()}

    process, before = study.start(), study.finished()
    drive.wait_until(lambda: study.finished() > before, process)
    aside = file.rename(tmp_path / "aside.db")
    assert study.finish(process) == 2
    assert study.errors.startswith(begin) and study.errors.endswith(f"; {NOTHING_LOST}\n")
    assert study.errors.count("\n") == 1

    aside.replace(file)
    assert study.finish() == 0
    study.check(tmp_path / "mlflow.db", reference)


def test_full_disks_stop_the_study_and_cost_nothing(tmp_path: Path, reference: Sequence[Any]) -> None:
    """One of the driver's own records, one of the checkpoints, and the workers' scratch."""
    with disk(tmp_path / "records") as records, disk(tmp_path / "checkpoints") as kept, disk(tmp_path / "tmp") as tmp:
        study = Study(
            tmp_path, "--storage", str(kept), folder=records / "lsx-studies", RAY_TMPDIR="/tmp", TMPDIR=str(tmp)
        )
        for place in (records, kept, tmp):
            process, before = study.start(), study.finished()
            drive.wait_until(lambda: study.finished() > before and study.resumable(), process)  # noqa: B023
            full = fill(place)
            assert study.finish(process) == 2
            _check_full(study, NOTHING_LOST)
            if place == records:
                assert study.finish() == 2
                _check_full(study, "")
            full.unlink()
            assert {trial.state.name for trial in study.trials()} <= {"COMPLETE", "RUNNING", "WAITING"}
        assert "finds no room on its disk" in study.errors
        assert study.finish() == 0
        study.check(tmp_path / "mlflow.db", reference)
    assert any(start > 0 for starts in study.begun() for start in starts[1:])


def _check_full(study: Study, end: str) -> None:
    assert "No space left on device" in study.errors and study.errors.endswith(f"{end}\n")
    assert study.errors.count("\n") == 1


def test_a_checkpoint_that_finds_no_room_is_told_from_a_broken_trial(tmp_path: Path) -> None:
    from lsx.study.worker import trial

    with disk(tmp_path / "disk", megabytes=1) as place:
        path = checkpoint.save({"weights": torch.zeros(1000)}, place / "checkpoint.pt")
        before = path.read_bytes()
        with pytest.raises(CheckpointError, match="No space left on device") as raised:
            checkpoint.save({"weights": torch.zeros(1_000_000)}, path)
        assert trial._no_room(raised.value.__context__)
        assert [file.read_bytes() for file in place.iterdir()] == [before]
