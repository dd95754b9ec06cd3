"""The report at the end of a study: in its folder, and with its run."""

from pathlib import Path
from typing import Any

import pytest

from lsx.errors import StudyError
from tests.study.drivers import declare, driver
from tests.study.shown.report.lab import Page
from tests.study.shown.test_conclusion import conclude, play, tested  # noqa: F401

from lsx.study.shown import conclusion  # isort: skip


def test_a_study_ends_with_its_report(tmp_path: Path) -> None:
    recorder = driver(tmp_path, trials=3)
    outbox: Any = recorder.outbox
    play(recorder, (0.5, 0.5), (0.6, 0.4), "diverged")
    declare(recorder)
    conclude(recorder)
    made = Page(recorder.folder.path / conclusion.REPORT)
    assert f"parent/{conclusion.REPORT}" in outbox.attached
    assert "The chosen trial 1 reaches" in made.words("answer")
    assert "(test 0.2500)" in made.words("answer") and "on test images" in made.words("front")
    assert "Not complete" not in made.words("answer")  # three were planned, though the file says six
    assert recorder.ledger.study.user_attrs["planned"] == 3


def test_time_that_is_up_leaves_a_report_that_says_so(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    play(recorder, (0.5, 0.5), (0.6, 0.4))
    declare(recorder)
    conclude(recorder, ending="KILLED")
    made = Page(recorder.folder.path / conclusion.REPORT)
    assert "Not complete: 2 of 6 planned trials are finished" in made.words("answer")


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = driver(tmp_path)
    play(recorder, (0.5, 0.5))
    (recorder.folder.path / conclusion.REPORT).mkdir()
    with pytest.raises(StudyError, match=r"report.html' cannot be written"):
        conclude(recorder)
