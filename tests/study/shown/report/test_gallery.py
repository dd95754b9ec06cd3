"""The gallery: which explanations stand where, and what is said below them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsx import figures
from lsx.figures import Cell
from tests.study.shown.report.lab import BOTH, MAPS, Subject, maps, part, past, reason

from lsx.study.shown import results  # isort: skip


class Drawn:
    """Grids that were asked for, light and dark."""

    def __init__(self) -> None:
        self.cells: list[Sequence[Sequence[Cell | None]]] = []
        self.titles: list[list[str]] = []

    def __call__(self, cells: Any, titles: Any = (), **_: Any) -> tuple[bytes, int]:
        self.cells.append(cells)
        self.titles.append([" ".join(title.split()) for title in titles])
        return b"png", 800

    def captions(self) -> list[list[str]]:
        return [["" if cell is None else cell.caption for cell in row] for row in self.cells[0]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    found = Drawn()
    monkeypatch.setattr(figures, "grid", found)
    return found


def test_columns_are_baseline_the_chosen_trial_by_stage_and_the_best(tmp_path: Path, drawn: Drawn) -> None:
    found = past(tmp_path, *BOTH)
    maps(found, 0, stages="pretrain")
    maps(found, 1, stages="pretrain joint finetune")
    maps(found, 2)
    maps(found, 3)
    html = part("gallery", found)
    titles = [
        "input",
        "#0 baseline",
        "#1 after pretraining",
        "#1 after joint training",
        "#1 after finetuning",
        "#2 front",
    ]
    assert drawn.titles == [titles, titles]  # light and dark
    assert drawn.captions()[0] == ["class 0", *["mass 1.00"] * 5]
    assert drawn.captions()[1] == ["class 1", *["mass 0.50 (says 3)"] * 5]
    cell = drawn.cells[0][0][1]
    assert cell is not None and cell.mask is not None and cell.is_map
    assert float(cell.picture.max()) == 1  # scaled by itself
    image = drawn.cells[0][0][0]
    assert image is not None and not image.is_map and float(image.picture.mean()) == pytest.approx(128 / 255)
    assert "By input_x_gradient, the reference explainer" in html and "<details>" not in html
    assert html.count("data:image/png;base64,") == 2


def test_own_explainers_are_shown_where_they_are_others(tmp_path: Path, drawn: Drawn) -> None:
    found = past(tmp_path, *BOTH[:2], settings={**_settings(), "evaluation.reference_explainer": "gradcam"})
    maps(found, 0)
    html = part("gallery", found)
    assert "By gradcam, the reference explainer" in html
    assert "By each trial's own explainer: #0 input_x_gradient" in html
    assert len(drawn.cells) == 4


def test_a_chosen_baseline_is_shown_once(tmp_path: Path, drawn: Drawn) -> None:
    found = past(tmp_path, (0.9, 0.1), (0.6, 0.4))
    maps(found, 0)
    part("gallery", found)
    assert drawn.titles[0] == ["input", "#0 baseline"]


def test_beside_a_chosen_baseline_the_next_of_the_front_is_shown_by_stage(tmp_path: Path, drawn: Drawn) -> None:
    found = past(tmp_path, (0.9, 0.5), (0.6, 0.4), (0.61, 0.49))
    assert Subject(found).role(Subject(found).trials[0]) == "baseline"
    chosen = results.choose(found.study, found.spec)
    assert chosen is not None and chosen.number == 0
    for number in range(3):
        maps(found, number)
    part("gallery", found)
    stages = ["#2 after pretraining", "#2 after joint training"]
    assert drawn.titles[0] == ["input", "#0 baseline", *stages, "#1 front"]


def test_trials_that_were_shown_other_images_are_left_out(tmp_path: Path, drawn: Drawn) -> None:
    found = past(tmp_path, *BOTH)
    maps(found, 0, stages="pretrain")
    maps(found, 1, first=5)
    assert "1 trials are left out" in part("gallery", found)
    assert drawn.titles[0] == ["input", "#0 baseline"]


def test_without_masks_there_is_no_mass(tmp_path: Path, drawn: Drawn) -> None:
    found = past(tmp_path, *BOTH[:1])
    maps(found, 0, masks=False)
    assert "no mask of a confounder" in part("gallery", found)
    assert drawn.captions() == [["class 0", ""], ["class 1", " (says 3)"]]


def test_an_older_study_or_a_damaged_file_has_no_gallery(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH)
    assert reason("gallery", found).startswith("No explanations lie in the study's folder")
    (found.folder.trial(1) / MAPS).write_bytes(b"PK half a zip")
    assert reason("gallery", found).startswith("No explanations lie in the study's folder")


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "opened").write_text, ("",))

    found = past(tmp_path, *BOTH)
    np.savez(found.folder.trial(1) / MAPS, index=np.array([Evil()], dtype=object), images=np.array([Evil()]))
    assert reason("gallery", found).startswith("No explanations lie in the study's folder")
    assert not (tmp_path / "opened").exists()


def _settings() -> dict[str, Any]:
    from tests.study import fakes

    return dict(fakes.CONTENT["settings"])
