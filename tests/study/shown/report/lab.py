"""Studies that have come to where a test wants them, and a reader of their pages."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsx.study.environment import quiet

quiet.prepare()

from lsx.study.environment.folder import StudyFolder  # noqa: E402
from lsx.study.environment.places import DONE, MAPS, Storage  # noqa: E402
from lsx.study.running.recorder import Recorder  # noqa: E402
from lsx.study.search import optunastore  # noqa: E402
from lsx.study.search.ledger import Ledger  # noqa: E402
from lsx.study.shown.archive import Past, open_past  # noqa: E402
from lsx.study.shown.report import page  # noqa: E402
from lsx.study.shown.report.subject import LeftOut, Subject  # noqa: E402
from tests.study import fakes  # noqa: E402
from tests.study.drivers import FakeOutbox, begin, declare  # noqa: E402

VOID = {"meta", "img", "link", "source", "br"}
BOTH = ((0.5, 0.5), (0.6, 0.4), (0.7, 0.6), (0.4, 0.9))
"""Of accuracy and ridge: the baseline, the one to be chosen, another of the front, one that is dominated."""


def past(path: Path, *outcomes: Any, url: str | None = None, uri: str = "sqlite:///m.db", **changes: Any) -> Past:
    """A study whose trials have these objective values, or are ``pruned``, ``running``, or failed for a reason."""
    spec = fakes.spec(**{"budget": {"trials": max(3, len(outcomes))}, **changes})
    folder = StudyFolder(path, "fake")
    folder.path.mkdir(parents=True, exist_ok=True)
    outbox: Any = FakeOutbox()
    outbox.ledger = Ledger(spec, optunastore.open_study(spec, folder.journal, url))
    recorder = Recorder(outbox.ledger, outbox, folder, Storage(folder.ray))
    for outcome in outcomes:
        play(recorder, outcome)
    recorder.ledger.note_study(seconds_used=75.0)
    declare(recorder, tracking_uri=uri, **({} if url is None else {"optuna_storage": url}))
    return open_past(path, "fake")


def play(recorder: Recorder, outcome: Any) -> None:
    number = begin(recorder)["number"]
    recorder.report(number, fakes.report(4))
    if outcome == "pruned":
        recorder.finish(number, {})
    elif isinstance(outcome, str) and outcome != "running":
        recorder.fail(number, outcome)
    elif outcome != "running":
        names = [one.metric for one in recorder.ledger.spec.objectives]
        final = dict(zip(names, outcome, strict=True))
        seeds = {name: [value - 0.01, value, value + 0.01] for name, value in final.items()}
        repeats = recorder.ledger.spec.repeats
        recorder.finish(number, {"final": final, "seeds": {name: some[:repeats] for name, some in seeds.items()}})


def curves(found: Past, number: int, seeds: int = 1, stages: str = "pretrain joint") -> None:
    """Leave the curves of a trial: two epochs of every stage, of which seed k's loss is k + 1 / epoch."""
    rows = [
        [
            {"stage": stage, "position": 2 * place + epoch, "metrics": {"classification_loss": seed + 1 / epoch}}
            for place, stage in enumerate(stages.split())
            for epoch in (1, 2)
        ]
        for seed in range(seeds)
    ]
    done = [{"seed": seed, "metrics": {}, "reasons": {}, "curves": some} for seed, some in enumerate(rows)]
    (found.folder.trial(number) / DONE).write_text(json.dumps({"done": done, "curves": []}))


def maps(found: Past, number: int, stages: str = "pretrain joint", first: int = 0, masks: bool = True) -> None:
    """Leave the explanations of a trial: of two images, all relevance inside of the decoy, or half of it."""
    inside = np.zeros((2, 1, 4, 4), dtype=bool)
    inside[:, :, :1, :1] = True
    values = np.zeros((2, 1, 4, 4), dtype=np.float16)
    values[:, :, 0, 0] = 0.5
    values[1, :, 3, 3] = 0.5
    arrays: dict[str, Any] = {"masks": inside} if masks else {}
    for stage in stages.split():
        arrays |= {f"own/{stage}": values, f"reference/{stage}": values, f"predicted/{stage}": np.array([0, 3])}
    np.savez(
        found.folder.trial(number) / MAPS,
        allow_pickle=False,
        images=np.full((2, 1, 4, 4), 128, dtype=np.uint8),
        labels=np.array([0, 1]),
        index=np.array([first, 9]),
        **arrays,
    )


class Page(HTMLParser):
    """A page as a browser has it; fails on tags that do not match.

    Attributes:
        sections: text by section id.
        left_out: ids of sections that are left out, and of those that could not be made.
        figures: plotly's data and layout by the place's id.
        loads: what a browser would load.
        links: of anchors.
        rows: attributes of table rows.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: dict[str, str] = {}
        self.left_out: set[str] = set()
        self.faults: set[str] = set()
        self.figures: dict[str, Any] = {}
        self.loads: list[str] = []
        self.links: list[str] = []
        self.rows: list[dict[str, str | None]] = []
        self.places: set[str] = set()
        self.scripts: list[str] = []
        self._figure: str | None = None
        self.source = path.read_text()
        self.feed(self.source)
        assert self.open == []
        assert set(self.figures) == self.places

    @property
    def section(self) -> str:
        return next(reversed(self.sections), "")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "section":
            self.sections[str(found["id"])] = ""
        classes = str(found.get("class")).split()
        self.left_out |= {self.section} if "left-out" in classes else set()
        self.faults |= {self.section} if "fault" in classes else set()
        self.places |= {str(found["id"])} if "plot" in classes else set()
        self.rows += [found] if tag == "tr" else []
        self._figure = found.get("data-plot") if tag == "script" else None
        self.links += [str(found["href"])] if tag == "a" else []
        if tag != "a":
            self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._figure = None

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            if self._figure is not None:
                self.figures[self._figure] = json.loads(data)
            else:
                self.scripts.append(data)
        elif self.sections:
            self.sections[self.section] += data

    def words(self, section: str) -> str:
        return " ".join(self.sections[section].split())


def read(found: Past) -> Page:
    """The study's page, written and read."""
    return Page(page.write(found, found.folder.path / "page.html"))


def part(name: str, found: Past) -> str:
    """The HTML of one section."""
    make = next(one.make for one in page.PARTS if one.id == name)
    return "\n".join(make(Subject(found)))


def reason(name: str, found: Past) -> str:
    """Why a section is left out."""
    with pytest.raises(LeftOut) as caught:
        part(name, found)
    return str(caught.value)
