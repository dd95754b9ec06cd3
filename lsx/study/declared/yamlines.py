"""YAML that knows on which line each key stands, so that a fault can name its place."""

from collections.abc import Hashable, Iterable
from typing import Any, Self

from lsx.errors import StudyError
from lsx.yamlfile import Path, YAMLFault, load_lines


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
        StudyError: see :func:`lsx.yamlfile.load_lines`; ``line: reason``.
    """
    try:
        data, lines = load_lines(text)
    except YAMLFault as fault:
        raise StudyError(f"{fault.line}: {fault.reason}") from None
    return data, Lines(lines)
