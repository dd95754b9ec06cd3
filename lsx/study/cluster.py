"""Ray: started, asked what fits into it, and kept from dragging the driver down."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError

from lsx.errors import StudyError
from lsx.study.sections import Resources

OBJECT_STORE_BYTES = 200 * 2**20
"""Trials exchange figures, not tensors; Ray's default would take 30 % of the memory."""

GPU_BYTES_PER_TRIAL = 12 * 2**30
MOST_TRIALS_PER_GPU = 8


@contextmanager
def started() -> Iterator[None]:
    """A local Ray, or the one that RAY_ADDRESS names; shut down at the end.

    Raises:
        StudyError: it does not start.
    """
    survive_out_of_memory()
    Config.initialize("")  # Ray caches RAY_AUTH_MODE when it is imported; lsx may have set it later
    quiet: dict[str, Any] = {"logging_level": "CRITICAL", "log_to_driver": False}
    local: dict[str, Any] = {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(**quiet, **({} if os.environ.get("RAY_ADDRESS") else local))
    except Exception as error:  # anything from a full disk to a dead cluster
        raise StudyError(f"Ray does not start: {' '.join(str(error).split())[:300]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def resources_there() -> dict[str, float]:
    """CPU, GPU and the rest, over all nodes."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return there


def request(resources: Resources) -> dict[str, float]:
    """What one trial asks Ray for.

    Raises:
        StudyError: the cluster can never give it.
    """
    there = resources_there()
    gpus = resources.gpus_per_trial
    if gpus == "auto":
        gpus = automatic_share() if there.get("GPU", 0) else 0.0
    wanted = {"cpu": resources.cpus_per_trial, "gpu": float(gpus)}
    for name, amount in wanted.items():
        if amount > there.get(name.upper(), 0):
            raise StudyError(f"a trial needs {amount:g} {name.upper()}s; Ray has {there.get(name.upper(), 0):g}")
    return wanted


def automatic_share() -> float:
    """The share of a GPU that a trial gets: as many trials as its memory surely holds.

    A power of two, so that shares add up to a GPU.
    """
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    trials = 1
    while trials < MOST_TRIALS_PER_GPU and 2 * trials * GPU_BYTES_PER_TRIAL <= memory:
        trials *= 2
    return 1 / trials


def slots(wanted: dict[str, float], most: int | None) -> int:
    """How many trials run at once."""
    there = resources_there()
    fit = min(int(there[name.upper()] / amount + 1e-9) for name, amount in wanted.items() if amount > 0)
    return max(1, min(fit, most or fit))


def survive_out_of_memory() -> None:
    """Let a trial that Ray's memory monitor kills fail like one whose worker died: started again, then failed.

    Ray 2.60 ends the whole experiment instead, because ``OutOfMemoryError`` is not a ``RayActorError``.
    """
    manager: Any = actor_manager.RayActorManager
    original = manager._actor_task_failed
    if getattr(original, "survives", False):
        return

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=f"out of memory: {exception}")
        original(self, tracked_actor_task=tracked_actor_task, exception=exception)

    failed.survives = True  # type: ignore[attr-defined]
    manager._actor_task_failed = failed
