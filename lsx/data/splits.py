"""Which rows of a pool are for what: disjoint, stratified, and decided by ``data.seed`` alone.

One seeded permutation ranks the images of each class. Every split takes the next
ranks of each class, so that validation and test stay the same whatever the
few-shot fraction and the critic settings are.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsx.config import CriticConfig, DataConfig
from lsx.errors import DataError

Indices = NDArray[np.int64]
_STREAM = 1  # keeps these draws apart from other draws with the same seed


@dataclass(frozen=True)
class Rows:
    """Rows of the pool, int64, each split in a seeded random order.

    ``train``, ``validation`` and ``test`` are disjoint; ``critic`` is a part of
    ``train`` or disjoint from all three.
    """

    train: Indices
    validation: Indices
    test: Indices
    critic: Indices


def split(
    labels: Indices,
    official_test: int,
    data: DataConfig,
    critic: CriticConfig | None,
    *,
    official_validation: int = 0,
) -> Rows:
    """Split a pool.

    Fractions are of the pool without its official validation and test sets; a
    few-shot fraction is of what validation and test leave for training. A separate
    critic set takes what the few-shot fraction leaves unused, and only what is
    then missing from the training set.

    Args:
        labels: (N,), 0 ≤ label.
        official_test: how many of the last rows are the source's own test set; 0: one is split off.
        data: seed and fractions.
        critic: size and place of the critic set; None leaves it empty.
        official_validation: how many of the rows before them are its own validation set; 0: one is split off.

    Raises:
        DataError: too few images for what is asked.
    """
    order = np.random.default_rng([data.seed, _STREAM]).permutation(len(labels))
    first_test = len(labels) - official_test
    first_validation = first_test - official_validation
    own = order[order < first_validation]
    rank = _rank_within_class(labels, own)
    held = labels[own]
    counts = np.bincount(held)
    trainable, validation = _held_out(counts, data, not official_validation, not official_test)

    training, separate = _train_and_critic(trainable, data, critic)
    # Ranks of a class, from 0: training, separate critic, unused, validation, test.
    train = own[rank < training[held]]
    in_validation = (rank >= trainable[held]) & (rank < (trainable + validation)[held])
    in_test = rank >= (trainable + validation)[held]
    if critic is None or critic.set == "inside":
        within = _allocate(training, critic.size if critic else 0)
        chosen = rank < within[held]
    else:
        chosen = (rank >= training[held]) & (rank < (training + separate)[held])
    validation_rows, test_rows = own[in_validation], own[in_test]
    if official_validation:
        validation_rows = order[(order >= first_validation) & (order < first_test)]
    if official_test:
        test_rows = order[order >= first_test]
    return Rows(train, validation_rows, test_rows, own[chosen])


def _rank_within_class(labels: Indices, order: Indices) -> Indices:
    """For each row of ``order``, how many of its class come before it there."""
    by_class = np.argsort(labels[order], kind="stable")
    counts = np.bincount(labels[order])
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(order), dtype=np.int64)
    rank[by_class] = np.arange(len(order)) - starts[labels[order][by_class]]
    return rank


def _held_out(counts: Indices, data: DataConfig, split_validation: bool, split_test: bool) -> tuple[Indices, Indices]:
    """Images per class for training and for validation; test gets the rest."""
    total = int(counts.sum())
    validation = round(data.validation_fraction * total) if split_validation else 0
    test = round(data.test_fraction * total) if split_test else 0
    classes = np.count_nonzero(counts)
    if split_validation and validation < 1:
        raise DataError(f"data.validation_fraction {data.validation_fraction} of {total} images is none; raise it")
    if split_test and test < 1:
        raise DataError(f"data.test_fraction {data.test_fraction} of {total} images is none; raise it")
    if total - validation - test < classes:
        raise DataError(
            f"{total} images minus {validation} for validation and {test} for test leave "
            f"{total - validation - test} to train on, fewer than the {classes} classes; "
            "lower data.validation_fraction or data.test_fraction, or add images"
        )
    trainable = _allocate(counts, total - validation - test, least=1)
    return trainable, _allocate(counts - trainable, validation)


def _train_and_critic(trainable: Indices, data: DataConfig, critic: CriticConfig | None) -> tuple[Indices, Indices]:
    """Images per class of the training set, and of a critic set beside it."""
    pool, classes = int(trainable.sum()), np.count_nonzero(trainable)
    size = round(data.few_shot_fraction * pool)
    if size < classes:
        raise DataError(
            f"data.few_shot_fraction {data.few_shot_fraction} of {pool} training images keeps {size}, "
            f"fewer than the {classes} classes; raise it to {math.ceil(1e6 * classes / pool) / 1e6:g} or more"
        )
    if critic is None:
        return _allocate(trainable, size, least=1), np.zeros_like(trainable)
    needs = f"critic set needs {critic.batches} x {critic.batch_size} = {critic.size} images"
    remedy = "lower critic.batches or critic.batch_size"
    if critic.set == "inside":
        if critic.size > size:
            more = ", or raise data.few_shot_fraction" if data.few_shot_fraction < 1 else ", or add images"
            raise DataError(f"{needs}, the training set has {size}; {remedy}{more}")
        return _allocate(trainable, size, least=1), np.zeros_like(trainable)
    if pool - critic.size < classes:
        raise DataError(
            f"{needs} beside the training set, and {pool} images are there for both "
            f"(at least {classes} to train on); {remedy}, or set critic.set to inside"
        )
    training = _allocate(trainable, min(size, pool - critic.size), least=1)
    return training, _allocate(trainable - training, critic.size)


def _allocate(counts: Indices, total: int, least: int = 0) -> Indices:
    """``total`` shared out over classes in proportion to ``counts``, by largest remainder.

    Args:
        counts: images per class; no class gets more.
        total: at most ``counts.sum()``, at least ``least`` for each class that has images.
        least: 0 or 1, what a class that has images gets at least.

    Returns:
        int64, the shape of ``counts``, summing to ``total`` exactly.
    """
    available = max(int(counts.sum()), 1)
    shares, remainders = counts * total // available, counts * total % available
    largest = np.argsort(-remainders, kind="stable")
    shares[largest[: total - shares.sum()]] += 1
    for starved in np.flatnonzero((shares < least) & (counts > 0)):
        shares[np.argmax(shares)] -= 1
        shares[starved] += 1
    return shares
