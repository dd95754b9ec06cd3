"""Pools of a source that says itself which images are for training, validation and test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsx.data.pool import Pixels, Pool
from lsx.errors import DataError

NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Part:
    """Images of one purpose.

    Attributes:
        images: uint8 (N, C, H, W), or float32 in 0–1.
        labels: int64 (N,).
    """

    images: Pixels
    labels: NDArray[np.int64]


def gather(parts: Sequence[Part | None], description: str, classes: int, origin: Mapping[str, Any]) -> Pool:
    """Training, validation and test images in one pool; None for what the source does not have.

    Args:
        parts: three of them, in the order of :data:`NAMES`.
        description: names the source; the counts are added.
        classes: K.
        origin: plain data on where the images came from.

    Raises:
        DataError: no training images, or parts that do not fit each other.
    """
    there = [part for part in parts if part is not None and len(part.labels)]
    sizes = [0 if part is None else len(part.labels) for part in parts]
    if not sizes[0]:
        raise DataError(f"{description}: there are no training images")
    shapes = {part.images.shape[1:] for part in there}
    if len(shapes) > 1:
        raise DataError(f"{description}: images of different parts differ in shape (C, H, W): {sorted(shapes)}")
    return Pool(
        np.concatenate([part.images for part in there]),
        np.concatenate([part.labels for part in there]),
        counted(description, sizes),
        classes=classes,
        official_test=sizes[2],
        origin=origin,
        official_validation=sizes[1],
    )


def counted(description: str, sizes: Sequence[int]) -> str:
    """``description, 1,000 images + 100 for validation + 100 for test``."""
    held = (f" + {size:,} for {name}" for name, size in zip(NAMES[1:], sizes[1:], strict=True) if size)
    return f"{description}, {sizes[0]:,} images{''.join(held)}"
