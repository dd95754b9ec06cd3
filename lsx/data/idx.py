"""The idx files in which MNIST is distributed (LeCun's format), plain or gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsx.errors import DataError

_UNSIGNED_BYTE = 8


def find(folder: Path, part: str) -> tuple[Path, Path] | None:
    """The image and label file of one part, in any of the usual spellings.

    Args:
        folder: where to look.
        part: ``train`` or ``t10k``.

    Raises:
        DataError: one of the two is there without the other.
    """
    found = [_spelt(folder, f"{part}-{kind}") for kind in ("images", "labels")]
    images, labels = (next((path for path in paths if path.is_file()), None) for paths in found)
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        there, missing = (labels, found[0][0]) if images is None else (images, found[1][0])
        raise DataError(f"'{there}' is there, but not its partner '{missing.name}' (or .gz)")
    return images, labels


def read_pair(images: Path, labels: Path, classes: int = 10) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 (N, H, W) and labels int64 (N,), 0 ≤ label < classes.

    Raises:
        DataError: a file is unreadable, damaged, or does not fit the other.
    """
    pixels, digits = read(images, 3), read(labels, 1)
    if len(pixels) != len(digits):
        raise DataError(f"'{images}' has {len(pixels)} images, but '{labels}' has {len(digits)} labels")
    outside = np.flatnonzero(digits >= classes)
    if outside.size:
        raise DataError(f"'{labels}': label {digits[outside[0]]} in row {outside[0]} is outside 0-{classes - 1}")
    return pixels, digits.astype(np.int64)


def read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of one idx file of unsigned bytes, with that many dimensions (3: images, 1: labels).

    Raises:
        DataError: unreadable, wrong kind of file, empty, cut short, or too long.
    """
    content = _bytes(path)
    header = 4 + 4 * dimensions
    expected = (_UNSIGNED_BYTE << 8) + dimensions
    magic = int.from_bytes(content[:4], "big")
    if len(content) >= 4 and magic != expected:
        kind = {3: "images", 1: "labels"}.get(dimensions, "data")
        raise DataError(f"'{path}' is not an idx file of {kind}: it starts with {magic}, not {expected}")
    if len(content) < header:
        raise DataError(f"'{path}' is cut short: {len(content)} bytes, less than its header of {header}")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    size = header + math.prod(shape)
    sizes = " x ".join(str(length) for length in shape)
    if size == header:
        raise DataError(f"'{path}' is empty: its header says {sizes}")
    if len(content) != size:
        fault = "is cut short" if len(content) < size else "has bytes after its end"
        raise DataError(f"'{path}' {fault}: {len(content)} bytes, {size} expected for {sizes}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _spelt(folder: Path, stem: str) -> list[Path]:
    rank = 3 if stem.endswith("images") else 1
    return [folder / f"{stem}{dot}idx{rank}-ubyte{suffix}" for suffix in ("", ".gz") for dot in ("-", ".")]


def _bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from None
