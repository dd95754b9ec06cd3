"""Whether the nodes of a cluster can run trials: tried on each before the first trial, and on each that joins later."""

import re
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lsx.errors import StudyError
from lsx.study.environment.credentials import redacted
from lsx.study.environment.places import MARKER, Storage
from lsx.study.running.cluster import nodes

SECONDS_FOR_NODES = 120.0
SECONDS_BETWEEN_LOOKS = 2.0
LAST_LINE = re.compile(r"^\w*(?:Error|Exception|Interrupt)\b.*", re.MULTILINE)


class Inspection:
    """Of all nodes that trials can run on.

    A node that does not see the storage would train and lose every checkpoint, so that one such node ends the study.

    Args:
        storage: of the checkpoints; written to by the driver.
        needed: what a worker must be able to import, the trainable.
    """

    def __init__(self, storage: Storage, needed: Any = None) -> None:
        self._storage, self._needed = storage, needed
        self._task = ray.remote(num_cpus=0, max_retries=0)(look)
        self._known: set[str] = set()
        self._asked: dict[Any, Mapping[str, Any]] = {}
        self._looked = 0.0

    def __call__(self) -> None:
        """Ask the nodes that have joined, and hear those that have answered; does not wait.

        Raises:
            StudyError: naming the first node that cannot run trials, and what it lacks.
        """
        if time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        self._ask()
        if self._asked:
            done, _ = ray.wait([*self._asked], num_returns=len(self._asked), timeout=0)
            for answer in done:
                self._hear(answer)

    def settle(self) -> None:
        """Ask all nodes and wait for what they say.

        Raises:
            StudyError: see :meth:`__call__`.
        """
        if len(nodes()) < 2:  # the driver's own
            self._known |= {node["NodeID"] for node in nodes()}
            return
        self._ask()
        for answer in list(self._asked):
            self._hear(answer)

    def _ask(self) -> None:
        for node in nodes():
            if node["NodeID"] not in self._known and node["Resources"].get("CPU"):
                self._known.add(node["NodeID"])
                here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = self._task.options(scheduling_strategy=here)
                self._asked[task.remote(self._storage.root, self._needed)] = node

    def _hear(self, answer: Any) -> None:
        from lsx import __version__

        node = self._asked.pop(answer)
        name = _name(node)
        try:
            version, trouble = ray.get(answer, timeout=SECONDS_FOR_NODES)
        except Exception as error:
            if node["NodeID"] not in {one["NodeID"] for one in nodes()}:
                return  # it has left again
            raise StudyError(f"node {name} cannot run trials: {_reason(error)}") from None
        if version != __version__:
            raise StudyError(f"node {name} has lsx {version}, the driver {__version__}; install the same on every node")
        if trouble is not None:
            raise StudyError(
                f"node {name} cannot use the checkpoint storage {redacted(self._storage.root)!r}: {trouble}; give "
                "--storage a folder that all nodes share, or a bucket such as s3://bucket/folder"
            )


def look(root: str, needed: Any) -> tuple[str, str | None]:
    """What a node has: the version of lsx, and what is wrong with the storage there."""
    from lsx import __version__

    try:
        storage = Storage(root)
        if not storage.has(MARKER):
            return __version__, "what the driver wrote there is not there"
        storage.check()
    except Exception as error:  # pyarrow and the clients below it raise many types
        return __version__, redacted(" ".join(str(error).split())[:300])
    return __version__, None


def _name(node: Mapping[str, Any]) -> str:
    address, host = node["NodeManagerAddress"], node.get("NodeManagerHostname")
    return address if host in (None, address) else f"{address} ({host})"


def _reason(error: Exception) -> str:
    if isinstance(error, GetTimeoutError):
        return f"no answer within {SECONDS_FOR_NODES:.0f} s"
    lines = LAST_LINE.findall(str(error)) or [" ".join(str(error).split())[-200:]]
    return f"{lines[-1][:200]}; lsx and all that the study needs must be installed on every node"
