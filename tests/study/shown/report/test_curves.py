"""Training curves: what the worker kept, stage by stage."""

from pathlib import Path

import pytest

from tests.study.drivers import begin, driver, keep
from tests.study.shown.report.lab import BOTH, curves, fakes, past, read, reason

from lsx.study.environment.places import DONE, MAPS  # isort: skip
from lsx.study.shown.report.charts import BASELINE, FRONT  # isort: skip

PRETRAIN, JOINT = "plot-curves-classification_loss-pretrain", "plot-curves-classification_loss-joint"


def test_every_stage_has_its_panel_and_counts_its_own_epochs(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH)
    curves(found, 0, stages="pretrain")
    curves(found, 1)
    curves(found, 2)
    curves(found, 3)  # not on the front
    made = read(found)
    assert {name for name in made.figures if "curves" in name} == {PRETRAIN, JOINT}
    chosen, baseline, other = made.figures[PRETRAIN]["data"]
    assert (chosen["x"], chosen["y"]) == ([1, 2], [1.0, 0.5])
    assert (chosen["line"]["color"], baseline["line"]["color"]) == (FRONT, BASELINE)
    assert other["hovertemplate"].startswith("#2: ")
    assert [trace["x"] for trace in made.figures[JOINT]["data"]] == [[1, 2], [], [1, 2]]
    assert "#1, chosen#0, baseline#2" in made.words("curves")


def test_seeds_are_thin_and_their_mean_is_thick(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH[:2], repeats=3)
    curves(found, 1, seeds=3)
    made = read(found)
    *thin, thick = made.figures[PRETRAIN]["data"]
    assert [trace["y"] for trace in thin] == [[seed + 1, seed + 0.5] for seed in range(3)]
    assert thick["y"] == pytest.approx([2.0, 1.5])
    assert thick["line"]["width"] > thin[0]["line"]["width"]
    assert "mean of 3 seeds" in made.words("curves")


@pytest.mark.parametrize("content", [None, "half", '{"done": [{}]}', '{"done": []}'])
def test_an_older_study_has_no_curves(tmp_path: Path, content: str | None) -> None:
    found = past(tmp_path, *BOTH)
    if content is not None:
        (found.folder.trial(1) / DONE).write_text(content)
    assert reason("curves", found).startswith("No curves lie in the study's folder")


def test_what_the_report_needs_comes_from_the_worker_to_the_folder(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    number = begin(recorder)["number"]
    recorder.report(number, fakes.report(4))
    keep(recorder, number, **{DONE: "curves", MAPS: "maps"})
    recorder.finish(number, {"final": {"accuracy": 0.5, "ridge": 0.5}})
    folder = recorder.folder.trial(number)
    assert ((folder / DONE).read_text(), (folder / MAPS).read_text()) == ("curves", "maps")
