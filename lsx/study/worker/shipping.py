"""A study's images, once to every node: from the driver's memory into Ray's, which the workers of a node share."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from lsx.data.pool import Pool
from lsx.data.shared import Key, arrays, install
from lsx.errors import StudyError

Trainable = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Shipped:
    """Where the images lie: small, and readable in all processes of this Ray.

    Attributes:
        identity: tells this shipment from others.
        reference: Ray's, of the pools; the driver must not let go of it while trials run.
    """

    identity: str
    reference: Any

    def __deepcopy__(self, _: Any) -> "Shipped":
        return self  # a copy of the reference would not know who owns the images


_received: str | None = None


def bytes_of(pools: Mapping[Key, Pool]) -> int:
    """What the pools take in Ray's object store, in bytes."""
    return sum(array.nbytes for pool in pools.values() for array in arrays(pool))


def ship(pools: Mapping[Key, Pool]) -> Shipped | None:
    """Put the pools (of :func:`lsx.data.shared.loaded`) into Ray's object store; None where there are none.

    Raises:
        StudyError: they do not fit.
    """
    if not pools:
        return None
    for pool in pools.values():
        _ = pool.sha256  # computed here, it travels along
    try:
        return Shipped(uuid.uuid4().hex, ray.put(dict(pools)))
    except (ObjectStoreFullError, OutOfDiskError) as error:
        raise StudyError(
            f"the study's images, {bytes_of(pools) / 2**20:,.0f} MiB, do not fit into Ray's object store: "
            f"{' '.join(str(error).split())[:200]}; valid: as much as /dev/shm and Ray's temporary folder have room for"
        ) from None


def receive(shipped: Shipped | None) -> None:
    """Let this process make its datasets of the shipped pools; once, for it may run many trials.

    The arrays are read-only views of the node's shared memory. Nothing is done for None.
    """
    global _received
    if shipped is not None and shipped.identity != _received:
        install(ray.get(shipped.reference))
        _received = shipped.identity


def carrying(trainable: Trainable, shipped: Shipped | None) -> Trainable:
    """The trainable, receiving the pools before it starts; for Tune, which copies it to the workers."""
    if shipped is None:
        return trainable

    @wraps(trainable)
    def carried(assignment: Mapping[str, Any]) -> None:
        receive(shipped)
        trainable(assignment)

    return carried
