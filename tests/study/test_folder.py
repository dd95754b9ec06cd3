"""A study's folder: one driver at a time, and whole after a kill."""

import os
import socket
import time
from pathlib import Path

import pytest

from lsx.errors import StudyError
from lsx.study.folder import StudyFolder
from lsx.study.ledger import Ledger
from tests.study import fakes


def test_a_second_driver_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with StudyFolder(tmp_path, "fake"), pytest.raises(StudyError, match=holder), StudyFolder(tmp_path, "fake"):
        pass
    with StudyFolder(tmp_path, "fake"):
        pass


def test_an_unusable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be used: Not a directory"), StudyFolder(tmp_path / "file", "fake"):
        pass


def test_what_a_killed_write_leaves_is_repaired(tmp_path: Path) -> None:
    with StudyFolder(tmp_path, "fake") as folder:
        Ledger(fakes.spec(), folder.journal)
        whole = folder.journal.read_bytes()
        folder.journal.write_bytes(whole + b'{"op_code":4,"worker_id"')
        os.symlink(folder.journal, f"{folder.journal}.lock")
        folder.repair()
        assert folder.journal.read_bytes() == whole
        start = time.monotonic()
        ledger = Ledger(fakes.spec(), folder.journal)
        ledger.study.ask()
        assert time.monotonic() - start < 10  # Optuna would wait 30 s for the dead process's lock
        assert len(Ledger(fakes.spec(), folder.journal).study.get_trials()) == 2


def test_a_damaged_journal_is_one_line(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_text("no json\nat all\n")
    with pytest.raises(StudyError, match=r"cannot be read.*--fresh"):
        Ledger(fakes.spec(), journal)


def test_setting_aside_keeps_everything_and_the_lock(tmp_path: Path) -> None:
    with StudyFolder(tmp_path, "fake") as folder:
        assert folder.set_aside() is None
        folder.journal.write_text("old")
        old = folder.set_aside()
        assert old is not None
        assert (old / "journal.log").read_text() == "old"
        assert not folder.journal.exists()
        with pytest.raises(StudyError), StudyFolder(tmp_path, "fake"):
            pass


def test_paths_survive_a_move(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "fake")
    assert folder.relative(folder.ray / "a" / "b") == "ray/a/b"
    assert folder.trial(7) == folder.path / "trials" / "0007"
