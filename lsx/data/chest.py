"""ChestMNIST (MedMNIST v2, Yang et al. 2023; NIH-ChestXray14): is there any of 14 findings?"""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsx.config import DOWNLOAD_ROOT, Config
from lsx.data.base import assemble, register
from lsx.data.files import place, read_npz
from lsx.data.parts import Part, gather
from lsx.data.pool import Pool
from lsx.data.shared import remembered
from lsx.data.types import Dataset
from lsx.errors import DataError

FILE = "chestmnist.npz"
FINDINGS = 14
_PARTS = ("train", "val", "test")


@register("chest_mnist")
def chest_mnist(config: Config) -> Dataset:
    """Chest X-rays, 1 where there is any finding, normalised as (p/255 − 0.5)/0.5; the official splits are used."""
    return assemble(config, chest_pool(config.data.root or DOWNLOAD_ROOT), mean=0.5, std=0.5)


@remembered
def chest_pool(root: str) -> Pool:
    """All images of MedMNIST's ``chestmnist.npz``.

    Args:
        root: the folder that holds the file.

    Raises:
        DataError: the file is missing, damaged or of another layout.
    """
    path = place(root) / FILE
    if not path.is_file():
        command = f"python -m lsx data download --dataset chest_mnist --root {shlex.quote(root)}"
        raise DataError(f"data.root {root!r} does not hold {FILE}; fetch it with: {command}")
    names = [f"{part}_{kind}" for part in _PARTS for kind in ("images", "labels")]
    arrays = read_npz(path, names)
    parts = [_part(path, name, arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in _PARTS]
    origin = {"root": root, "classes": ["no finding", "any finding"]}
    return gather(parts, f"ChestMNIST ({root})", 2, origin)


def download(root: str) -> Path:
    """Fetch the file with the package medmnist, which checks its MD5 sum.

    Raises:
        DataError: the package is missing, or the download fails.
    """
    try:
        from medmnist import ChestMNIST
    except ImportError:
        raise DataError(
            "downloading chest_mnist needs the package medmnist; install it with: pip install 'lsx[medmnist]'"
        ) from None
    folder = place(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ChestMNIST(split="train", download=True, root=str(folder))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DataError(
            f"ChestMNIST could not be downloaded into {root!r}; try again, or put {FILE} of "
            f"https://medmnist.com there ({' '.join(str(error.__cause__ or error.__context__ or error).split())})"
        ) from None
    return folder / FILE


def _part(path: Path, name: str, images: NDArray[Any], findings: NDArray[Any]) -> Part:
    if images.ndim != 3 or images.dtype != np.uint8:
        raise DataError(f"'{path}': {name}_images must be uint8 (N, H, W), not {images.dtype} {images.shape}")
    if findings.shape != (len(images), FINDINGS) or findings.dtype.kind not in "biu":
        raise DataError(
            f"'{path}': {name}_labels must be whole numbers ({len(images)}, {FINDINGS}), 0 or 1 per image and finding, "
            f"not {findings.dtype} {findings.shape}"
        )
    strange = np.argwhere((findings != 0) & (findings != 1))
    if len(strange):
        row, column = strange[0]
        raise DataError(f"'{path}': {name}_labels has {findings[row, column]} in row {row}; only 0 and 1 are valid")
    if not len(images):
        raise DataError(f"'{path}': {name}_images is empty")
    return Part(images[:, None], np.asarray(findings.any(axis=1), dtype=np.int64))
