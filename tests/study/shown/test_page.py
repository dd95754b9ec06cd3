"""The page on a study: everything in one file, and nothing in it but what should be."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lsx.errors import StudyError
from lsx.study.environment import quiet

quiet.prepare()

from lsx.study.environment.places import PICTURE  # noqa: E402
from lsx.study.shown import results  # noqa: E402
from lsx.study.shown.archive import Past, open_past  # noqa: E402
from lsx.study.shown.page import write  # noqa: E402
from tests.study.drivers import declare, driver  # noqa: E402
from tests.study.shown.test_archive import past  # noqa: E402

QUESTION = "does <script>alert(1)</script> learn? see https://host/page?x=1&token=secret"
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Texts, tags and the values of what a browser would load; fails on tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def finished(path: Path, **changes: Any) -> Past:
    recorder = past(path, question=QUESTION, **changes)
    for number, colour in ((0, "red"), (1, "blue")):
        Image.new("RGB", (8, 8), colour).save(recorder.folder.trial(number) / PICTURE)
    (recorder.folder.trial(1) / "manifest.json").write_text('{"threads": 1, "code": "<b>"}')
    return open_past(path, "fake")


def test_a_page_needs_nothing_else_and_says_what_there_is_to_say(tmp_path: Path) -> None:
    found = finished(tmp_path)
    page = write(found, tmp_path / "new" / "page.html").read_text()
    reader = Reader(page)
    assert all(value.startswith("data:image/png;base64,") for value in reader.loads)
    assert not reader.tags & {"script", "link", "iframe", "object", "form"}
    assert "url(" not in page and "@import" not in page
    assert (
        re.findall(r"https?://[^\s<]+", page) == ["https://host/page?x=1&amp;token=***"] * 2
    )  # said, and in the study
    words = " ".join(reader.text.split())
    assert "does <script>alert(1)</script> learn?" in words and "secret" not in page
    assert results.answer(found.study, found.spec) in words
    assert "2 complete, 1 fail, 1 running; ran for 75 s" in words
    assert "RuntimeError: [red]boom[/red]" in words
    assert "Pareto front" in words and "Explanations, baseline trial 0" in words
    assert "Explanations, chosen trial 1" in words
    assert '{"threads": 1, "code": "<b>"}' in words and "λe=10" in words
    pictures = [Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))) for value in reader.loads]
    assert len(pictures) == 3
    assert pictures[0].size[0] > 200  # the front, drawn anew
    assert [one.convert("RGB").getpixel((0, 0)) for one in pictures[1:]] == [(255, 0, 0), (0, 0, 255)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_a_page_before_anything_is_complete(tmp_path: Path) -> None:
    declare(driver(tmp_path))
    reader = Reader(write(open_past(tmp_path, "fake"), tmp_path / "page.html").read_text())
    assert "No trial completed" in reader.text and reader.loads == []


def test_a_page_without_pictures(tmp_path: Path) -> None:
    past(tmp_path, objectives=[{"metric": "accuracy", "direction": "maximize"}])
    reader = Reader(write(open_past(tmp_path, "fake"), tmp_path / "page.html").read_text())
    assert reader.loads == [] and "Pareto front" in reader.text


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_the_old_one(tmp_path: Path) -> None:
    found = finished(tmp_path)
    (tmp_path / "file").write_text("old")
    with pytest.raises(StudyError, match=r"^'.*/file/page.html' cannot be written: [^\n]+$"):
        write(found, tmp_path / "file" / "page.html")
    assert (tmp_path / "file").read_text() == "old"
