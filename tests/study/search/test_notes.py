"""What is noted about a trial costs one write, and none where nothing is new."""

import os
from pathlib import Path

import pytest

from lsx.study.search.ledger import Ledger
from tests.study import fakes
from tests.study.drivers import ledger, optunastore


def begun(path: Path) -> Ledger:
    one = ledger(path, fakes.spec(reference_trials={}))
    assert one.next() is not None
    return one


def test_several_attributes_are_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, synced = begun(tmp_path), []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), sync(file)))
    one.note(0, last={"loss": 0.5}, progress={"position": 3}, run_id="a", checkpoint=None)
    assert len(synced) == 1
    known = ledger(tmp_path, fakes.spec(reference_trials={})).trial(0).user_attrs
    assert (known["last"], known["progress"], known["run_id"]) == ({"loss": 0.5}, {"position": 3}, "a")
    assert "checkpoint" not in known


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    one, journal = begun(tmp_path), tmp_path / "fake" / "journal.log"
    one.note(0, run_id="a", progress={"position": 3})
    before = journal.read_bytes()
    one.note(0, run_id="a", progress={"position": 3})
    assert journal.read_bytes() == before
    one.note(0, run_id="a", progress={"position": 4})
    added = journal.read_bytes()[len(before) :].splitlines()
    assert len(added) == 1 and b'"progress"' in added[0]


def test_a_torn_note_leaves_a_sound_study(tmp_path: Path) -> None:
    one, journal = begun(tmp_path), tmp_path / "fake" / "journal.log"
    before = journal.read_bytes()
    one.note(0, run_id="a", attempts=2)
    first = journal.read_bytes()[len(before) :].splitlines(keepends=True)[0]
    journal.write_bytes(before + first)  # killed between the two lines of one write
    known = ledger(tmp_path, fakes.spec(reference_trials={})).trial(0)
    assert known.user_attrs["run_id"] == "a" and "attempts" not in known.user_attrs


def test_a_database_gets_the_same(tmp_path: Path) -> None:
    spec, url = fakes.spec(reference_trials={}), f"sqlite:///{tmp_path}/studies.db"
    one = Ledger(spec, optunastore.open_study(spec, tmp_path / "journal.log", url))
    assert one.next() is not None
    one.note(0, run_id="a", attempts=2)
    again = Ledger(spec, optunastore.open_study(spec, tmp_path / "journal.log", url)).trial(0)
    assert (again.number, again.user_attrs["run_id"], again.user_attrs["attempts"]) == (0, "a", 2)
