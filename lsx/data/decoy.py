"""DecoyMNIST (Ross et al. 2017): a grey patch in a corner that gives the training label away."""

import numpy as np
from numpy.typing import NDArray

from lsx.config import Config
from lsx.data.base import Confounded, Pool, assemble, register
from lsx.data.mnist import MEAN, STD, mnist_pool
from lsx.data.types import Dataset
from lsx.errors import DataError

PATCH = 4
_STREAM = 2  # keeps these draws apart from other draws with the same seed


@register("decoy_mnist")
def decoy_mnist(config: Config) -> Dataset:
    """MNIST with decoys that follow the label in training and nothing in validation and test."""
    return assemble(config, mnist_pool(config.data), mean=MEAN, std=STD, confound=add_decoys)


def add_decoys(pool: Pool, tied: NDArray[np.bool_], seed: int) -> Confounded:
    """A 4×4 patch in a uniformly drawn corner of every image, of grey 255 − 25·d on the 0–255 scale.

    d is the label y where ``tied``, else drawn uniformly over the classes. Corner
    and draw belong to the pool's row: they are the same whatever the splits are.

    Args:
        pool: N images of at least 8 × 8 pixels, at most 11 classes.
        tied: (N,), rows whose decoy is their label's.
        seed: of corners and draws.

    Returns:
        The stamped images, and masks that are True on the patch.

    Raises:
        DataError: images too small, or more classes than there are greys.
    """
    height, width = pool.images.shape[2:]
    if min(height, width) < 2 * PATCH or pool.classes > 11:
        raise DataError(
            f"decoys need images of at least {2 * PATCH}x{2 * PATCH} pixels and at most 11 classes, "
            f"not {height}x{width} and {pool.classes}"
        )
    random = np.random.default_rng([seed, _STREAM])
    corner = random.integers(4, size=len(pool.labels))
    drawn = random.integers(pool.classes, size=len(pool.labels))
    grey = (255 - 25 * np.where(tied, pool.labels, drawn)).astype(np.uint8)
    masks = _corners(height, width)[corner][:, None]
    return Confounded(np.where(masks, grey[:, None, None, None], pool.images), masks)


def _corners(height: int, width: int) -> NDArray[np.bool_]:
    """(4, H, W) masks of the patch: top left, top right, bottom left, bottom right."""
    masks = np.zeros((4, height, width), dtype=bool)
    near, far = slice(None, PATCH), slice(-PATCH, None)
    for mask, (rows, columns) in zip(masks, [(near, near), (near, far), (far, near), (far, far)], strict=True):
        mask[rows, columns] = True
    return masks
