"""Image files of a user's own, as a network takes them."""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lsx.data import Dataset, Split
from lsx.data.pictures import picture
from lsx.errors import DataError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
UNKNOWN = -1


def load(files: Sequence[str], dataset: Dataset) -> Split:
    """Image files as the dataset's networks take them: its channels, its size, its normalisation; their labels are -1.

    Raises:
        DataError: unreadable, or the dataset has channels that no image file has.
    """
    device = dataset.train.images.device
    raw = torch.stack([_read(file, dataset.image_shape) for file in files])
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (dataset.mean, dataset.std))
    unknown_rows = torch.full((len(files),), UNKNOWN)
    return Split(((raw - mean) / std).to(device), unknown_rows.to(device), None, unknown_rows.to(device))


def _read(file: str, shape: tuple[int, int, int]) -> Tensor:
    """(C, H, W) in 0–1, converted to the network's channels and size, with one line that says so.

    Raises:
        DataError: unreadable, or a network of channels that no image file has.
    """
    channels, height, width = shape
    if channels not in MODES:
        raise DataError(
            f"image {file!r} cannot be shown to a network of {channels} channels; image files have 1, 3 or 4"
        )
    image = picture(file)
    kind = f"{image.width}x{image.height} {image.mode}"
    wanted = f"{width}x{height} {MODES[channels]}"
    if kind != wanted:
        print(f"lsx: {file}: {kind} converted to the network's {wanted}", file=sys.stderr)
    fitting = image.convert(MODES[channels]).resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(fitting, dtype=np.float32) / 255
    return torch.from_numpy(pixels).reshape(height, width, channels).permute(2, 0, 1)
