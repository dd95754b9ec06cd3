"""The word from the driver to its workers that a study stops: each trial checkpoints between two steps and returns."""

import time

import ray
from ray.experimental import internal_kv

SECONDS_BETWEEN_LOOKS = 0.5
_NAMESPACE = b"lsx"


def ask(key: str) -> None:
    """Ask the trials that were given this key to stop."""
    internal_kv._internal_kv_put(key, b"1", namespace=_NAMESPACE)


class StopWord:
    """Whether a trial was asked to stop; looked up at most twice a second.

    Args:
        key: of the driver's run.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._looked = 0.0
        self._said = False

    def said(self) -> bool:
        """Whether to stop now."""
        now = time.monotonic()
        if not self._said and now - self._looked >= SECONDS_BETWEEN_LOOKS and ray.is_initialized():
            self._looked = now
            self._said = bool(internal_kv._internal_kv_get(self._key, namespace=_NAMESPACE))
        return self._said
