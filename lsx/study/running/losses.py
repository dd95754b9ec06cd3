"""Whether a trial ended with its machine, which is no failure of the trial."""

import re
from contextlib import suppress

import ray
from ray._private import state

GONE = ("node has died", "node was terminated", "node died", "marked dead", "preempted", "node failure")
"""What Ray says when the machine of a trial's worker is gone, in lower case."""
AWAY = "temporarily unavailable"
"""What it says in the half minute before it knows: the connection broke."""
ACTOR = re.compile(r"\bactor(?:_id:)? ([0-9a-f]{32})\b")


def node_lost(failure: str) -> bool:
    """Whether a failure was the machine's, or that of the way to it, and not the trial's.

    Ray (2.60) has two texts for a machine that is gone: one that says so, and, when a connection breaks before the
    head's health check has failed, one that says nothing but that the worker is unavailable. Which of both a trial
    gets is a matter of milliseconds, so the cluster's own tables are looked at, too.

    Args:
        failure: as Tune wrote it down; what the trial itself raised starts with its traceback.
    """
    text = failure.strip().lower()
    if "actor" not in text.partition("\n")[0]:
        return False
    if any(words in text for words in GONE):
        return True
    found = ACTOR.search(text)
    if found is None or not ray.is_initialized():
        return False
    nodes = {node["NodeID"]: node["Alive"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
    crashed, where = _worker(found[1])
    if where in nodes and not nodes[where]:
        return True
    return AWAY in text and not crashed and len(nodes) > 1


def _worker(actor: str) -> tuple[bool, str | None]:
    """Whether the head knows that the worker itself has crashed, and the identity of its node."""
    with suppress(Exception):  # private to Ray, and the head may be away
        known = state.actors(actor)
        # Dead alone says nothing: Tune has let go of the worker by now.
        return "WORKER_DIED" in str(known.get("DeathCause")), known.get("Address", {}).get("NodeID")
    return False, None
