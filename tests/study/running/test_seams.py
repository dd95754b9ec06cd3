"""What two drivers, or a killed one and the next, can do to each other in moments that are too short to be hit."""

import fcntl
from pathlib import Path
from typing import Any

import pytest
import ray

from lsx.errors import StudyError
from lsx.study.environment import folder as folders
from lsx.study.environment.folder import StudyFolder
from lsx.study.search import optunastore
from lsx.study.search.ledger import Ledger
from lsx.study.worker import stopping
from tests.study import fakes


def test_a_folder_that_is_set_aside_between_opening_and_locking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = fcntl.flock

    def late(lock: int, how: int) -> None:
        (tmp_path / "fake").rename(tmp_path / "aside")
        take(lock, how)

    monkeypatch.setattr(folders.fcntl, "flock", late)
    with pytest.raises(StudyError, match="is being set aside by another driver"), StudyFolder(tmp_path, "fake"):
        pass
    monkeypatch.undo()
    with StudyFolder(tmp_path, "fake"):
        assert (tmp_path / "fake" / "lock").exists()


def test_opening_a_study_again_writes_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    optunastore.open_study(fakes.spec(), journal)
    before = journal.read_bytes()
    optunastore.open_study(fakes.spec(), journal)
    assert journal.read_bytes() == before


def test_an_edit_is_noted_once_though_its_driver_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "journal.log"
    Ledger(fakes.spec(), optunastore.open_study(fakes.spec(), journal))
    edited = fakes.spec(sampler={"type": "random"})
    note = Ledger.note_study

    def killed(self: Ledger, **attributes: Any) -> None:
        note(self, **{name: attributes[name] for name in list(attributes)[:1]})
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "note_study", killed)
    with pytest.raises(KeyboardInterrupt):
        Ledger(edited, optunastore.open_study(edited, journal))
    monkeypatch.undo()
    ledger = Ledger(edited, optunastore.open_study(edited, journal))
    assert ledger.edits
    assert len(ledger.study.user_attrs["edits"]) == 1


def test_a_trial_that_was_told_to_stop_need_not_be_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(stopping.internal_kv, "_internal_kv_get", lambda key, namespace: b"1")
    word = stopping.StopWord("key")
    assert word.said()
    assert word.said()
