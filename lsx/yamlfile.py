"""YAML files as people write them: plain data, each key once, and the line of what is wrong."""

import re
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar

import yaml

from lsx.errors import LSXError

Path = tuple[Hashable, ...]
"""Keys and list indices from the top of a document to a value."""

_TAG = "tag:yaml.org,2002:"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_INTEGER = 2**63
MOST_VALUES = 100_000
"""Values of a document, each as often as aliases repeat it: few bytes of aliases can stand for millions."""


class YAMLFault(LSXError):
    """A text is not YAML, or not plain data.

    Args:
        line: where, from 1.
        reason: what is wrong.
    """

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        self.reason = " ".join(reason.split())
        super().__init__(f"line {line}: {self.reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.line, self.reason)


class _Loader(yaml.SafeLoader):
    """Plain data only; 1e-3 is a number, as in YAML 1.2, and a date is a text."""

    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in _PLAIN
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        # An explicit tag hands any text to a constructor that expects a fitting one.
        try:
            made = super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError, AttributeError) as error:
            kind = node.tag.removeprefix(_TAG)
            text = f"{str(node.value)[:40]!r} is no {kind}"
            raise yaml.constructor.ConstructorError(problem=text, problem_mark=node.start_mark) from error
        if isinstance(made, int) and abs(made) >= _INTEGER:
            text = f"{node.value[:40]} is too large for a whole number"
            raise yaml.constructor.ConstructorError(problem=text, problem_mark=node.start_mark)
        return made


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that :class:`_Loader` would take for numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        f"{_TAG}float",
        re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def load_plain(text: str) -> Any:
    """One YAML document as plain data: dict, list, str, int, float, bool, None.

    Raises:
        YAMLFault: one line; see :func:`load_lines`.
    """
    return load_lines(text)[0]


def load_lines(text: str) -> tuple[Any, dict[Path, int]]:
    """As :func:`load_plain`, with the lines, from 1, on which keys and list items stand.

    Raises:
        YAMLFault: not YAML, a duplicate key, a key that is no text, data that is not plain, an alias inside of its
            own anchor, too many levels or values.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            lines: dict[Path, int] = {}
            for path, line in _walk(node, (), ()):
                lines[path] = line
                if len(lines) > MOST_VALUES:
                    raise YAMLFault(
                        line, f"more than {MOST_VALUES:,} values, aliases counted as often as they stand here"
                    )
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YAMLFault(mark.line + 1 if mark else 1, str(error.problem or error.context)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YAMLFault(line, f"the character {chr(error.character)!r} is not allowed") from None
    except yaml.YAMLError as error:
        raise YAMLFault(1, str(error)) from None
    except RecursionError:
        raise YAMLFault(1, "too many levels stand inside of each other") from None


def dump_plain(data: Any) -> str:
    """Plain data as YAML that :func:`load_plain` reads back to equal data."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False)
    return text


def _walk(node: yaml.Node, path: Path, above: tuple[int, ...]) -> Iterator[tuple[Path, int]]:
    if id(node) in above:
        raise YAMLFault(node.start_mark.line + 1, "an alias stands inside of its own anchor")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _walk(item, (*path, index), above)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YAMLFault(line, "a key must be a text, not a list or a mapping")
            if key.value in seen:
                raise YAMLFault(line, f"{key.value!r} stands here a second time; remove one")
            seen.add(key.value)
            yield (*path, key.value), line
            yield from _walk(value, (*path, key.value), above)
