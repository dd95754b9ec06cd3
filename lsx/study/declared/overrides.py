"""``--set KEY=VALUE``: a study file with some of its values changed, before it is validated."""

import difflib
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from lsx.config import keys, settings
from lsx.errors import StudyError, unknown
from lsx.study.declared.layers import Document
from lsx.study.declared.sections import Budget, Resources, Sampler, Scheduler
from lsx.study.declared.space import Dimension
from lsx.study.declared.yamlines import Fault
from lsx.study.environment.credentials import redacted
from lsx.yamlfile import YAMLFault, load_plain

Place = tuple[str, ...]
Variants = list[Mapping[str, Any]]  # dimensions of one searched key, as a file holds them

SECTIONS: Mapping[str, type[BaseModel]] = {
    "sampler": Sampler,
    "scheduler": Scheduler,
    "budget": Budget,
    "resources": Resources,
}
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})(?:\s*:\s*(?:(log)|step\s*=\s*({_NUMBER})))?")


@dataclass(frozen=True)
class Overridden(Document):
    """A document with overrides laid over it.

    Attributes:
        texts: all overrides, ``KEY=VALUE``.
        given: place in the document to the override that it has its value from.
        emptied: the override that took the last dimension out of the space; None while something is searched, or
            where nothing ever was.
    """

    texts: tuple[str, ...] = ()
    given: Mapping[Place, str] = field(default_factory=dict)
    emptied: str | None = None

    def explained(self, fault: Fault) -> StudyError:
        """A fault found later: with the override whose value it falls on, or else with all that may have caused it."""
        places = [place for place in self.given if fault.path[: len(place)] == place]
        if places:
            return _refused(self.given[max(places, key=len)], fault.message)
        if not self.texts:
            return fault
        return Fault(fault.path, f"{fault.message}; with {' '.join(map(_quoted, self.texts))}", fault.label)

    def check_left(self, references: int, trials: int) -> None:
        """Refuse an emptied space where other ``trials`` than just the ``references`` are to run.

        Raises:
            StudyError: one line, with the override that emptied the space.
        """
        if self.emptied is None or references == trials:
            return
        if not references:
            raise _refused(self.emptied, "leaves nothing to search, and the study has no reference trials to run")
        reason = f"leaves nothing to search; budget.trials {trials} must then be the {references} reference trials"
        raise _refused(self.emptied, f"{reason}: --set budget.trials={references}")


def overridden(document: Document, overrides: Sequence[str]) -> Overridden:
    """The document with overrides laid over it, one after the other; what is changed is not validated yet.

    An override is ``KEY=VALUE``. KEY is a key of Config, a key of sampler, scheduler, budget or resources
    (``budget.trials``), or ``name`` or ``repeats``. ``seed`` is Config's; the study's own is ``study.seed``, and
    ``study.name`` and ``study.repeats`` are valid too. VALUE is YAML, and for a key of Config one of:

    - a value, or a list where the setting holds one (``stages``): it is fixed. ``true`` and ``false`` are texts.
    - ``LOW..HIGH``, ``LOW..HIGH:log`` or ``LOW..HIGH:step=STEP``, of a number: it is searched between these bounds.
      A dimension that it has keeps all but its bounds (``log``, ``step``, ``points``, ``when``); a given ``log`` or
      ``step`` replaces the other one.
    - a list ``[a, b]``, where the setting holds no list: it is searched among these choices; ``when`` is kept.
    - a mapping ``{low: 1, high: 9, log: true}`` or a list of mappings: its dimensions, whole, as a file has them;
      ``type`` may be left out.

    Where a key has several dimensions with ``when``, a range or choices replace them all by one without condition;
    its range is logarithmic where all of them were.

    A fixed setting leaves the space, and conditions on it are decided: they go where they are met, and with their
    dimensions where not. Where choices or bounds become fewer, values of conditions that cannot be had any more go too.
    Reference trials keep their own settings.

    Args:
        document: normal, its profile laid over it.
        overrides: in order; a later one finds what the earlier ones left.

    Raises:
        StudyError: one line, ``--set KEY=VALUE: reason``.
    """
    changed = Overridden(document.content, document.lines)
    for text in overrides:
        try:
            changed = _applied(changed, text)
        except YAMLFault as fault:
            raise _refused(text, fault.reason) from None
        except StudyError as error:
            raise _refused(text, str(error)) from None
    return replace(changed, texts=tuple(overrides))


def _quoted(text: str) -> str:
    return f"--set {redacted(' '.join(text.split()))}"


def _refused(text: str, reason: str) -> StudyError:
    return StudyError(f"{_quoted(text)}: {redacted(reason)}")


def _applied(document: Overridden, text: str) -> Overridden:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not key or not equals:
        raise StudyError("must be KEY=VALUE, such as loss.lambda_e=10 or loss.lambda_e=1..100")
    place = _places().get(key)
    if place is None:
        raise StudyError(_unknown(key))
    if place[0] == "settings":
        return _set(document, key, value, text)
    content, plain = dict(document.content), load_plain(value)
    if len(place) == 1:
        content[place[0]] = plain
    else:
        content[place[0]] = {**content.get(place[0], {}), place[1]: plain}
    return replace(document, content=content, given={**document.given, place: text})


@functools.cache
def _places() -> dict[str, Place]:
    """Every valid KEY, and where in a document it stands."""
    return {
        **{key: ("settings", key) for key in keys()},
        **{f"{name}.{key}": (name, key) for name, model in SECTIONS.items() for key in model.model_fields},
        **{name: (name,) for name in ("name", "repeats")},
        **{f"study.{name}": (name,) for name in ("name", "repeats", "seed")},
    }


def _unknown(key: str) -> str:
    """One line; of the many valid keys those beside the nearest one, or what they begin with."""
    names = list(_places())
    below = [name for name in names if name.startswith(f"{key}.")]
    if below:
        return f"{key!r} is a section; name one of its settings, such as {below[0]!r}"
    sections = {name.rpartition(".")[0] for name in names}
    section = key.rpartition(".")[0]
    if section not in sections - {""}:
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
        section = near[0].rpartition(".")[0] if near else ""
    valid = [name for name in names if name.rpartition(".")[0] == section]
    return unknown("setting", key, valid if section else [*valid, *(f"{one}.*" for one in sections if one)])


def _set(document: Overridden, key: str, value: str, text: str) -> Overridden:
    """The document with a setting of Config fixed or searched."""
    fixed, space = dict(document.content.get("settings", {})), dict(document.content.get("space", {}))
    old = list(space.get(key, ()))
    value, new = _read(key, value, old)
    if new is None:
        fixed[key] = value
        space.pop(key, None)
        _follow(space, key, old, [{"type": "categorical", "choices": [value]}], fixed=True)
    else:
        fixed.pop(key, None)
        space[key] = new
        _follow(space, key, old, new)
    lines = document.lines
    for other, variants in document.content.get("space", {}).items():
        if len(space.get(other, ())) < len(variants):  # what is left stands in another row of its list
            for index in range(len(variants)):
                lines = lines.without(("space", other, index))
    given = {place: one for place, one in document.given.items() if place not in (("settings", key), ("space", key))}
    emptied = None if space else text if document.content.get("space") else document.emptied
    content = {**document.content, "settings": fixed, "space": space}
    given[("settings" if new is None else "space", key)] = text
    return replace(document, content=content, lines=lines, given=given, emptied=emptied)


def _read(key: str, text: str, old: Variants) -> tuple[Any, Variants | None]:
    """VALUE as (value, None) of a fixed setting, or (None, dimensions) of a searched one."""
    kind = _kind(settings()[key].annotation)
    if kind in (int, float) and ".." in text and text[0] not in "[{":
        return None, [_range(text, kind, old)]
    value = load_plain(text)
    several = isinstance(value, list) and any(isinstance(one, Mapping) for one in value)
    if kind is tuple:
        if several or isinstance(value, Mapping):
            raise StudyError("a setting that holds a list cannot be searched; valid: a list such as [pretrain, joint]")
        return value if isinstance(value, list) or value is None else [value], None
    if isinstance(value, Mapping):
        return None, [_dimension(value, kind)]
    if several:
        return None, [_dimension(one, kind) for one in value]
    if isinstance(value, list):
        choices = [_written(one, str(one).lower()) if kind is str else one for one in value]
        return None, [{**_kept(old, "when"), "type": "categorical", "choices": choices}]
    return _written(value, text) if kind is str else value, None


def _written(value: Any, text: str) -> Any:
    """YAML reads ``true`` as a truth value, which no setting of Config is; some are this very text."""
    return text if isinstance(value, bool) else value


def _kind(annotation: Any) -> Any:
    """int, float, str, or tuple, of what a field of Config holds when it is not None."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return str
    if origin in (Union, UnionType):
        return _kind(next(one for one in inner if one is not type(None)))
    return _kind(inner[0]) if origin is Annotated else origin or annotation


def _kept(old: Variants, *names: str) -> dict[str, Any]:
    """What a single dimension hands on to the one that replaces it."""
    return {name: old[0][name] for name in names if name in old[0]} if len(old) == 1 else {}


def _range(text: str, kind: type, old: Variants) -> dict[str, Any]:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise StudyError(f"{text!r} is no range of numbers; valid: LOW..HIGH, LOW..HIGH:log or LOW..HIGH:step=STEP")
    low, high, log, step = (one and load_plain(one) for one in found.groups())
    kept = _kept(old, "log", "step", "points", "when")
    if len(old) > 1 and all(one.get("log") for one in old):
        kept["log"] = True
    for name in ("step",) * bool(log) + ("log", "points") * bool(step is not None):
        kept.pop(name, None)
    numbers = {"low": low, "high": high} | ({"step": step} if step is not None else {})
    whole = all(float(one).is_integer() for one in numbers.values() if isinstance(one, int | float))
    if whole and (kind is int or (old and all(one.get("type") == "int" for one in old))):
        kind, numbers = int, {name: int(one) for name, one in numbers.items()}
    return {**kept, **({"log": True} if log else {}), **numbers, "type": kind.__name__}


def _dimension(given: Any, kind: type) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise StudyError(f"{given!r} is no dimension; valid: a mapping such as {{low: 0, high: 1}}")
    if "type" in given:
        return given
    if "choices" not in given and kind not in (int, float):
        raise StudyError("the setting is no number; valid: choices, such as [a, b] or {choices: [a, b]}")
    return {"type": "categorical" if "choices" in given else kind.__name__, **given}


def _follow(space: dict[str, Variants], key: str, old: Variants, new: Variants, *, fixed: bool = False) -> None:
    """Adapt the conditions on a key whose dimensions were ``old`` and are ``new``, and what depends on these."""

    def gone(value: Any) -> bool:
        return not _can_be(new, value) and (fixed or _can_be(old, value))

    for other in [other for other in space if other != key]:
        variants = space.get(other, [])  # empty where a condition on another key took it away meanwhile
        left = [one for one in (_conditioned(one, key, gone, fixed=fixed) for one in variants) if one is not None]
        if left:
            space[other] = left
        else:
            space.pop(other, None)
        if len(left) < len(variants):
            _follow(space, other, variants, left)


def _conditioned(
    dimension: Mapping[str, Any], key: str, gone: Callable[[Any], bool], *, fixed: bool
) -> Mapping[str, Any] | None:
    """A dimension without the values of its condition on ``key`` that are gone; None where none is left."""
    when = dimension.get("when")
    if not isinstance(when, Mapping) or key not in when:
        return dimension
    values = when[key] if isinstance(when[key], list | tuple) else [when[key]]
    left = [value for value in values if not gone(value)]
    if not left:
        return None
    conditions = {other: values for other, values in when.items() if other != key} | ({} if fixed else {key: left})
    return {**dimension, "when": conditions}


def _can_be(variants: Variants, value: Any) -> bool:
    for one in variants:
        try:
            if Dimension.model_validate(one).contains(value):
                return True
        except ValidationError:  # found again, and told, when the study is validated
            continue
    return False
