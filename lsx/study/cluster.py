"""Ray: started or joined, asked what fits into it, and kept from dragging the driver down."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import utils as ray_utils
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import PlacementGroupFactory
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lsx.errors import StudyError
from lsx.study import quiet
from lsx.study.credentials import redacted
from lsx.study.places import MARKER, Storage
from lsx.study.sections import Resources

OBJECT_STORE_BYTES = 200 * 2**20
"""Beside the images, trials exchange figures, not tensors; Ray's default would take 30 % of the memory."""
SECONDS_BETWEEN_COUNTS = 2.0
SECONDS_FOR_NODES = 120.0


@contextmanager
def started(address: str | None = None, images: int = 0) -> Iterator[None]:
    """A local Ray, or a cluster; left or shut down at the end.

    Args:
        address: of the cluster, ``host:port`` or ``auto``; that of RAY_ADDRESS by default, else a Ray of our own is
            started, which listens on the loopback interface only.
        images: bytes of the data that will be shipped.

    Raises:
        StudyError: it does not start, or nothing answers there.
    """
    survive_out_of_memory()
    address = address or os.environ.get("RAY_ADDRESS")
    with quiet.cluster_access(local=address is None), _reaching_out(address is not None):
        _forget_authentication()
        options: dict[str, Any] = {"logging_level": "CRITICAL", "log_to_driver": False}
        if address is None:
            memory = OBJECT_STORE_BYTES + 2 * images
            options |= {"address": "local", "include_dashboard": False, "object_store_memory": memory}
        else:
            options |= {"address": address}
        try:
            with _signals_left_alone():
                ray.init(**options)
        except Exception as error:  # anything from a full disk to a dead cluster
            raise StudyError(_why(address, error)) from error
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _reaching_out(beyond: bool) -> Iterator[None]:
    """Ray reads only at its import whether it may listen beyond the loopback interface."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = beyond
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        _forget_authentication()


@contextmanager
def _signals_left_alone() -> Iterator[None]:
    """Ray's own handler of SIGTERM, set while Ray starts, would end the driver where it stands."""
    original = ray_utils.set_sigterm_handler
    ray_utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = original


def _forget_authentication() -> None:
    """Ray caches mode and token from its import, or from the Ray before this one."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _why(address: str | None, error: Exception) -> str:
    reason = redacted(" ".join(str(error).split())[:300])
    if address is None:
        return f"Ray does not start: {reason}"
    if "auth" in reason.lower() or "token" in reason.lower():
        advice = "set RAY_AUTH_MODE and RAY_AUTH_TOKEN as its nodes have them"
        return f"the Ray cluster at {address!r} refuses: {reason}; {advice}"
    return f"the Ray cluster at {address!r} does not answer: {reason}; valid: host:port of its head node, or auto"


def nodes() -> list[Mapping[str, Any]]:
    """The cluster's living nodes, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def resources_there() -> list[Mapping[str, float]]:
    """CPU, GPU and the rest, of each node."""
    return [node["Resources"] for node in nodes()]


def request(resources: Resources, gpus: float) -> dict[str, float]:
    """What one trial asks Ray for.

    Args:
        resources: of the study.
        gpus: a trial's, where the study says ``auto``.

    Raises:
        StudyError: no node can ever give it.
    """
    share = gpus if resources.gpus_per_trial == "auto" else resources.gpus_per_trial
    wanted = {"CPU": resources.cpus_per_trial, "GPU": float(share)}
    there = resources_there()
    if not any(fit(node, wanted) for node in there):
        for name, amount in wanted.items():
            most = max((node.get(name, 0.0) for node in there), default=0.0)
            if amount > most:
                raise StudyError(f"a trial needs {amount:g} {name}s; the largest of Ray's nodes has {most:g}")
        raise StudyError(f"a trial needs {wanted['CPU']:g} CPUs and {wanted['GPU']:g} GPUs; no single node has both")
    return wanted


def placement(wanted: Mapping[str, float]) -> Callable[[Mapping[str, Any]], PlacementGroupFactory]:
    """What Tune asks for, by assignment: one that is ``alone`` gets the whole GPU."""

    def place(assignment: Mapping[str, Any]) -> PlacementGroupFactory:
        gpus = max(1.0, wanted["GPU"]) if assignment.get("alone") and wanted["GPU"] else wanted["GPU"]
        bundle = {"CPU": wanted["CPU"], **({"GPU": gpus} if gpus else {})}
        return PlacementGroupFactory([bundle])

    return place


class Slots:
    """How many trials run at once, at the moment: nodes join and leave.

    Args:
        wanted: what one trial asks for.
        most: an upper bound.
    """

    def __init__(self, wanted: Mapping[str, float], most: int | None = None) -> None:
        self._wanted, self._most = wanted, most
        self._counted, self._fit = -math.inf, 1

    def __call__(self) -> int:
        now = time.monotonic()
        if now - self._counted >= SECONDS_BETWEEN_COUNTS:
            total = sum(fit(node, self._wanted) for node in resources_there())
            self._counted, self._fit = now, max(1, min(total, self._most or total))
        return self._fit


def fit(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Trials that a node holds; a share of a GPU lies on one card."""
    by_name = {name: int(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items() if amount > 0}
    share = wanted.get("GPU", 0.0)
    if 0 < share < 1:
        by_name["GPU"] = int(node.get("GPU", 0.0)) * int(1 / share + 1e-9)
    return min(by_name.values(), default=1)


def check_nodes(storage: Storage) -> None:
    """Try on every node of a cluster what trials need there: lsx of this version, and the checkpoint storage.

    Raises:
        StudyError: naming the first node that lacks it.
    """
    if len(nodes()) < 2:
        return
    from lsx import __version__

    marker = None if storage.remote else f"{storage.root}/{MARKER}"
    task = ray.remote(num_cpus=0)(_look)
    asked = {
        node["NodeManagerAddress"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(marker)
        for node in nodes()
    }
    for name, answer in asked.items():
        try:
            version, sees = ray.get(answer, timeout=SECONDS_FOR_NODES)
        except Exception as error:
            reason = " ".join(str(error).split())[-200:]
            raise StudyError(f"node {name} cannot run trials: {reason}; lsx must be installed on every node") from None
        if version != __version__:
            raise StudyError(f"node {name} has lsx {version}, the driver {__version__}; install the same on every node")
        if not sees:
            raise StudyError(
                f"node {name} does not see the checkpoint storage {storage.root!r}; give --storage a folder that all "
                "nodes share, or a bucket such as s3://bucket/folder"
            )


def _look(marker: str | None) -> tuple[str, bool]:
    from lsx import __version__

    return __version__, marker is None or os.path.exists(marker)


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
