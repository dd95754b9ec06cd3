"""A study's folder: one driver at a time, whole after a kill, and with what is known of its surroundings."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from lsx.errors import StudyError
from lsx.study.environment.folder import SURROUNDINGS, StudyFolder
from tests.study import fakes
from tests.study.drivers import ledger, optunastore


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


@pytest.mark.parametrize(
    "tail",
    [
        b'{"op_code":4,"worker_id"',
        b'{"op_code":4,"worker_id"\n',
        b"\0" * 512,
        b"\0" * 64 + b"\n",
        b"\xff\xfe nonsense\nand more\n",
        b"[1, 2]\n",
        b"3\n",
        b'{"op_code": 4}',  # sound, but for the end of its line: a second one would be written on to it
    ],
)
def test_what_a_killed_write_leaves_is_cut_off_and_kept(tmp_path: Path, tail: bytes) -> None:
    with StudyFolder(tmp_path, "fake") as folder:
        ledger(tmp_path)
        whole = folder.journal.read_bytes()
        assert folder.repair() is None
        folder.journal.write_bytes(whole + tail)
        os.symlink(folder.journal, f"{folder.journal}.lock")
        kept = folder.repair()
        assert kept is not None and kept.parent == folder.path
        assert kept.read_bytes() == tail
        assert folder.journal.read_bytes() == whole
        start = time.monotonic()
        ledger(tmp_path).study.ask()
        assert time.monotonic() - start < 10  # Optuna would wait 30 s for the dead process's lock
        assert len(ledger(tmp_path).study.get_trials()) == 2


@pytest.mark.parametrize("damage", [b"half\n", b"\0" * 4096 + b"\n", b"{}{}\n"])
def test_a_journal_damaged_in_the_middle_is_refused_and_left_as_it_is(tmp_path: Path, damage: bytes) -> None:
    with StudyFolder(tmp_path, "fake") as folder:
        ledger(tmp_path)
        first, *rest = folder.journal.read_bytes().splitlines(keepends=True)
        damaged = b"".join([first, damage, *rest])
        folder.journal.write_bytes(damaged)
        with pytest.raises(StudyError, match=r"is damaged in line 2, with sound lines after it: .*--fresh"):
            folder.repair()
        assert folder.journal.read_bytes() == damaged
        assert not list(folder.path.glob("*.damaged*"))


def test_a_damaged_journal_is_one_line(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_text("no json\nat all\n")
    with pytest.raises(StudyError, match=r"^study storage '.*journal.log' cannot be used: [^\n]*--fresh[^\n]*$"):
        optunastore.open_study(fakes.spec(), journal)


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
        folder.note_surroundings(optuna_storage="sqlite:///trials.db")  # begun, and without a journal
        again = folder.set_aside()
        assert again is not None and again != old
        assert (again / SURROUNDINGS).is_file()


def test_surroundings_are_remembered_and_added_to(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "fake")
    assert folder.surroundings == {} and not folder.begun
    with folder:
        folder.note_surroundings(tracking_uri="one", storage=None)
        folder.note_surroundings(storage="two")
    assert folder.begun
    assert StudyFolder(tmp_path, "fake").surroundings == {"tracking_uri": "one", "storage": "two"}
    (folder.path / SURROUNDINGS).write_text(json.dumps({"tracking_uri": "one"})[:-3])
    assert folder.surroundings == {}  # half a file, of an editor: the defaults


def test_a_trials_folder_is_made(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "fake")
    assert folder.trial(7) == folder.path / "trials" / "0007"
    assert folder.trial(7).is_dir()
