"""Images and labels of one's own, in one NPZ file."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lsx.config import Config
from lsx.data.base import assemble, register
from lsx.data.files import checksum, place, read_npz
from lsx.data.parts import NAMES, counted
from lsx.data.pool import Masks, Pixels, Pool
from lsx.data.shared import remembered
from lsx.data.types import Dataset
from lsx.errors import DataError

_CHANNELS = (1, 3, 4)
_SPELLINGS = {"train": 0, "validation": 1, "val": 1, "test": 2}


@register("npz")
def npz(config: Config) -> Dataset:
    """The NPZ file that ``data.root`` names, normalised by its training images; see :func:`npz_pool`."""
    if config.data.root is None:
        raise DataError("data.dataset 'npz' needs data.root, an NPZ file with the arrays x (images) and y (labels)")
    return assemble(config, npz_pool(config.data.root, config.data.mask_kind))


@remembered
def npz_pool(root: str, mask_kind: Literal["foreground", "confounder"] = "foreground") -> Pool:
    """All images of an NPZ file, reordered so that training, validation and test follow each other.

    Args:
        root: the file. Its arrays:

            ``x``: images (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 0–255 or floats 0–1. The channel is last where
            the last dimension is 1, 3 or 4 and the second is none of these, else second. Refused where the last of
            (N, C, H, W) is the least and C is none of these: that may be (N, H, W, C).
            ``y``: labels (N,), integers 0 … K − 1, each of them in use.
            ``mask`` (optional): (N, H, W) or (N, 1, H, W), bool or 0 and 1.
            ``split`` (optional): (N,), 0, 1, 2 or "train", "validation" ("val"), "test". Validation or test images
            are split off from those for training where the file has none.
        mask_kind: what ``mask`` marks, the object itself or a confounder.

    Raises:
        DataError: the file is missing, damaged, or not as described.
    """
    path = place(root)
    arrays = read_npz(path, ("x", "y"), ("mask", "split"))
    images = _images(path, arrays["x"])
    labels = _labels(path, arrays["y"], len(images))
    purpose = _purposes(path, arrays["split"], len(images)) if "split" in arrays else np.zeros(len(images), np.int64)
    order = np.argsort(purpose, kind="stable")
    sizes = np.bincount(purpose, minlength=3).tolist()
    if not sizes[0]:
        raise DataError(f"'{path}': split has no training images (0 or 'train')")
    pool = Pool(
        images[order],
        labels[order],
        counted(f"NPZ ({root})", sizes),
        classes=int(labels.max()) + 1,
        official_test=sizes[2],
        origin={"root": root, "file_sha256": checksum(path)},
        official_validation=sizes[1],
        rows=order,
    )
    if "mask" not in arrays:
        return pool
    masks = _masks(path, arrays["mask"], images)[order]
    return replace(pool, foreground=masks) if mask_kind == "foreground" else replace(pool, masks=masks)


def _images(path: Path, x: NDArray[Any]) -> Pixels:
    """(N, C, H, W)."""
    if x.ndim not in (3, 4) or not (x.dtype == np.uint8 or x.dtype.kind == "f"):
        raise DataError(
            f"'{path}': x must be uint8 or float of (N, H, W), (N, C, H, W) or (N, H, W, C), not {x.dtype} {x.shape}"
        )
    if not x.size:
        raise DataError(f"'{path}': x is empty, {x.shape}")
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        x = x.transpose(0, 3, 1, 2)
    elif x.shape[1] not in _CHANNELS and x.shape[3] < min(x.shape[1:3]):
        channels, height, width = x.shape[1:]
        raise DataError(
            f"'{path}': x {x.shape} would be {channels} channels of {height}x{width} pixels; if the channel is last, "
            "save x.transpose(0, 3, 1, 2); if it is not, turn the images: x.transpose(0, 1, 3, 2)"
        )
    return np.ascontiguousarray(x if x.dtype == np.uint8 else x.astype(np.float32))


def _labels(path: Path, y: NDArray[Any], size: int) -> NDArray[np.int64]:
    if y.dtype.kind not in "iu":
        raise DataError(f"'{path}': y must be integers, 0 to K - 1, not {y.dtype}")
    if y.shape != (size,):
        raise DataError(f"'{path}': y must be ({size},), one label per image in x, not {y.shape}")
    if y.min() < 0:
        row = int(np.argmax(y < 0))
        raise DataError(f"'{path}': label {y[row]} in row {row} is negative; labels are 0 to K - 1")
    present = np.unique(y)
    gap = np.flatnonzero(present != np.arange(len(present)))
    if gap.size:
        raise DataError(
            f"'{path}': no image has label {gap[0]}, but there is label {present[-1]}; "
            "labels are 0 to K - 1 without gaps"
        )
    return y.astype(np.int64)


def _masks(path: Path, mask: NDArray[Any], images: Pixels) -> Masks:
    """(N, 1, H, W)."""
    size, (height, width) = len(images), images.shape[2:]
    if mask.shape not in ((size, height, width), (size, 1, height, width)):
        raise DataError(
            f"'{path}': mask must be ({size}, {height}, {width}) or ({size}, 1, {height}, {width}) as x is, "
            f"not {mask.shape}"
        )
    marked: Masks = np.asarray(mask == 1)
    if mask.dtype.kind not in "biuf" or not (marked | (mask == 0)).all():
        raise DataError(f"'{path}': mask must be bool, or 0 and 1 only, {mask.dtype} has other values")
    return marked.reshape(size, 1, height, width)


def _purposes(path: Path, split: NDArray[Any], size: int) -> NDArray[np.int64]:
    """(N,) of 0 (train), 1 (validation), 2 (test)."""
    if split.shape != (size,):
        raise DataError(f"'{path}': split must be ({size},), one entry per image in x, not {split.shape}")
    named = split.dtype.kind == "U"
    numbers = [_SPELLINGS.get(entry, -1) if named else entry for entry in split.tolist()]
    for row, number in enumerate(numbers):
        if isinstance(number, bool) or number not in (0, 1, 2):
            raise DataError(
                f"'{path}': split has {split[row].item()!r} in row {row}; valid: 0, 1, 2 or {', '.join(NAMES)}"
            )
    return np.array(numbers, dtype=np.int64)
