"""``lsx evaluate`` and ``lsx explain``: several checkpoints, several methods, one's own images, and mistakes."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lsx import Config, Dataset, Trainer, evaluate, explainers, load_data, load_learner
from lsx.cli import main
from lsx.cli.evaluate import Column, table
from lsx.training import checkpoint
from tests.tiny import Tiny

SETTINGS: dict[str, Any] = {
    "model.name": "tests.tiny:Tiny",
    "data.dataset": "decoy_mnist",
    "data.few_shot_fraction": 0.04,
    "device": "cpu",
    "stages": ["pretrain"],
    "pretrain": {"epochs": 3, "optimizer": "adam", "learning_rate": 0.01},
    "evaluation": {"max_images": 40, "metrics": ["accuracy", "relevance_mass", "sparseness"]},
}


def made(folder: Path, **changes: Any) -> str:
    trainer = Trainer(Config.build(SETTINGS, changes))
    trainer.run()
    return str(checkpoint.save(trainer.state(), folder / "checkpoint.pt"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Checkpoints by name, the same for all tests."""
    folder = tmp_path_factory.mktemp("runs")
    made(folder / "a")
    made(folder / "b", seed=1)
    made(folder / "clean", **{"data.dataset": "mnist"})
    made(folder / "color", **{"data.dataset": "color_mnist"})
    return lambda name: str(folder / name / "checkpoint.pt")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_data(Config.build(SETTINGS))


Runs = Callable[[str], str]


def test_checkpoints_side_by_side(
    runs: Runs, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    assert main(["evaluate", runs("a"), str(Path(runs("b")).parent), "--out", str(out)]) == 0
    kept = json.loads(out.read_text())
    assert kept["split"] == "validation"
    assert kept["directions"] == {"accuracy": "maximize", "relevance_mass": "minimize", "sparseness": "maximize"}
    for name, column in zip("ab", kept["checkpoints"], strict=True):
        learner, config = load_learner(runs(name), dataset)
        expected = evaluate(learner, dataset, "validation", config)
        assert column["name"] == name
        assert column["metrics"] == {key: pytest.approx(value, abs=1e-12) for key, value in expected.items()}
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("on 1000 validation images of decoy_mnist (MNIST, embedded")
    assert shown[1].split() == ["metric", "a", "b", "better"]
    values = [column["metrics"]["accuracy"] for column in kept["checkpoints"]]
    cells = [f"{value:.4f}" + (" *" if value == max(values) else "") for value in values]
    assert shown[2].split() == f"accuracy {cells[0]} {cells[1]} ↑".split()


def test_a_table_as_csv_on_the_split_that_is_asked_for(runs: Runs, dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    assert main(["evaluate", runs("a"), "--split=test", "--metrics", "localization,accuracy", "--out", str(out)]) == 0
    rows = {row["metric"]: row for row in csv.DictReader(out.open())}
    learner, config = load_learner(runs("a"), dataset)
    expected = evaluate(learner, dataset, "test", config, metrics=["localization", "accuracy"])
    assert {name: float(row["a"] or "nan") for name, row in rows.items()} == pytest.approx(expected, nan_ok=True)
    assert rows["pointing_game"]["direction"] == "minimize"


def test_settings_over_the_checkpoints_own(runs: Runs, tmp_path: Path) -> None:
    found = {}
    for name, more in {"own": [], "less": ["--max_images", "10"], "other": ["--explainer_method", "saliency"]}.items():
        out = tmp_path / f"{name}.json"
        assert main(["evaluate", runs("a"), "--metrics=sparseness", "--out", str(out), *more]) == 0
        found[name] = json.loads(out.read_text())["checkpoints"][0]["metrics"]["sparseness"]
    assert len(set(found.values())) == 3


def test_what_is_not_defined_says_why(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.json"
    assert main(["evaluate", runs("clean"), "--metrics", "relevance_mass,accuracy", "--out", str(out)]) == 0
    column = json.loads(out.read_text())["checkpoints"][0]
    assert column["metrics"]["relevance_mass"] is None and column["reasons"]["relevance_mass"]
    shown = capsys.readouterr().out
    assert f"relevance_mass: {column['reasons']['relevance_mass']}" in shown
    assert "relevance_mass  –" in shown


def test_different_data_is_said(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", runs("a"), runs("clean"), "--metrics", "accuracy"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "on different images, so that the columns cannot be compared:"
    assert "a: 1000 validation images of decoy_mnist" in shown[1]
    assert "clean: 1000 validation images of mnist" in shown[2]


def test_the_best_is_marked_by_direction_and_nan_is_never_it() -> None:
    one = Column("one", {"accuracy": 0.5, "relevance_mass": 0.5, "ridge": math.nan}, {})
    two = Column("two", {"accuracy": 0.7, "relevance_mass": 0.7, "ridge": math.nan}, {})
    shown = table([one, two], meaning=False)
    cells = [[str(cell) for cell in column.cells] for column in shown.columns]
    assert cells[1] == ["0.5000", "0.5000 *", "–"]
    assert cells[2] == ["0.7000 *", "0.7000", "–"]
    assert cells[3] == ["↑", "↓", "↑"]


def test_the_list_has_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    from lsx.metrics import METRICS

    assert main(["evaluate", "--list"]) == 0
    shown = capsys.readouterr().out
    assert main(["evaluate", "--metrics", "help"]) == 0
    assert capsys.readouterr().out == shown
    for name, metric in METRICS.items():
        assert any(line.startswith(f"{name} ") and metric.meaning in line for line in shown.splitlines())
    assert "  robustness: " in shown


def arrays(out: Path) -> dict[str, Any]:
    with np.load(out / "explanations.npz") as file:
        return {name: file[name] for name in file.files}


def test_explanations_of_several_checkpoints_and_methods(runs: Runs, dataset: Dataset, tmp_path: Path) -> None:
    methods = ["input_x_gradient", "saliency"]
    more = ["--methods", ",".join(methods), "--count", "12", "--out", str(tmp_path)]
    assert main(["explain", runs("a"), runs("b"), *more]) == 0
    found = arrays(tmp_path)
    assert found.keys() == {"images", "labels", "index"} | {
        f"{kind}/{name}" for kind in ("predicted", "probabilities", "explained") for name in "ab"
    } | {f"explanations/{name}/{method}" for name in "ab" for method in methods}
    # Every class once, then two of them again.
    assert sorted(found["labels"][:10]) == list(range(10)) and len(found["labels"]) == 12
    rows = {int(index): row for row, index in enumerate(dataset.test.index)}
    part = dataset.test.take(torch.tensor([rows[index] for index in found["index"].tolist()]))
    assert np.allclose(found["images"], dataset.raw(part.images))
    assert np.array_equal(found["labels"], part.labels)
    learner, config = load_learner(runs("b"), dataset)
    with torch.no_grad():
        probabilities = learner(part.images).exp()
    assert np.allclose(found["probabilities/b"], probabilities, atol=1e-6)
    assert np.array_equal(found["predicted/b"], probabilities.argmax(1))
    assert np.array_equal(found["explained/b"], found["predicted/b"])
    explainer = explainers.build(config.explainer, method="saliency", normalization="sample")
    expected = explainer(learner, part.images, probabilities.argmax(1))
    assert np.allclose(found["explanations/b/saliency"], expected, atol=1e-6)
    assert not np.allclose(found["explanations/a/saliency"], expected, atol=1e-2)
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.height > picture.width > 500  # twelve rows, five columns


def test_images_of_one_class(runs: Runs, tmp_path: Path) -> None:
    assert (
        main(["explain", runs("a"), "--class", "7", "--count", "3", "--split=validation", "--out", str(tmp_path)]) == 0
    )
    assert arrays(tmp_path)["labels"].tolist() == [7, 7, 7]


def test_the_true_class_is_explained_when_asked_for(runs: Runs, tmp_path: Path) -> None:
    assert main(["explain", runs("a"), "--evaluation-target", "true", "--out", str(tmp_path)]) == 0
    found = arrays(tmp_path)
    assert np.array_equal(found["explained/a"], found["labels"])
    assert not np.array_equal(found["explained/a"], found["predicted/a"])


def test_images_of_ones_own(runs: Runs, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = (dataset.raw(dataset.test.images[:1])[0, 0].numpy() * 255).round().astype(np.uint8)
    fitting, large = tmp_path / "fitting.png", tmp_path / "large.jpg"
    Image.fromarray(pixels).save(fitting)
    Image.fromarray(pixels).resize((56, 40)).convert("RGB").save(large)
    assert main(["explain", runs("a"), str(fitting), "--images", str(large), "--out", str(tmp_path / "x")]) == 0
    assert capsys.readouterr().err.splitlines() == [f"lsx: {large}: 56x40 RGB converted to the network's 28x28 L"]
    found = arrays(tmp_path / "x")
    assert found["images"].shape == (2, 1, 28, 28) and found["labels"].tolist() == [-1, -1]
    learner, _ = load_learner(runs("a"), dataset)
    with torch.no_grad():
        expected = learner(dataset.test.images[:1]).exp()
    # The very image of the test set, read from a file, is the same to the network.
    assert np.allclose(found["probabilities/a"][:1], expected, atol=1e-4)
    assert np.array_equal(found["explained/a"], found["predicted/a"])


def test_grey_images_for_a_network_of_colours(runs: Runs, tmp_path: Path) -> None:
    Image.fromarray(np.full((28, 28), 128, dtype=np.uint8)).save(tmp_path / "grey.png")
    assert main(["explain", runs("color"), str(tmp_path / "grey.png"), "--out", str(tmp_path / "x")]) == 0
    images = arrays(tmp_path / "x")["images"]
    assert images.shape == (1, 3, 28, 28) and np.allclose(images, 128 / 255, atol=1e-5)


def test_a_run_in_mlflow_beside_a_file(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lsx.study.tracked.tracking import Tracker

    monkeypatch.chdir(tmp_path)
    tracker = Tracker("sqlite:///mlflow.db", "x", "study-a", tmp_path)
    run_id = tracker.open_trial(3, "003 gradcam λe=5", None, {})
    shutil.copy(runs("a"), tmp_path / "learner-0.pt")
    tracker.attach(run_id, tmp_path / "learner-0.pt")
    (tmp_path / "learner-0.pt").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    words = ["explain", "--run-id", run_id, "--tracking-uri", "sqlite:///mlflow.db", runs("b"), "--count", "4"]
    assert main([*words, "--out", "out"]) == 0
    with np.load(tmp_path / "out" / "explanations.npz") as found:
        assert {"predicted/b", "predicted/003-gradcam-λe=5"} <= set(found)
    words[3:5] = []
    assert main([*words, "--out", "out"]) == 2  # the environment's
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate"], "evaluate needs a checkpoint"),
        (["evaluate", "nowhere.pt"], "checkpoint 'nowhere.pt' cannot be read"),
        (["evaluate", "A", "--metrics", "acuracy"], "unknown metric 'acuracy'; did you mean 'accuracy'?"),
        (["evaluate", "A", "--split", "valid"], "unknown split 'valid'; did you mean 'validation'?"),
        (["evaluate", "A", "--out", "x.txt"], "--out 'x.txt' must end in .json or .csv"),
        (["evaluate", "A", "--out", "/dev/null/x.csv"], "cannot be written"),
        (["evaluate", "A", "--n_epochs", "3"], "unknown flag '--n-epochs'"),
        (["evaluate", "A", "--dataset", "color_mnist"], "do not fit Tiny"),
        (["evaluate", "A", "--max_images", "0"], "evaluation.max_images = 0 is not valid"),
        (["explain"], "explain needs a checkpoint before the images, or --run-id"),
        (["explain", "some.png"], "explain needs a checkpoint before the images"),
        (["explain", "A", "--tracking-uri", "sqlite:///x.db"], "'sqlite:///x.db' says where the runs of --run-id are"),
        (["explain", "--run-id", "1", "--tracking-uri", "sqlite:///x.db"], "there is no such file"),
        (["explain", "A", "some.png"], "image 'some.png' cannot be read: No such file"),
        (["explain", "A", "BROKEN"], "cannot be read: damaged, or no image"),
        (["explain", "A", "--methods", "lime"], "unknown explainer 'lime'"),
        (["explain", "A", "--count", "0"], "--count '0' must be a whole number, at least 1"),
        (["explain", "A", "--class", "seven"], "--class 'seven' must be a whole number"),
        (["explain", "A", "--class", "12"], "--class 12: none of the test images of decoy_mnist"),
        (["explain", "A", "--split", "all"], "unknown split 'all'"),
        (["explain", "A", "COLOR"], "a (decoy_mnist, 1x28x28, data seed 0) and color (color_mnist, 3x28x28"),
        (["explain", "A", "--out", "/dev/null/x"], "--out '/dev/null/x' cannot be written"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    argv: list[str],
    message: str,
    runs: Runs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lsx.figures.explanations", lambda *_, **__: None)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nno more")
    names = {"A": runs("a"), "COLOR": runs("color"), "BROKEN": str(broken)}
    assert main([names.get(word, word) for word in argv]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("lsx: ")
    assert [file.name for file in tmp_path.iterdir()] == ["broken.png"]


def test_looking_leaves_the_random_state_as_it_was() -> None:
    from lsx import gallery

    config = Config.build(SETTINGS, {"explainer.method": "smoothgrad"})
    part = load_data(config).test.take(slice(0, 4))
    learner = Tiny().train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    maps = gallery.explain(learner, config, part)
    assert torch.equal(torch.get_rng_state(), before)
    assert learner.training
    assert torch.equal(gallery.explain(learner, config, part), maps)
