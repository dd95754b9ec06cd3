"""A trial that was really trained, trained again: to the same figures, or not."""

import io
import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from lsx.errors import StudyError
from lsx.study.declared.spec import StudySpec
from lsx.study.environment import quiet

quiet.prepare()

from lsx.study import commands  # noqa: E402
from lsx.study.shown import archive, rerun  # noqa: E402
from lsx.study.worker import trial  # noqa: E402
from tests.study.drivers import FakeTune, begin, declare, driver  # noqa: E402

CONTENT: dict[str, Any] = {
    "name": "fake",
    "settings": {
        "data": {"dataset": "decoy_mnist", "few_shot_fraction": 0.03},
        "model.name": "SimpleConvNet",
        "stages": ["pretrain"],
        "pretrain": {"epochs": 1, "optimizer": "adam", "learning_rate": 1e-3},
        "evaluation": {"max_images": 32, "batch_size": 32, "metrics": ["accuracy", "relevance_mass", "iies"]},
        "evaluation.encoder_epochs": 0,
        "seed": 3,
    },
    "objectives": [{"metric": "accuracy", "direction": "maximize"}],
    "repeats": 2,
    "budget": {"trials": 1},
    "scheduler": {"type": "none"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of one trial with two seeds; the first trial's reports came from a worker."""
    path = tmp_path_factory.mktemp("rerun")
    with pytest.MonkeyPatch.context() as monkeypatch:
        recorder = driver(path / "lsx-studies", StudySpec.build(CONTENT))
        tune = FakeTune(path / "reports")
        tune.install(monkeypatch)
        trial.run_trial({**begin(recorder), "stop": "key"})
    last = recorder.folder.ray / "run" / "0000-t" / "checkpoint_000001"
    shutil.copytree(path / "reports" / str(len(tune.reports) - 1), last)
    recorder.checkpointed(0, str(last))
    recorder.finish(0, tune.reports[-1])
    declare(recorder)
    return path / "lsx-studies"


@pytest.fixture
def study(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "lsx-studies"))


def said(study: Path) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    status = commands.main(["rerun", "--study", "fake", "--folder", str(study), "0"], console)
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def tampered(study: Path, name: str, change: float) -> float:
    """Change the second seed's recorded figure in the journal; returns what it was."""
    journal = study / "fake" / "journal.log"
    lines, was = [], None
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        if "seeds" in entry.get("user_attr", {}):
            values = entry["user_attr"]["seeds"][name]
            was, values[1] = values[1], values[1] + change
        lines.append(json.dumps(entry))
    journal.write_text("\n".join(lines) + "\n")
    assert was is not None
    return float(was)


def test_the_same_figures_come_out_exactly(study: Path) -> None:
    seeds = archive.open_past(study, "fake").trial(0).user_attrs["seeds"]
    assert seeds["accuracy"][0] != seeds["accuracy"][1]
    count = sum(map(len, seeds.values()))
    threads = torch.get_num_threads()
    status, text = said(study)
    assert f"lsx: trial 0: all {count} final figures came out exactly as recorded" in text
    assert status == 0
    assert "lsx: seed 3, 1 of 2" in text and "lsx: seed 4, 2 of 2" in text
    assert "not as then" not in text
    assert torch.get_num_threads() == threads


def test_a_tampered_figure_is_found(study: Path) -> None:
    was = tampered(study, "accuracy", 1e-9)
    status, text = said(study)
    assert status == 1
    assert f"lsx: trial 0 gives other figures: accuracy, seed 1 was {was + 1e-9}, and is {was} now" in text


def test_other_surroundings_are_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    file = study / "fake" / "trials" / "0000" / "manifest.json"
    made = json.loads(file.read_text())
    made["packages"]["torch"], made["threads"] = "1.0", 7
    file.write_text(json.dumps(made))
    status, text = said(study)
    assert f"lsx: not as then: torch: 1.0 became {metadata.version('torch')}" in text
    assert status == 0 and "exactly" in text
    assert asked == [7, torch.get_num_threads()]  # as many as the trial had, and then as before


@pytest.mark.parametrize("content", [None, "half"])
def test_a_trial_without_a_manifest_is_compared_all_the_same(study: Path, content: str | None) -> None:
    file = study / "fake" / "trials" / "0000" / "manifest.json"
    file.unlink() if content is None else file.write_text(content)
    status, text = said(study)
    assert status == 0 and "not as then" not in text


def test_an_unfinished_trial_has_nothing_to_compare_with(study: Path) -> None:
    found = archive.open_past(study, "fake")
    trial = found.trial(0)
    trial.user_attrs.pop("seeds")
    with pytest.raises(StudyError, match="^trial 0 is complete and has no final metrics to compare with$"):
        rerun.rerun(found, trial, Console(file=io.StringIO()))
