"""Ray: started or joined, asked what fits into it, and kept from dragging the driver down."""

import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import ray
from ray._private import ray_constants, services
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.tune import PlacementGroupFactory

from lsx.errors import StudyError
from lsx.study.declared.sections import Resources
from lsx.study.environment import quiet
from lsx.study.environment.credentials import redacted
from lsx.study.running.interruption import put_back

OBJECT_STORE_BYTES = 200 * 2**20
"""Beside the images, trials exchange figures, not tensors; Ray's default would take 30 % of the memory."""
SECONDS_BETWEEN_COUNTS = 2.0
SECONDS_TO_CONNECT = 10.0
REFUSED = ("unauthenticated", "authentication", "invalidauthtoken")
LOCAL = "local"
VALID = "valid: host:port of its head node, or auto on one of its nodes"


@contextmanager
def started(address: str | None = None, images: int = 0) -> Iterator[None]:
    """A local Ray, or a cluster; left or shut down at the end.

    Args:
        address: of the cluster, ``host:port`` or ``auto``; that of RAY_ADDRESS by default, else (and for ``local``) a
            Ray of our own is started, which listens on the loopback interface only.
        images: bytes of the data that will be shipped.

    Raises:
        StudyError: it does not start, or nothing answers there.
    """
    survive_losses()
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    local = address == LOCAL
    options: dict[str, Any] = {"address": address, "logging_level": "CRITICAL", "log_to_driver": False}
    if local:
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES + 2 * images}
    else:
        reach(address)
    # Ray reads only at its import whether it may listen beyond the loopback interface. What raylets have to say about
    # workers and nodes that died would be printed over the display. Ray's own handler of SIGTERM, set while Ray starts,
    # would end the driver where it stands. A port where something else listens is tried once, which takes 40 seconds.
    with (
        _put(ray_constants, "ENABLE_RAY_CLUSTER", not local),
        _put(ray_constants, "NUM_REDIS_GET_RETRIES", ray_constants.NUM_REDIS_GET_RETRIES if local else 1),
        _put(ray_worker, "print_to_stdstream", _nothing),
        _authentication(),
        quiet.cluster_access(local=local),
    ):
        _forget_authentication()
        with tempfile.TemporaryFile() as heard, _put(ray_utils, "set_sigterm_handler", _nothing):
            try:
                with _overhearing(heard, not local):
                    ray.init(**options)
            except Exception as error:  # anything from a full disk to a dead cluster
                heard.seek(0)
                raise StudyError(_why(address, error, heard.read().decode(errors="replace"))) from error
        try:
            yield
        finally:
            _shut_down()


def _shut_down() -> None:
    """Leave Ray, and stay in charge of SIGTERM: Ray's core makes it deadly when it ends, before its processes do."""
    node: Any = ray_worker._global_node
    if node is not None:
        end = node.kill_all_processes

        def armed(*args: Any, **kwargs: Any) -> None:
            put_back()
            end(*args, **kwargs)

        node.kill_all_processes = armed
    ray.shutdown()
    put_back()


def reach(address: str) -> None:
    """Connect to a cluster's head; Ray itself would try for half a minute.

    Raises:
        StudyError: nothing listens there, or it is no address of a head.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise StudyError(f"the Ray cluster's address {address!r} cannot be used; {VALID}")
    try:
        host = services.resolve_ip_for_localhost(host.strip("[]"))  # as Ray does
        socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise StudyError(f"the Ray cluster at {address!r} does not answer: {error}; {VALID}") from None


@contextmanager
def _put(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another value, for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _overhearing(file: IO[bytes], really: bool) -> Iterator[None]:
    """The process's error output, to a file: only there, Ray's compiled part says why it cannot join a cluster."""
    if not really:
        yield
        return
    before = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _nothing(*_: Any, **__: Any) -> None:
    pass


@contextmanager
def _authentication() -> Iterator[None]:
    """Forgotten at the end: Ray keeps mode and token of the cluster before."""
    try:
        yield
    finally:
        _forget_authentication()


def _forget_authentication() -> None:
    """Ray caches mode and token from its import, or from the Ray before this one."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _why(address: str, error: Exception, heard: str) -> str:
    reason = redacted(" ".join(str(error).split())[:300])
    if address == LOCAL:
        return f"Ray does not start: {reason}"
    if any(words in f"{reason} {heard}".lower() for words in REFUSED):
        return (
            f"the Ray cluster at {address!r} refuses: its authentication token is missing here, or another one; "
            "set RAY_AUTH_MODE and RAY_AUTH_TOKEN as its nodes have them"
        )
    return f"the Ray cluster at {address!r} does not answer: {reason}; {VALID}"


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
        self._counted, self._there = -math.inf, 1

    def __call__(self) -> int:
        """At least 1: a trial that no node has room for waits for one that has."""
        self._count()
        return max(1, min(self._there, self._most or self._there))

    @property
    def none(self) -> bool:
        """Whether no node has room for a trial, even when it is idle."""
        self._count()
        return self._there == 0

    def _count(self) -> None:
        now = time.monotonic()
        if now - self._counted >= SECONDS_BETWEEN_COUNTS:
            self._there = sum(fit(node, self._wanted) for node in resources_there())
            self._counted = now


def fit(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Trials that a node holds; a share of a GPU lies on one card."""
    by_name = {name: int(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items() if amount > 0}
    share = wanted.get("GPU", 0.0)
    if 0 < share < 1:
        by_name["GPU"] = int(node.get("GPU", 0.0)) * int(1 / share + 1e-9)
    return min(by_name.values(), default=1)


def survive_losses() -> None:
    """Let a trial that Ray's memory monitor kills, or whose report is lost, fail like one whose worker died.

    Ray 2.60 ends the whole experiment instead, because ``OutOfMemoryError`` and ``ObjectLostError`` are no
    ``RayActorError``.
    """
    manager: Any = actor_manager.RayActorManager
    original = manager._actor_task_failed
    if getattr(original, "survives", False):
        return

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=f"out of memory: {exception}")
        elif isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=f"the actor's report was lost: {exception}")
        original(self, tracked_actor_task=tracked_actor_task, exception=exception)

    failed.survives = True  # type: ignore[attr-defined]
    manager._actor_task_failed = failed
