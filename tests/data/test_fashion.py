"""FashionMNIST from idx files made of digits: only the files' places and the normalisation differ from MNIST."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lsx.config import Config
from lsx.data import Dataset, load
from lsx.errors import DataError

WritePart = Callable[..., tuple[np.ndarray, np.ndarray]]


def fashion(root: Path, name: str = "fashion_mnist", source: str = "folder", **more: object) -> Dataset:
    settings = {"data.dataset": name, "data.source": source, "data.root": str(root), "stages": ["pretrain"]}
    return load(Config.build(settings, more))


@pytest.mark.parametrize(
    ("source", "place"), [("folder", ""), ("folder", "FashionMNIST/raw"), ("torchvision", "FashionMNIST/raw")]
)
def test_every_place_is_read(tmp_path: Path, write_part: WritePart, source: str, place: str) -> None:
    images, _ = write_part(tmp_path / place, "train")
    tests, _ = write_part(tmp_path / place, "t10k", slice(5, None, 50))
    dataset = fashion(tmp_path, source=source)
    assert dataset.provenance["description"].startswith("FashionMNIST, ")
    assert sorted(dataset.test.index.tolist()) == list(range(500, 600))
    stored = np.concatenate([images, tests])
    for part in (dataset.train, dataset.validation, dataset.test):
        pixels = (dataset.raw(part.images) * 255).round().byte().numpy()[:, 0]
        np.testing.assert_array_equal(pixels, stored[part.index.numpy()])
        assert part.foreground is not None
        np.testing.assert_array_equal(part.foreground.numpy()[:, 0], stored[part.index.numpy()] > 0)
    training = stored[dataset.train.index.numpy()] / 255
    assert dataset.mean == pytest.approx((training.mean(),))
    assert dataset.std == pytest.approx((training.std(),))


def test_decoys_are_those_of_decoy_mnist(tmp_path: Path, write_part: WritePart) -> None:
    write_part(tmp_path, "train")
    decoyed = fashion(tmp_path, "decoy_fashion_mnist")
    mnist = fashion(tmp_path, "decoy_mnist")
    torch.testing.assert_close(decoyed.raw(decoyed.train.images), mnist.raw(mnist.train.images), atol=1e-5, rtol=0)
    assert decoyed.train.masks is not None and mnist.train.masks is not None
    assert torch.equal(decoyed.train.masks, mnist.train.masks)
    # As they are trained on, decoys and all.
    assert float(decoyed.train.images.double().mean()) == pytest.approx(0, abs=1e-6)
    assert decoyed.mean != fashion(tmp_path).mean


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'embedded' has MNIST only; .*data download --dataset fashion_mnist"):
        load(Config.build({"data.dataset": "fashion_mnist"}))
    with pytest.raises(DataError, match="does not hold torchvision's FashionMNIST; .* --dataset fashion_mnist"):
        fashion(tmp_path, source="torchvision")
    with pytest.raises(DataError, match="nor FashionMNIST/raw/train-images-idx3-ubyte"):
        fashion(tmp_path)
