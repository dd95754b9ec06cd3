"""Studies that were run, found again and read, also while they run or when something is broken."""

import os
from pathlib import Path
from typing import Any

import pytest

from lsx.errors import StudyError
from lsx.study.environment import quiet
from tests.study import fakes

quiet.prepare()

from lsx.study.running.recorder import Recorder  # noqa: E402
from lsx.study.shown.archive import Past, all_past, names, open_past  # noqa: E402
from tests.study.drivers import begin, declare, driver, optunastore  # noqa: E402


def past(path: Path, **changes: Any) -> Recorder:
    """A study of which two trials are complete, one failed, and one was left running."""
    recorder = driver(path, fakes.spec(**changes))
    for values in ((0.5, 0.5), (0.6, 0.4)):
        number = begin(recorder)["number"]
        recorder.finish(number, {"final": dict(zip(("accuracy", "ridge"), values, strict=True))})
    recorder.fail(begin(recorder)["number"], "RuntimeError: [red]boom[/red]")
    begin(recorder)
    recorder.ledger.note_late(1, test={"accuracy": 0.55})
    recorder.ledger.note_study(seconds_used=75.0)
    declare(recorder)
    return recorder


def test_a_study_is_read_while_it_runs(tmp_path: Path) -> None:
    recorder = past(tmp_path)
    with recorder.folder:
        found = open_past(tmp_path, "fake")
    assert found.spec.fingerprint() == recorder.ledger.spec.fingerprint()
    assert found.counts == {"complete": 2, "fail": 1, "running": 1}
    assert found.seconds == 75
    assert found.trial(1).user_attrs["test"] == {"accuracy": 0.55}
    assert len(found.touched) == len("2020-01-01 12:00")
    for number in (-1, 4):
        with pytest.raises(StudyError, match=f"study 'fake' has no trial {number}; valid: 0 to 3"):
            found.trial(number)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    recorder = past(tmp_path)
    with recorder.folder.journal.open("ab") as file:
        file.write(b'{"op_code": 4, "half')  # a driver is writing
    before = {path: path.read_bytes() for path in recorder.folder.path.rglob("*") if path.is_file()}
    assert open_past(tmp_path, "fake").counts.total() == 4
    assert {path: path.read_bytes() for path in recorder.folder.path.rglob("*") if path.is_file()} == before


def test_studies_are_listed_by_their_last_change(tmp_path: Path) -> None:
    for index, name in enumerate(("old", "new", "middle")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").write_text("")
        os.utime(tmp_path / name, (1000 + index % 2 * 10 + index, 1000 + index % 2 * 10 + index))
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("")
    assert names(tmp_path) == ["new", "middle", "old"]
    assert names(tmp_path / "nowhere") == []


def test_an_unknown_study_is_one_line_with_the_nearest(tmp_path: Path) -> None:
    past(tmp_path)
    with pytest.raises(StudyError, match="^unknown study 'fkae'; did you mean 'fake'?.*those that were run"):
        open_past(tmp_path, "fkae")
    assert not (tmp_path / "fkae").exists()


def _journal(recorder: Recorder) -> None:
    recorder.folder.journal.write_text("no json\nat all\n")


def _gone(recorder: Recorder) -> None:
    recorder.folder.journal.unlink()


def _declaration(recorder: Recorder) -> None:
    (recorder.folder.path / "study.yaml").write_text("objectives: [")


def _credentials(recorder: Recorder) -> None:
    recorder.folder.note_surroundings(optuna_storage="postgresql://***@host/db")


def _database(recorder: Recorder) -> None:
    recorder.folder.note_surroundings(optuna_storage=f"sqlite:///{recorder.folder.path}/none.db")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_journal, "study storage '.*journal.log' cannot be read"),
        (_gone, "study 'fake' has no trials yet"),
        (_declaration, "study.yaml:1: "),
        (_credentials, r"is 'postgresql://\*\*\*@host/db'; give --optuna-storage, with its credentials"),
        (_database, "none.db' cannot be read: its file is not there"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_hides_no_other(tmp_path: Path, damage: Any, message: str) -> None:
    damage(past(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    (other / "study.yaml").write_text((tmp_path / "fake" / "study.yaml").read_text())
    with pytest.raises(StudyError, match=message) as caught:
        open_past(tmp_path, "fake")
    assert "\n" not in str(caught.value)
    found = dict(all_past(tmp_path))
    assert set(found) == {"fake", "other"}
    assert isinstance(found["fake"], StudyError)


def test_a_database_is_found_by_what_the_folder_remembers_or_a_person_says(tmp_path: Path) -> None:
    recorder = past(tmp_path)
    url = f"sqlite:///{tmp_path}/trials.db"
    optunastore.open_study(fakes.spec(), tmp_path / "none", url).enqueue_trial({})
    recorder.folder.note_surroundings(optuna_storage=url)
    assert open_past(tmp_path, "fake").counts == {"waiting": 1}
    recorder.folder.note_surroundings(optuna_storage="sqlite://***@nowhere")
    found: Past = open_past(tmp_path, "fake", url)
    assert found.counts == {"waiting": 1}
