"""YAML that knows on which line each key stands, so that a fault can name its place."""

import re
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Self

import yaml

from lsx.errors import StudyError

Path = tuple[Hashable, ...]
"""Keys and list indices from the top of a document to a value."""


class Fault(StudyError):
    """Something wrong at one place of a study.

    Args:
        path: the place.
        message: what is wrong, the value, what is valid.
        label: the place as people read it; the path with dots by default.
    """

    def __init__(self, path: Iterable[Hashable], message: str, label: str | None = None) -> None:
        self.path = tuple(path)
        self.message = message
        self.label = ".".join(map(str, self.path)) if label is None else label
        super().__init__(f"{self.label}: {message}" if self.label else message)


class _Loader(yaml.SafeLoader):
    """Plain data only; 1e-3 is a number, as in YAML 1.2, and not the text that YAML 1.1 makes of it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class Lines:
    """Line numbers, from 1, of the keys and list items of a document."""

    def __init__(self, lines: dict[Path, int]) -> None:
        self._lines = lines

    def nearest(self, path: Iterable[Hashable]) -> int:
        """Line of the longest beginning of ``path`` that stands in the document; 1 if none does.

        A list index that the document lacks is passed over: one item may stand there without its list.
        """
        found: Path = ()
        for part in path:
            if (*found, part) in self._lines:
                found = (*found, part)
            elif not isinstance(part, int):
                break
        return self._lines.get(found, 1)

    def moved(self, path: Path, onto: Path) -> Self:
        """What stands under ``path`` stands under ``onto`` too, in front of what had the same key there."""
        size = len(path)
        return type(self)(
            self._lines | {(*onto, *key[size:]): line for key, line in self._lines.items() if key[:size] == path}
        )

    def without(self, path: Path) -> Self:
        """All but ``path`` and what stands under it."""
        return type(self)({key: line for key, line in self._lines.items() if key[: len(path)] != path})

    def dotted(self, path: Path) -> Self:
        """Nested keys under ``path`` as one dotted key each, as Config's flat settings have them."""
        size = len(path)
        return type(self)(
            {
                (*path, ".".join(map(str, key[size:]))) if key[:size] == path and len(key) > size else key: line
                for key, line in self._lines.items()
            }
        )


def parse(text: str) -> tuple[Any, Lines]:
    """A YAML document as plain data, with its lines.

    Raises:
        StudyError: not YAML, a duplicate key, or an alias inside of its own anchor; ``line: reason``.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines = dict(_walk(node, (), ())) if node is not None else {}
        data = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise StudyError(f"{mark.line + 1 if mark else 1}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise StudyError(f"1: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()
    return data, Lines(lines)


def _walk(node: yaml.Node, path: Path, above: tuple[int, ...]) -> Iterator[tuple[Path, int]]:
    if id(node) in above:
        raise StudyError(f"{node.start_mark.line + 1}: an alias stands inside of its own anchor")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _walk(item, (*path, index), above)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise StudyError(f"{line}: {key.value!r} stands here a second time; remove one")
            seen.add(str(key.value))
            yield (*path, str(key.value)), line
            yield from _walk(value, (*path, str(key.value)), above)
