"""The storage of a study: opened, waited for, held by one driver, set aside."""

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError

from lsx.errors import StudyError
from lsx.study.search import optunastore
from lsx.study.search.optunastore import Lease, Patient, load_study, open_study, refuse_running, set_aside
from tests.study import fakes
from tests.study.drivers import Ledger

SPEC = fakes.spec()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/trials.db"


def opened(url: str | None, tmp_path: Path) -> optuna.Study:
    return open_study(SPEC, tmp_path / "journal.log", url)


@pytest.mark.parametrize("database", [False, True])
def test_a_study_is_made_once_and_found_again(tmp_path: Path, url: str, database: bool) -> None:
    one = opened(url if database else None, tmp_path)
    Ledger(SPEC, one)
    again = opened(url if database else None, tmp_path)
    assert [trial.user_attrs["role"] for trial in again.get_trials()] == ["baseline", "published"]
    assert [direction.name for direction in again.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert (tmp_path / "journal.log").exists() != database
    seen = load_study("fake", tmp_path / "journal.log", url if database else None)
    assert len(seen.get_trials()) == 2


def test_a_database_does_what_a_journal_does(tmp_path: Path, url: str) -> None:
    ledgers = {name: Ledger(SPEC, opened(place, tmp_path)) for name, place in (("journal", None), ("database", url))}
    for one in ledgers.values():
        for _ in range(4):
            planned = one.next()
            assert planned is not None
            metrics = {"accuracy": 0.1 * planned.number, "ridge": 0.5}
            one.note(planned.number, metrics=metrics)
            one.complete(planned.number, one.values(metrics), metrics)
    first, second = ([(t.state, t.params, t.values) for t in one.study.get_trials()] for one in ledgers.values())
    assert first == second


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("trials.db", "it is no URL of a database, such as postgresql://host/name or sqlite:///studies.db"),
        ("sqlite:////no/such/folder/trials.db", "unable to open database file"),
        ("nosuch://user:secret@host/name", "Can't load plugin: sqlalchemy.dialects:nosuch"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(tmp_path: Path, url: str, reason: str) -> None:
    actions: list[Any] = [
        lambda: opened(url, tmp_path),
        lambda: set_aside(url, "fake"),
        lambda: refuse_running(url, "fake"),
    ]
    for action in actions:
        with pytest.raises(StudyError) as caught:
            action()
        assert reason in str(caught.value) and "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


def test_what_was_never_run_cannot_be_looked_at(tmp_path: Path, url: str) -> None:
    with pytest.raises(StudyError, match="study 'fake' has no trials yet"):
        load_study("fake", tmp_path / "journal.log")
    with pytest.raises(StudyError, match="cannot be read: its file is not there"):
        load_study("fake", tmp_path / "journal.log", url)
    assert not (tmp_path / "trials.db").exists()  # looking makes nothing
    opened(url, tmp_path)
    with pytest.raises(StudyError, match="cannot be read"):
        load_study("other", tmp_path / "journal.log", url)


@pytest.fixture
def locked(tmp_path: Path, url: str) -> Iterator[sqlite3.Connection]:
    opened(url, tmp_path)
    with closing(sqlite3.connect(tmp_path / "trials.db", check_same_thread=False)) as connection:
        connection.isolation_level = None
        yield connection


def test_a_locked_database_is_waited_for(
    tmp_path: Path, url: str, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSX_STORAGE_PATIENCE", "20s")
    monkeypatch.setattr(optunastore, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: time.sleep(0.1)))
    study = opened(url.replace("trials.db", "trials.db?timeout=0.1"), tmp_path)
    locked.execute("BEGIN IMMEDIATE")
    unlock = threading.Timer(1, lambda: locked.execute("ROLLBACK"))
    unlock.start()
    study.set_user_attr("noted", 1)
    assert not unlock.is_alive()
    assert opened(url, tmp_path).user_attrs["noted"] == 1


def test_a_database_that_stays_locked_is_given_up(
    tmp_path: Path, url: str, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSX_STORAGE_PATIENCE", "0.4s")
    study = opened(url, tmp_path)
    locked.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        start = time.monotonic()
        with pytest.raises(StudyError, match="^study storage .*trials.db' cannot be used: database is locked$"):
            study.set_user_attr("noted", 1)
        locked.execute("ROLLBACK") if locked.in_transaction else None
    assert time.monotonic() - start < 0.4  # given up: not asked again


class Flaky:
    """A storage that fails so many times."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.asked = failures, error, 0

    def get(self, value: int) -> int:
        self.asked += 1
        if self.asked <= self.failures:
            raise self.error
        return value


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    fake = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(optunastore, "time", fake)
    return now


def test_patience(clock: list[float]) -> None:
    flaky = Flaky(5, StorageInternalError("away"))
    assert Patient(flaky, "it", 60).get(3) == 3
    assert flaky.asked == 6
    away = Flaky(10**9, StorageInternalError("away"))
    patient = Patient(away, "it", 60)
    clock[0] = 0
    with pytest.raises(StudyError, match="^study storage 'it' cannot be used: away$"):
        patient.get(3)
    assert 60 <= clock[0] <= 65
    asked = away.asked
    with pytest.raises(StudyError, match="away"):
        patient.get(3)
    assert away.asked == asked
    journal = Flaky(1, OSError("No space left on device"))
    with pytest.raises(StudyError, match="No space left"):
        Patient(journal, "it", 0).get(3)
    assert journal.asked == 1


def test_errors_of_the_program_are_not_waited_for(clock: list[float]) -> None:
    with pytest.raises(ValueError, match="no number"):
        Patient(Flaky(1, ValueError("no number")), "it", 60).get(3)
    assert clock[0] == 0


def test_a_study_that_was_deleted_while_it_ran_is_one_line(tmp_path: Path, url: str) -> None:
    study = opened(url, tmp_path)
    optuna.delete_study(study_name="fake", storage=url)
    with pytest.raises(StudyError, match="the study is not there any more"):
        study.get_trials()


def test_a_second_driver_is_refused_and_told_who_holds_the_study(tmp_path: Path, url: str) -> None:
    holder = f"by process {os.getpid()} on {socket.gethostname()}"
    with Lease(opened(url, tmp_path)):
        with pytest.raises(StudyError, match=f"^study 'fake' is being run already, {holder}$"):
            Lease(opened(url, tmp_path)).__enter__()
        with pytest.raises(StudyError, match=holder):
            refuse_running(url, "fake")
    with Lease(opened(url, tmp_path)):
        pass
    refuse_running(url, "fake")
    refuse_running(url, "other")


@pytest.mark.parametrize(
    ("holder", "alive"),
    [
        ({"host": "elsewhere", "process": 1, "began": 0.0, "token": "x", "beat": -10.0}, True),
        ({"host": "elsewhere", "process": 1, "began": 0.0, "token": "x", "beat": -100.0}, False),
        ({"host": None, "process": 2**22 + 1, "began": 0.0, "token": "x", "beat": 0.0}, False),  # no such process
        (
            {"host": None, "process": os.getpid(), "began": 5.0, "token": "x", "beat": 0.0},
            False,
        ),  # its number was reused
    ],
)
def test_a_lease_ends_with_its_driver(tmp_path: Path, url: str, holder: dict[str, Any], alive: bool) -> None:
    holder = {**holder, "host": holder["host"] or socket.gethostname(), "beat": time.time() + holder["beat"]}
    opened(url, tmp_path).set_user_attr("driver", holder)
    if alive:
        with pytest.raises(StudyError, match="by process 1 on elsewhere"):
            Lease(opened(url, tmp_path)).__enter__()
    else:
        with Lease(opened(url, tmp_path)):
            assert opened(url, tmp_path).user_attrs["driver"]["process"] == os.getpid()
        assert opened(url, tmp_path).user_attrs["driver"] == {}


def test_a_lease_beats(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optunastore, "BEAT", 0.05)
    with Lease(opened(url, tmp_path)):
        first = opened(url, tmp_path).user_attrs["driver"]["beat"]
        end = time.monotonic() + 20
        while opened(url, tmp_path).user_attrs["driver"]["beat"] == first:
            assert time.monotonic() < end


def test_a_study_set_aside_keeps_everything_under_another_name(tmp_path: Path, url: str) -> None:
    assert set_aside(url, "fake") is None
    one = Ledger(SPEC, opened(url, tmp_path))
    assert one.next() is not None
    identity = one.identity
    aside = set_aside(url, "fake")
    assert aside is not None and aside.startswith("fake-")
    assert optuna.get_all_study_names(url) == [aside]
    old = load_study(aside, tmp_path / "journal.log", url)
    assert [trial.state.name for trial in old.get_trials()] == ["RUNNING", "WAITING"]
    assert old.user_attrs["identity"] == identity
    new = Ledger(SPEC, opened(url, tmp_path))
    assert new.identity != identity and new.orphans == ()
