"""Workers between two trials, kept for the next one."""

from collections.abc import Generator, Hashable
from typing import Any

from ray.tune.execution import tune_controller
from ray.tune.utils.object_cache import _ObjectCache


class IdleWorkers(_ObjectCache):
    """Workers by the resources that they hold: all stay while no trial waits that wants other ones.

    Tune's own (Ray 2.60) keeps one at a time. Of two that are through before the next trial is proposed, one would end,
    and its successor take seconds to import what trials need.
    """

    def cache_object(self, key: Hashable, obj: Any) -> bool:
        """Keep a worker; whether it is kept."""
        if self._others_wanted(key):
            kept: bool = super().cache_object(key, obj)
            return kept
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Generator[Any, None, None]:
        """Workers that are to end."""
        if force_all or any(self._others_wanted(key) for key, kept in self._cached_objects.items() if kept):
            yield from super().flush_cached_objects(force_all)

    def _others_wanted(self, key: Hashable) -> bool:
        return any(count > 0 for other, count in self._max_num_objects.items() if other != key)


def keep() -> None:
    """Let Tune keep its workers so, from the next run on."""
    controller: Any = tune_controller
    controller._ObjectCache = IdleWorkers
