"""Confounders: what gives the class of a training image away, and says nothing in validation and test.

Each image has a class d that its confounder shows: its label y where *tied*, else one drawn uniformly over the
classes. All draws belong to the pool's row: they are the same whatever the splits are.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsx.config import ConfounderConfig
from lsx.data.pool import Masks, Pixels, Pool
from lsx.errors import DataError

PALETTE: NDArray[np.uint8] = np.array(
    [
        *[(255, 0, 0), (240, 133, 0), (201, 226, 0), (70, 212, 0), (0, 198, 44)],
        *[(0, 184, 143), (0, 113, 170), (0, 17, 156), (63, 0, 142), (128, 0, 127)],
    ],
    dtype=np.uint8,
)
_DISTINCT = 250  # classes that a grey or a hue of eight bits can tell apart
_LUMINANCE = (19595, 38470, 7471)  # 0.299, 0.587, 0.114 (ITU-R 601) in 1/65536, as Pillow has them
# Each keeps its draws apart from other draws with the same seed.
_PATCH_STREAM, _HUE_STREAM, _TIE_STREAM, _PLACE_STREAM = 2, 3, 4, 5


@dataclass(frozen=True)
class Confounded:
    """A pool's images with their confounder.

    Attributes:
        images: uint8 or float32 (N, C, H, W), row by row those of the pool; C may be another.
        masks: bool (N, 1, H, W), where the confounder is; None if it has no place of its own.
        removable: whether the pool's images are the same without it. If not, "clean" images have a random one.
    """

    images: Pixels
    masks: Masks | None
    removable: bool = True


Confounder = Callable[[Pool, NDArray[np.bool_], int], Confounded]
"""Confounds every row of a pool, given which rows (bool (N,)) tie it to their label, and ``config.data.seed``.

The rows not tied to their label are those of validation and test: they need a random confounder.
"""


def follows(size: int, correlation: float, seed: int) -> NDArray[np.bool_]:
    """(N,), rows whose confounder follows their label, each with probability ``correlation``.

    A row that follows at some correlation follows at every higher one.
    """
    return np.random.default_rng([seed, _TIE_STREAM]).random(size) < correlation


def add_patch(pool: Pool, tied: NDArray[np.bool_], seed: int, settings: ConfounderConfig | None = None) -> Confounded:
    """A square patch on every image (after DecoyMNIST, Ross et al. 2017, which the defaults are).

    Its grey is 255 − s·d (descending) or s·d (ascending) on the 0–255 scale; s is 25 for up to 11 classes and
    250/(K − 1), rounded after the product, for more, so that no two classes share a grey. Ascending gives class 0 a
    black patch, which cannot be seen on a black background; the mask marks it all the same. The colours of hue are the
    ten of ColorMNIST, evenly spaced hues for more classes. With place by_class the patch stands on cell d of a grid.

    Args:
        pool: N grey or RGB images.
        tied: (N,), rows whose confounder is their label's.
        seed: of places and draws.
        settings: place, size and intensity; the defaults when left out.

    Returns:
        The stamped images, and masks that are True on the patch.

    Raises:
        DataError: the patch is too large, the images are neither grey nor RGB, or there are too many classes.
    """
    settings = settings or ConfounderConfig()
    channels, height, width = pool.images.shape[1:]
    if channels not in (1, 3):
        raise DataError(f"{pool.description}: a patch needs grey or RGB images, not {channels} channels")
    half = min(height, width) // 2
    if settings.size > half:
        raise DataError(
            f"confounder.size {settings.size} is too large for images of {height}x{width} pixels; "
            f"a patch may have up to half their shorter side, {half}"
        )
    random = np.random.default_rng([seed, _PATCH_STREAM])
    # The corner is drawn first, whether it is used or not: the draws that follow must not depend on the place.
    corner = random.integers(4, size=len(pool.labels))
    shown = np.where(tied, pool.labels, random.integers(pool.classes, size=len(pool.labels)))
    top, left = _places(settings, corner, shown, pool, seed)
    rows, columns = (_within(start, settings.size, side) for start, side in ((top, height), (left, width)))
    masks = rows[:, None, :, None] & columns[:, None, None, :]
    colours = pool.level(_patch_colours(settings, pool)[shown])
    return Confounded(np.where(masks, colours[:, :, None, None], pool.images), masks)


def add_hue(pool: Pool, tied: NDArray[np.bool_], seed: int, *, grey: bool = False) -> Confounded:
    """Grey images in the colour of a class, on black: an image's intensity times the colour (ColorMNIST).

    Args:
        pool: N images of one channel.
        tied: (N,), rows whose colour is their label's.
        seed: of the draws.
        grey: convert the colour to luminance (ITU-R 601, rounded as Pillow does), as the authors do.

    Returns:
        Images of three channels, or of one if ``grey``; no masks.

    Raises:
        DataError: the images are not grey, or there are too many classes to tell apart.
    """
    if pool.images.shape[1] != 1:
        raise DataError(
            f"{pool.description}: the hue confounder colours grey images, these have {pool.images.shape[1]} channels; "
            "set confounder.kind to patch"
        )
    drawn = np.random.default_rng([seed, _HUE_STREAM]).integers(pool.classes, size=len(pool.labels))
    shades = palette(pool.classes)
    greys = len(np.unique(_luminance(shades[:, :, None, None])))
    if grey and greys < pool.classes:
        raise DataError(
            f"{pool.description}: the hues of {pool.classes} classes have only {greys} different greys; "
            "set data.color to rgb"
        )
    colours = shades[np.where(tied, pool.labels, drawn)]
    coloured = np.concatenate([_times(pool.images, colours[:, channel]) for channel in range(3)], axis=1)
    return Confounded(_luminance(coloured) if grey else coloured, None, removable=False)


def palette(classes: int) -> NDArray[np.uint8]:
    """(K, 3) RGB: the colours of ColorMNIST for up to ten classes, evenly spaced hues for more.

    Raises:
        DataError: more than 250 classes.
    """
    if classes <= len(PALETTE):
        return PALETTE[:classes]
    _distinguishable(classes)
    hues = [colorsys.hsv_to_rgb(label / classes, 1, 1) for label in range(classes)]
    return (255 * np.array(hues)).round().astype(np.uint8)


def _distinguishable(classes: int) -> None:
    if classes > _DISTINCT:
        raise DataError(
            f"greys and hues tell at most {_DISTINCT} classes apart, not {classes}; "
            "set confounder.place to by_class and confounder.intensity to white"
        )


def _patch_colours(settings: ConfounderConfig, pool: Pool) -> NDArray[Any]:
    """(K, C), what a class looks like, on the 0–255 scale."""
    channels = pool.images.shape[1]
    if settings.intensity == "hue":
        if channels != 3:
            raise DataError(
                f"{pool.description}: confounder.intensity 'hue' needs RGB images, these are grey; "
                "set it to descending or ascending, or confounder.kind to hue"
            )
        return palette(pool.classes)
    if settings.intensity == "white":
        return np.full((pool.classes, channels), 255)
    _distinguishable(pool.classes)
    steps = (np.arange(pool.classes) * min(25.0, 250 / (pool.classes - 1))).round()
    greys = steps if settings.intensity == "ascending" else 255 - steps
    return np.repeat(greys[:, None], channels, axis=1)


def _places(
    settings: ConfounderConfig, corner: NDArray[np.int64], shown: NDArray[np.int64], pool: Pool, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) first row and first column of every patch."""
    height, width = (side - settings.size for side in pool.images.shape[2:])
    if settings.place == "by_class":
        return _cells(settings, pool, shown)
    if settings.place == "anywhere":
        random = np.random.default_rng([seed, _PLACE_STREAM])
        return random.integers(height + 1, size=len(shown)), random.integers(width + 1, size=len(shown))
    if settings.place == "center":
        return np.full_like(shown, height // 2), np.full_like(shown, width // 2)
    corners = ("top_left", "top_right", "bottom_left", "bottom_right")
    if settings.place in corners:
        corner = np.full_like(shown, corners.index(settings.place))
    return (corner // 2) * height, (corner % 2) * width


def _cells(
    settings: ConfounderConfig, pool: Pool, shown: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places on the smallest square grid that has a cell for every class, row by row."""
    columns = int(np.ceil(np.sqrt(pool.classes)))
    rows = -(-pool.classes // columns)
    height, width = pool.images.shape[2:]
    if settings.size * rows > height or settings.size * columns > width:
        raise DataError(
            f"confounder.size {settings.size} is too large for {pool.classes} places side by side ({rows} rows of "
            f"{columns}) in images of {height}x{width} pixels; up to {min(height // rows, width // columns)} fits"
        )
    tops = np.linspace(0, height - settings.size, rows).astype(np.int64)
    lefts = np.linspace(0, width - settings.size, columns).astype(np.int64)
    return tops[shown // columns], lefts[shown % columns]


def _within(start: NDArray[np.int64], size: int, side: int) -> NDArray[np.bool_]:
    """(N, side), True for ``size`` pixels from each start."""
    distance = np.arange(side) - start[:, None]
    return (distance >= 0) & (distance < size)


def _times(images: Pixels, colour: NDArray[np.uint8]) -> Pixels:
    """(N, 1, H, W) images times a value of 0–255 each, in the images' own type; bytes are rounded."""
    factor = colour[:, None, None, None]
    if images.dtype == np.uint8:
        return ((images.astype(np.uint16) * factor + 127) // 255).astype(np.uint8)
    return images * (factor / 255).astype(np.float32)


def _luminance(images: Pixels) -> Pixels:
    """(N, 3, H, W) to (N, 1, H, W)."""
    if images.dtype == np.uint8:
        total = sum(weight * images[:, [channel]].astype(np.uint32) for channel, weight in enumerate(_LUMINANCE))
        return ((np.asarray(total) + 0x8000) >> 16).astype(np.uint8)
    weights = np.array(_LUMINANCE, dtype=np.float32) / 65536
    return np.asarray(sum(weight * images[:, [channel]] for channel, weight in enumerate(weights)))
