"""Images of one's own, in one folder per class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lsx.config import Config
from lsx.data.base import assemble, register
from lsx.data.files import place
from lsx.data.parts import Part, gather
from lsx.data.pictures import picture
from lsx.data.pool import Pool
from lsx.data.shared import remembered
from lsx.data.types import Dataset
from lsx.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_PARTS = {"train": 0, "validation": 1, "val": 1, "valid": 1, "test": 2}
_GREY = frozenset({"1", "L", "LA"})


@dataclass(frozen=True)
class _File:
    path: Path
    label: int


@register("image_folder")
def image_folder(config: Config) -> Dataset:
    """The folder of images that ``data.root`` names, normalised by its training images; see :func:`folder_pool`."""
    if config.data.root is None:
        raise DataError("data.dataset 'image_folder' needs data.root, a folder with one sub-folder of images per class")
    return assemble(config, folder_pool(config.data.root, config.data.image_size))


@remembered
def folder_pool(root: str, image_size: int | None = None) -> Pool:
    """All images of a folder, in the order of their names; 1 channel where all are grey, else RGB.

    Args:
        root: one sub-folder per class, their sorted names being labels 0 … K − 1; or ``train``, ``validation`` (or
            ``val``, ``valid``) and ``test`` with those inside, in upper or lower case; all but ``train`` may be left
            out, and nothing else may be beside it.
        image_size: height and width that all are resized to (bilinear); None leaves them as they are.

    Raises:
        DataError: no class folders, one that is not in training or beside ``train``, an unreadable image, images of
            different sizes.
    """
    folder = place(root)
    if not folder.is_dir():
        raise DataError(f"data.root {root!r} is not a folder; it must hold one sub-folder of images per class")
    folders = _part_folders(folder)
    classes = [path.name for path in _subfolders(folders[0])] if folders[0] else []
    if len(classes) < 2:
        raise DataError(f"'{folders[0]}' must hold a sub-folder of images per class, at least two; it has {classes}")
    files = [[] if path is None else _files(path, classes) for path in folders]
    arrays = _decode([file.path for part in files for file in part], image_size)
    ends = np.cumsum([len(part) for part in files])
    parts = [
        Part(images, np.array([file.label for file in part], dtype=np.int64))
        for images, part in zip(np.split(arrays, ends[:-1]), files, strict=True)
    ]
    return gather(parts, f"images ({root})", len(classes), {"root": root, "classes": classes})


def _part_folders(folder: Path) -> list[Path | None]:
    """Folders of training, validation and test; a plain folder of classes is all for training."""
    found: list[Path | None] = [None, None, None]
    others = []
    for path in _subfolders(folder):
        part = _PARTS.get(path.name.lower())
        if part is None:
            others.append(path.name)
        elif (before := found[part]) is not None:
            raise DataError(f"'{folder}' has both {before.name!r} and {path.name!r} for one part; leave one")
        else:
            found[part] = path
    if found[0] is None:
        return [folder, None, None]
    if others:
        raise DataError(
            f"'{folder}' has {', '.join(map(repr, others))} beside {found[0].name!r}; valid: {', '.join(_PARTS)}; "
            "where train is a class itself, put all classes into a folder train"
        )
    return found


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path, classes: Sequence[str]) -> list[_File]:
    """The images of one part; other files, such as thumbnails' databases, are left alone."""
    found: list[_File] = []
    for subfolder in _subfolders(folder):
        if subfolder.name not in classes:
            raise DataError(f"'{subfolder}' is a class without training images; valid: {', '.join(classes)}")
        paths = sorted(path for path in subfolder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise DataError(f"'{subfolder}' holds no images ({', '.join(sorted(SUFFIXES))})")
        found += [_File(path, classes.index(subfolder.name)) for path in paths]
    if not found:
        raise DataError(f"'{folder}' holds no sub-folder of images per class")
    return found


def _decode(paths: Sequence[Path], image_size: int | None) -> NDArray[np.uint8]:
    """(N, C, H, W) of files of one size."""
    arrays: list[NDArray[Any]] = []
    for path in paths:
        arrays.append(_pixels(path, image_size))
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            (height, width), (other_height, other_width) = (array.shape[:2] for array in (arrays[0], arrays[-1]))
            raise DataError(
                f"'{paths[0]}' has {height}x{width} pixels, '{path}' {other_height}x{other_width}; "
                "set data.image_size to resize all"
            )
    if any(array.ndim == 3 for array in arrays):
        arrays = [array if array.ndim == 3 else np.stack([array] * 3, axis=2) for array in arrays]
        return np.ascontiguousarray(np.stack(arrays).transpose(0, 3, 1, 2))
    return np.stack(arrays)[:, None]


def _pixels(path: Path, image_size: int | None) -> NDArray[np.uint8]:
    """(H, W) of a grey image, (H, W, 3) of any other; transparency is dropped."""
    image = picture(path)
    image = image.convert("L" if image.mode in _GREY else "RGB")
    if image_size is not None:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image)
