"""The page as a whole: everything in one file, nothing in it but what should be, whatever state the study is in."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from lsx.errors import StudyError
from tests.study.shown.report.lab import BOTH, Page, curves, maps, past, read

from lsx.study.shown import results  # isort: skip
from lsx.study.shown.report import page, plots, write  # isort: skip

SECTIONS = [
    *("asked", "answer", "front", "history", "importances", "parallel", "timeline"),
    *("curves", "gallery", "failures", "trials", "manifest"),
]
QUESTION = "does <script>alert(1)</script> learn? see https://host/page?x=1&token=secret"
CLEAN = {"failures", "manifest", "gallery", "curves"}
"""What fake trials do not leave."""


def test_a_page_needs_nothing_else_and_says_what_there_is_to_say(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH, "pruned", "RuntimeError: [red]boom[/red]", question=QUESTION, notes="a <i>note</i>")
    for number in range(4):
        curves(found, number)
        maps(found, number)
    (found.folder.trial(1) / "manifest.json").write_text('{"threads": 1, "code": {"version": "<b>"}}')
    made = read(found)
    assert list(made.sections) == SECTIONS
    assert made.left_out == {"failures"} and not made.faults  # its learners are not there
    assert "does <script>alert(1)</script> learn?" in made.words("asked")
    assert "a <i>note</i>" in made.words("asked")
    for words in ("accuracy ↑, ridge ↓", "6 trials", "loss.lambda_e", "1 to 100, log", "critic.optimizer is adam"):
        assert words in made.words("asked")
    assert results.answer(found.study, found.spec) in made.words("answer")
    assert "Trials: 4 complete, 1 failed, 1 pruned; ran for 75 s." in made.words("answer")
    assert "Not complete" not in made.words("answer")
    assert "RuntimeError: [red]boom[/red]" in made.words("trials")
    assert "lsx <b>" in made.words("manifest") and '"threads": 1' in made.words("manifest")


def test_nothing_is_loaded_and_nothing_secret_is_said(tmp_path: Path) -> None:
    made = read(past(tmp_path, *BOTH, "no answer from http://user:secret@host/x", question=QUESTION))
    assert made.loads and all(value.startswith("data:") for value in made.loads)
    assert "secret" not in made.source.replace(made.scripts[0], "")  # the first is plotly.js
    assert "token=***" in made.words("asked") and "http://***@host/x" in made.words("trials")
    assert made.source.count("* plotly.js v") == 1
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', made.source)
    assert policy == [page.POLICY] and "default-src 'none'" in page.POLICY and "http" not in page.POLICY
    assert 'showSendToCloud: false, plotlyServerURL: ""' in made.scripts[1]  # plotly would offer to upload charts
    style = "".join(re.findall(r"<style>.*?</style>", made.source, re.DOTALL))
    assert "url(" not in style and "@import" not in style


EVIL = "</script><img src=x onerror=alert(1)>"


def test_what_people_name_is_never_markup(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH, EVIL, reference_trials={"baseline": {"stages": ["pretrain"]}, EVIL: {}})
    study = optuna.create_study(directions=["maximize", "minimize"])
    for trial in found.study.trials:
        if trial.params:  # as an older version, or another program, may have left it
            trial.distributions = {**trial.distributions, f"<u>{EVIL}": CategoricalDistribution([EVIL, "<b>b</b>"])}
            trial.params = {**trial.params, f"<u>{EVIL}": EVIL}
        study.add_trial(trial)
    made = read(replace(found, study=study))
    assert list(made.sections) == SECTIONS and not made.faults
    assert "<img src=x" not in made.source and "onerror" in made.source
    assert EVIL in made.words("trials") and EVIL in made.words("asked")
    for figure in made.figures.values():  # plotly reads markup in texts
        assert "<img" not in str(figure) and "<u>" not in str(figure)
    assert "&lt;img src=x" in str(made.figures["plot-parallel"]["data"])
    assert "&lt;img src=x" in str(made.figures["plot-timeline"]["data"])


THIRD = [{"metric": name, "direction": "maximize"} for name in ("accuracy", "ridge", "sparseness")]


@pytest.mark.parametrize(
    ("outcomes", "changes", "left_out"),
    [
        (((0.5,), (0.6,), (0.7,)), {"objectives": THIRD[:1]}, CLEAN),
        (((0.5, 0.1, 0.2), (0.6, 0.4, 0.3), (0.7, 0.6, 0.1)), {"objectives": THIRD}, CLEAN),
        (BOTH, {"repeats": 3}, CLEAN),
        (BOTH, {"constraints": [{"metric": "ridge", "high": 0.1}]}, CLEAN),
        (BOTH[:1], {"reference_trials": {}, "space": {}}, CLEAN | {"importances", "parallel"}),
        (("a", "b", "c"), {}, {*CLEAN, "front", "history", "importances", "parallel"}),
        (("running",), {}, {*CLEAN, "front", "history", "importances", "parallel"}),
        ((), {}, {*CLEAN, "front", "history", "importances", "parallel", "timeline"}),
    ],
    ids=["one objective", "three", "repeats", "none feasible", "no space", "all failed", "running", "nothing"],
)
def test_a_part_is_there_or_says_why_not(tmp_path: Path, outcomes: Any, changes: Any, left_out: set[str]) -> None:
    made = read(past(tmp_path, *outcomes, **changes))
    assert list(made.sections) == SECTIONS
    assert made.left_out == left_out and made.faults == set()
    for name in left_out:
        assert re.search(r"Left out: [A-Z#].*\.", made.words(name)) or "Left out: checkpoint" in made.words(name)


def test_an_interrupted_study_is_said_to_be_one(tmp_path: Path) -> None:
    made = read(past(tmp_path, *BOTH[:2], "running", budget={"trials": 6}))
    said = "Not complete: 2 of 6 planned trials are finished, 1 running or interrupted."
    assert said in made.words("answer")
    assert "running" in {trace["name"] for trace in made.figures["plot-timeline"]["data"]}


def test_a_smaller_budget_or_space_is_no_interruption(tmp_path: Path) -> None:
    found = past(tmp_path / "told", *BOTH[:2], budget={"trials": 6})
    found.study.set_user_attr("planned", 2)  # as `--trials 2` would have it
    assert "Not complete" not in read(found).words("answer")
    two = {"critic.images": {"type": "categorical", "choices": ["clean", "confounded"]}}
    space = past(tmp_path / "small", *BOTH[:3], space=two, reference_trials={"baseline": {"stages": ["pretrain"]}})
    assert len(space.study.trials) == 3
    assert "Not complete" not in read(space).words("answer")


def test_a_study_in_a_database(tmp_path: Path) -> None:
    made = read(past(tmp_path, *BOTH, url=f"sqlite:///{tmp_path}/trials.db"))
    assert made.left_out == CLEAN
    assert len(made.figures["plot-history-0"]["data"][0]["x"]) == 4


def test_a_part_that_breaks_is_one_sentence_and_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any, **__: Any) -> None:
        raise ValueError("boom <b> at\nhttp://u:secret@host")

    monkeypatch.setattr(plots.optuna_plots, "plot_timeline", explode)
    made = read(past(tmp_path, *BOTH))
    assert made.faults == {"timeline"}
    assert made.words("timeline").endswith(
        "Left out, for it could not be made: ValueError: boom <b> at http://***@host"
    )
    assert "plot-front" in made.figures


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_the_old_one(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH)
    (tmp_path / "file").write_text("old")
    with pytest.raises(StudyError, match=r"^'.*/file/page.html' cannot be written: [^\n]+$"):
        write(found, tmp_path / "file" / "page.html")
    assert (tmp_path / "file").read_text() == "old"
    Page(write(found, tmp_path / "new" / "page.html"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_looking_changes_nothing(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH)
    before = {path: path.stat().st_mtime_ns for path in found.folder.path.rglob("*")}
    write(found, tmp_path / "elsewhere.html")
    assert {path: path.stat().st_mtime_ns for path in found.folder.path.rglob("*")} == before
