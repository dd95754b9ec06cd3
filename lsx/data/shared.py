"""Pools that are read once for many datasets: by a study's driver, which ships them, and not at all by its workers.

Outside of a study nothing is remembered, since files change between two loads.
"""

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from lsx.config import DataConfig
from lsx.data.pool import Pool

P = ParamSpec("P")
Key = tuple[Hashable, ...]
"""A pool maker's dotted name and what it was called with."""

DECIDING = ("source", "root", "image_size", "mask_kind")
"""What a pool depends on among ``config.data``; seed and fractions only split it, dataset and color name its use."""

MOST = 4
"""Pools that are remembered beside installed ones, the newest; they lie in memory."""


class _Memory:
    """Of this process."""

    def __init__(self) -> None:
        self.installed: dict[Key, Pool] = {}
        self.kept: dict[Key, Pool] = {}
        self.depth = 0

    @property
    def on(self) -> bool:
        return self.depth > 0 or bool(self.installed)

    def find(self, key: Key) -> Pool | None:
        return self.installed.get(key) or self.kept.get(key)

    def keep(self, key: Key, pool: Pool) -> None:
        self.kept[key] = pool
        while len(self.kept) > MOST:
            del self.kept[next(iter(self.kept))]


_memory = _Memory()


def remembered(maker: Callable[P, Pool]) -> Callable[P, Pool]:
    """Decorator of a pool maker, so that a study reads its files once: not per trial, nor on every node.

    What it is called with must decide the pool and be hashable; of a ``DataConfig`` count ``source``, ``root``,
    ``image_size`` and ``mask_kind``. The pool's arrays are read-only, whether it is remembered or not.

    Example::

        @lsx.data.remembered
        def scans(root: str) -> Pool:
            return Pool(np.load(f"{root}/images.npy"), np.load(f"{root}/labels.npy"), f"scans ({root})", classes=3)
    """
    signature = inspect.signature(maker)
    name = f"{maker.__module__}.{maker.__qualname__}"

    @wraps(maker)
    def make(*args: P.args, **kwargs: P.kwargs) -> Pool:
        if not _memory.on:
            return _locked(maker(*args, **kwargs))
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        key = (name, *map(_deciding, bound.arguments.values()))
        pool = _memory.find(key)
        if pool is None:
            pool = _locked(maker(*args, **kwargs))
            _memory.keep(key, pool)
        return pool

    return make


@contextmanager
def remembering() -> Iterator[None]:
    """Within it, a pool is made once and then remembered; the newest four are. All are forgotten at its end."""
    _memory.depth += 1
    try:
        yield
    finally:
        _memory.depth -= 1
        if not _memory.depth:
            _memory.kept.clear()


def loaded() -> dict[Key, Pool]:
    """All pools that are remembered now, by what they were made of."""
    return {**_memory.kept, **_memory.installed}


def install(pools: Mapping[Key, Pool]) -> None:
    """Take these pools, of :func:`loaded` in another process, for what their makers would make; no file is looked at.

    From then on this process remembers, until nothing is installed: pools of before are forgotten.
    """
    _memory.kept.clear()
    _memory.installed = {key: _locked(pool) for key, pool in pools.items()}


def arrays(pool: Pool) -> list[NDArray[Any]]:
    """The pool's arrays."""
    return [value for value in vars(pool).values() if isinstance(value, np.ndarray)]


def _deciding(value: Any) -> Hashable:
    if isinstance(value, DataConfig):
        return tuple(getattr(value, field) for field in DECIDING)
    hashable: Hashable = value
    return hashable


def _locked(pool: Pool) -> Pool:
    """The pool with read-only arrays: many datasets are made of it."""
    for array in arrays(pool):
        array.flags.writeable = False
    return pool
