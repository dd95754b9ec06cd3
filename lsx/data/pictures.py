"""Image files, read the same way wherever they come from."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lsx.errors import DataError


def picture(path: Path | str) -> Image.Image:
    """An image file with eight bits per channel, upright as its EXIF orientation says, in its own mode otherwise.

    Of 16-bit grey images the high byte is kept.

    Raises:
        DataError: not there, damaged, no image, or of pixels without a fixed range.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # PIL's own are among them
        reason = getattr(error, "strerror", None) or "damaged, or no image"
        raise DataError(f"image '{path}' cannot be read: {reason}") from None
    if image.mode.startswith("I;16"):  # Pillow would clip it
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(
            f"image '{path}' cannot be read: pixels of mode {image.mode} have no fixed range; save it with 8 or 16 bits"
        )
    return image
