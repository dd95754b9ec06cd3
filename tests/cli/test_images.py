"""Image files of one's own are read as a dataset of image files is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lsx.cli.images import load
from lsx.config import Config
from lsx.data import Dataset
from lsx.data import load as load_data
from lsx.errors import DataError

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 16 bits, with an orientation, with transparency, and plain ones, in two classes."""
    root = tmp_path_factory.mktemp("own")
    for name in "ab":
        (root / name).mkdir()
        for number in range(10):
            grey = RANDOM.integers(256, size=(8, 6), dtype=np.uint8)
            turned = Image.Exif()
            turned[0x0112] = 6  # a quarter turn: stored as 6x8, shown as 8x6
            file = root / name / f"{number}.png"
            if number < 3:
                Image.fromarray(grey.astype(np.uint16) * 257).save(file)
            elif number < 6:
                Image.fromarray(np.rot90(grey)).save(file, exif=turned)
            else:
                Image.fromarray(np.dstack([grey, grey // 2]) if number < 8 else grey).save(file)
    return root


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    settings = {"data.dataset": "image_folder", "data.root": str(folder), "stages": ["pretrain"]}
    return load_data(Config.build(settings))


def test_the_very_files_of_a_folder_are_the_same_to_the_network(folder: Path, dataset: Dataset) -> None:
    files = sorted(folder.rglob("*.png"))
    own = load([str(file) for file in files], dataset).images
    assert own.shape == (20, 1, 8, 6)
    for part in (dataset.train, dataset.validation, dataset.test):
        torch.testing.assert_close(own[part.index], part.images, atol=1e-6, rtol=0)


def test_files_are_normalised_as_the_network_wants(folder: Path, dataset: Dataset) -> None:
    files = [str(folder / "a" / f"{number}.png") for number in range(10)]
    other = dataset.normalised([0.25], [0.125])
    found = load(files, other).images
    torch.testing.assert_close((found * 0.125 + 0.25), dataset.raw(load(files, dataset).images), atol=1e-6, rtol=0)


def test_pixels_without_a_range_are_named(tmp_path: Path, dataset: Dataset) -> None:
    Image.fromarray(np.zeros((8, 6), np.float32)).save(tmp_path / "deep.tif")
    with pytest.raises(DataError, match="deep.tif' cannot be read: pixels of mode F have no fixed range; save it with"):
        load([str(tmp_path / "deep.tif")], dataset)
