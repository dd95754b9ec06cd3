"""ChestMNIST from a small file of the published layout."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lsx.cli import data as cli_data
from lsx.config import Config
from lsx.data import Dataset, chest, load
from lsx.errors import DataError

SIZES = {"train": 40, "val": 12, "test": 20}
Arrays = dict[str, np.ndarray]


def arrays() -> Arrays:
    random = np.random.default_rng(0)
    made: Arrays = {}
    for part, size in SIZES.items():
        made[f"{part}_images"] = random.integers(256, size=(size, 28, 28), dtype=np.uint8)
        made[f"{part}_labels"] = (random.random((size, 14)) < 0.05).astype(np.uint8)
    return made


def chests(root: Path, made: Arrays, **more: object) -> Dataset:
    np.savez_compressed(root / "chestmnist.npz", **made)
    return load(Config.build({"data.dataset": "chest_mnist", "data.root": str(root), "stages": ["pretrain"]}, more))


def test_official_splits_binary_labels_and_normalisation(tmp_path: Path) -> None:
    made = arrays()
    dataset = chests(tmp_path, made)
    assert dataset.num_classes == 2
    assert dataset.mean == dataset.std == (0.5,)
    start = 0
    for name, part in (("train", dataset.train), ("val", dataset.validation), ("test", dataset.test)):
        order = part.index.numpy() - start
        assert sorted(order) == list(range(SIZES[name]))
        expected = (made[f"{name}_images"][order, None] / 255 - 0.5) / 0.5
        np.testing.assert_allclose(part.images.numpy(), expected, atol=1e-6)
        np.testing.assert_array_equal(part.labels.numpy(), [any(row) for row in made[f"{name}_labels"][order].tolist()])
        start += SIZES[name]
    assert dataset.provenance["description"].endswith("40 images + 12 for validation + 20 for test")


def test_our_reading_is_that_of_the_package(tmp_path: Path) -> None:
    medmnist = pytest.importorskip("medmnist")
    dataset = chests(tmp_path, arrays())
    theirs = medmnist.ChestMNIST(split="val", root=str(tmp_path))
    order = dataset.validation.index.numpy() - SIZES["train"]
    pixels = (dataset.raw(dataset.validation.images) * 255).round().byte().numpy()[:, 0]
    np.testing.assert_array_equal(pixels, theirs.imgs[order])
    np.testing.assert_array_equal(dataset.validation.labels.numpy(), theirs.labels[order].max(axis=1))


def replaced(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda made: made | {name: change(made[name])}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda made: {key: value for key, value in made.items() if key != "val_labels"}, "has no 'val_labels'"),
        (replaced("test_labels", lambda y: y[:, :13]), r"test_labels must be whole numbers \(20, 14\)"),
        (replaced("test_labels", lambda y: y[:-1]), r"test_labels must be whole numbers \(20, 14\)"),
        (replaced("train_labels", lambda y: y + 0.5), "train_labels must be whole numbers"),
        (replaced("train_labels", lambda y: y + 1), "train_labels has 2 in row"),
        (replaced("train_labels", lambda y: y * 0), "all training images are of one class; a classifier needs two"),
        (replaced("val_images", lambda x: x[:, :14]), "differ in shape"),
        (replaced("val_images", lambda x: x / 255), "val_images must be uint8"),
        (
            lambda made: made | {f"val_{kind}": made[f"val_{kind}"][:0] for kind in ("images", "labels")},
            "val_images is empty",
        ),
    ],
)
def test_damage_is_one_line(tmp_path: Path, damage: Callable[[Arrays], Arrays], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        chests(tmp_path, damage(arrays()))
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not hold chestmnist.npz; fetch it with: .*--dataset chest_mnist --root"):
        load(Config.build({"data.dataset": "chest_mnist", "data.root": str(tmp_path)}))


def test_a_missing_package_names_the_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(DataError, match=r"pip install 'lsx\[medmnist\]'"):
        chest.download(str(tmp_path))


def test_download_says_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    medmnist = pytest.importorskip("medmnist")
    root = tmp_path / "new"

    def fetch(self: object) -> None:
        np.savez(root / "chestmnist.npz", **arrays())

    monkeypatch.setattr(medmnist.ChestMNIST, "download", fetch)
    assert cli_data.download(str(root), "chest_mnist").splitlines() == [
        f"ChestMNIST ({root}), 40 images + 12 for validation + 20 for test",
        f"to use it, set data.dataset=chest_mnist data.root={root}",
    ]


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("medmnist")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Temporary failure\nin name resolution")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", unreachable)
    with pytest.raises(DataError, match="ChestMNIST could not be downloaded .*Temporary failure in name") as caught:
        chest.download(str(tmp_path))
    assert "\n" not in str(caught.value)
