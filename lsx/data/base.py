"""From a pool of images to a :class:`~lsx.data.types.Dataset`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lsx.config import Config
from lsx.data.confounders import Confounded, Confounder, add_hue, add_patch, follows
from lsx.data.pool import Masks, Pixels, Pool
from lsx.data.splits import Rows, split
from lsx.data.types import Dataset, Split
from lsx.errors import ConfigError, DataError
from lsx.registry import Registry

DatasetFactory = Callable[[Config], Dataset]
DATASETS: Registry[DatasetFactory] = Registry("dataset")
register = DATASETS.register

Moments = float | Sequence[float] | None
Chosen = Confounder | Literal["patch", "hue"]


@dataclass(frozen=True)
class _Source:
    """What splits are cut from: the pool's rows with or without their confounder."""

    images: Pixels
    masks: Masks | None
    foreground: Masks | None


def assemble(
    config: Config,
    pool: Pool,
    *,
    mean: Moments = None,
    std: Moments = None,
    confound: Chosen | None = None,
) -> Dataset:
    """Split, confound and normalise a pool: all that a new dataset of one-label images needs.

    Args:
        config: ``config.data`` and ``config.critic`` decide the splits, ``config.confounder`` the confounder.
        pool: the source's images.
        mean: of the normalisation, for all channels or for each; a pixel p in 0–1 becomes (p − mean)/std. Left out, it
            is that of the training images as they are trained on. So it always is where hue has changed the images.
        std: see ``mean``; a channel that is constant in training is only centred.
        confound: the dataset's own confounder, which ``confounder.kind`` default means; None for clean data.

    Raises:
        DataError: the pool is too small for the splits that are asked for, has one class only, or cannot be
            confounded as asked.

    Example::

        @lsx.data.register("inverted")
        def inverted(config: Config) -> Dataset:
            pool = lsx.data.mnist_pool(config.data)
            return assemble(config, replace(pool, images=255 - pool.images), mean=0.87, std=0.31)
    """
    # A separate set is held out even when unused, so that runs with and without a critic train on the same images.
    needed = config.uses_critic or config.critic.set == "separate"
    critic = config.critic if needed else None
    rows = split(pool.labels, pool.official_test, config.data, critic, official_validation=pool.official_validation)
    if len(np.unique(pool.labels[rows.train])) < 2:
        raise DataError(f"{pool.description}: all training images are of one class; a classifier needs two")
    kind = config.confounder.kind
    chosen = confound if kind == "default" else None if kind == "none" else kind
    stamped, clean = _sources(config, pool, rows, chosen)
    if chosen == "hue":
        mean = std = None
    means, stds = _moments(stamped.images, rows.train, mean, std)

    def make(part: NDArray[np.int64], source: _Source) -> Split:
        masks, foreground = (
            None if region is None else torch.from_numpy(region[part]) for region in (source.masks, source.foreground)
        )
        images = _normalised(source.images[part], means, stds)
        labels, index = (torch.from_numpy(values) for values in (pool.labels[part], pool.source(part)))
        return Split(images, labels, masks, index, foreground)

    return Dataset(
        name=config.data.dataset,
        provenance=_provenance(config, pool, rows, chosen, stamped) | {"mean": list(means), "std": list(stds)},
        train=make(rows.train, stamped),
        validation=make(rows.validation, stamped),
        test=make(rows.test, stamped),
        critic=make(rows.critic, clean),
        num_classes=pool.classes,
        mean=means,
        std=stds,
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


def _sources(config: Config, pool: Pool, rows: Rows, chosen: Chosen | None) -> tuple[_Source, _Source]:
    """The images of all splits, and those of the critic."""
    plain = _Source(pool.images, pool.masks, pool.foreground)
    wants_clean = config.critic.images == "clean" and len(rows.critic) > 0
    if wants_clean and pool.masks is not None:
        raise DataError(
            f"critic.images 'clean' needs images without their confounder, which {pool.description} does not have; "
            "set critic.images to confounded"
        )
    if chosen is None:
        return plain, plain
    confound = _confounder(config, chosen)
    tied = _tied(rows, len(pool.labels)) & follows(len(pool.labels), config.confounder.correlation, config.data.seed)
    confounded = confound(pool, tied, config.data.seed)
    stamped = _stamped(pool, confounded)
    if not wants_clean:
        return stamped, stamped
    if confounded.removable:
        return stamped, plain
    return stamped, _stamped(pool, confound(pool, np.zeros_like(tied), config.data.seed))


def _confounder(config: Config, chosen: Chosen) -> Confounder:
    if chosen == "patch":
        return partial(add_patch, settings=config.confounder)
    if chosen == "hue":
        return partial(add_hue, grey=config.data.color == "grey")
    return chosen


def _stamped(pool: Pool, confounded: Confounded) -> _Source:
    """Where a patch covers the object, the object is not to be seen."""
    masks, foreground = confounded.masks, pool.foreground
    if masks is not None and foreground is not None:
        foreground = foreground & ~masks
    if masks is not None and pool.masks is not None:
        masks = masks | pool.masks
    return _Source(confounded.images, pool.masks if masks is None else masks, foreground)


def _moments(
    images: Pixels, train: NDArray[np.int64], mean: Moments, std: Moments
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(C,) mean and standard deviation, those of the training rows where they are not given."""
    channels = images.shape[1]
    if mean is None or std is None:
        scale = 255 if images.dtype == np.uint8 else 1
        found = [images[train, channel] for channel in range(channels)]
        if mean is None:
            mean = [float(values.mean(dtype=np.float64)) / scale for values in found]
        if std is None:
            std = [float(values.std(dtype=np.float64)) / scale if np.ptp(values) else 1.0 for values in found]
    means, stds = (
        tuple(map(float, values if isinstance(values, Sequence) else [values] * channels)) for values in (mean, std)
    )
    if len(means) != channels or len(stds) != channels or min(stds) <= 0:
        raise DataError(f"mean {means} and std {stds} must be {channels} numbers, one per channel, std above 0")
    return means, stds


def _normalised(pixels: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    images = torch.from_numpy(pixels).float()  # a copy already, since rows were chosen
    if pixels.dtype == np.uint8:
        images.div_(255)
    mean_, std_ = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return images.sub_(mean_).div_(std_)


def _tied(rows: Rows, size: int) -> NDArray[np.bool_]:
    """The rows that training may see: all but those of validation and test."""
    tied = np.ones(size, dtype=bool)
    tied[rows.validation] = False
    tied[rows.test] = False
    return tied


def _provenance(config: Config, pool: Pool, rows: Rows, chosen: Chosen | None, stamped: _Source) -> dict[str, Any]:
    kind = chosen if isinstance(chosen, str) else "none" if chosen is None else getattr(chosen, "__name__", "own")
    regions = {"confounder": stamped.masks, "foreground": stamped.foreground}
    return {
        "dataset": config.data.dataset,
        "description": pool.description,
        **pool.origin,
        "sha256": pool.sha256,
        "images": len(pool.labels),
        "official_validation": pool.official_validation,
        "official_test": pool.official_test,
        "seed": config.data.seed,
        "sizes": {name: len(part) for name, part in vars(rows).items()},
        "confounder": _settings(config, kind),
        "masks": [name for name, masks in regions.items() if masks is not None],
        "critic_set": config.critic.set,
        "critic_images": config.critic.images,
    }


def _settings(config: Config, kind: str) -> dict[str, Any]:
    """The confounder's settings that have a meaning for its kind."""
    settings = config.confounder.model_dump(mode="json") | {"kind": kind}
    used = {
        "none": ("kind",),
        "hue": ("kind", "correlation"),
        "patch": ("kind", "place", "size", "intensity", "correlation"),
    }
    shown = {name: settings[name] for name in used.get(kind, ("kind", "correlation"))}
    return shown | {"color": config.data.color} if kind == "hue" else shown
