"""idx files made of the embedded digits."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lsx.config import DataConfig
from lsx.data import Pool, mnist_pool


def idx_bytes(array: np.ndarray) -> bytes:
    """uint8 array as the content of an idx file, written after LeCun's description."""
    sizes = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture(scope="session")
def digits() -> Pool:
    return mnist_pool(DataConfig())


@pytest.fixture
def write_part(digits: Pool) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Writes one part's pair of idx files from some of the embedded digits, and returns what it wrote."""

    def write(
        folder: Path, part: str = "train", rows: slice = slice(None, None, 10), spelling: str = "-", suffix: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        folder.mkdir(parents=True, exist_ok=True)
        images, labels = digits.images[rows, 0], digits.labels[rows].astype(np.uint8)
        for kind, array in (("images", images), ("labels", labels)):
            content = idx_bytes(array)
            name = f"{part}-{kind}{spelling}idx{array.ndim}-ubyte{suffix}"
            (folder / name).write_bytes(gzip.compress(content) if suffix else content)
        return images, labels

    return write
