"""Named things that a user can add to without editing the package."""

import importlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from lsx.errors import ConfigError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing (model, explainer, dataset, ...).

    A name is registered with a decorator, or given as ``package.module:attribute``,
    which is imported on use: that form also works in worker processes and in
    YAML files.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters its object under ``name``.

        Raises:
            ConfigError: ``name`` is taken by another object.
        """

        def enter(entry: T) -> T:
            if self._entries.get(name, entry) is not entry:
                raise ConfigError(f"{self.kind} {name!r} is registered already; choose another name")
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """The entry of that name.

        Raises:
            ConfigError: no such name, or its module or attribute cannot be imported.
        """
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            return self._import(name)
        raise ConfigError(unknown(self.kind, name, self._entries))

    def _import(self, name: str) -> T:
        module, _, attribute = name.partition(":")
        if module.startswith("."):
            raise ConfigError(f"{self.kind} {name!r} cannot be imported: write the package before the first dot")
        try:
            entry: T = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{self.kind} {name!r} cannot be imported: {error}") from None
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries
