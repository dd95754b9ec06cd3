"""A study file before validation: brought into its normal form, with a profile laid over it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lsx.config import flatten
from lsx.errors import unknown
from lsx.study.declared.yamlines import Fault, Lines

BY_KEY = ("settings", "reference_trials", "scheduler", "sampler", "budget", "resources", "space")


@dataclass(frozen=True)
class Document:
    """A study's content and the lines on which it stands."""

    content: dict[str, Any]
    lines: Lines


def normal(content: Any, lines: Lines, *, at: tuple[str, ...] = ()) -> Document:
    """Dotted keys for settings, a list of dimensions for each searched key; sections without content left out.

    Args:
        content: what the file, or one of its profiles, holds.
        lines: of the whole file.
        at: where in the file ``content`` stands.

    Raises:
        Fault: ``content``, or a section that has keys, is not a mapping; or a searched key has something else than
            dimensions.
    """
    if not isinstance(content, Mapping):
        raise Fault(at, f"must be a mapping of keys to values, not {content!r}")
    content = {str(key): value for key, value in content.items() if value is not None}
    for section in (*BY_KEY, "profiles"):
        if not isinstance(content.get(section, {}), Mapping):
            raise Fault((*at, section), f"must be a mapping of keys to values, not {content[section]!r}")
    if "settings" in content:
        content["settings"] = flatten(content["settings"])
        lines = lines.dotted((*at, "settings"))
    if "reference_trials" in content:
        content["reference_trials"], lines = _references(content["reference_trials"], lines, at)
    if "space" in content:
        content["space"] = {
            str(key): _dimensions(value, (*at, "space", str(key))) for key, value in content["space"].items()
        }
    return Document(content, lines)


def _references(trials: Mapping[str, Any], lines: Lines, at: tuple[str, ...]) -> tuple[dict[str, Any], Lines]:
    flat: dict[str, Any] = {}
    for name, settings in trials.items():
        path = (*at, "reference_trials", str(name))
        if not isinstance(settings, Mapping | None):
            raise Fault(path, f"must be a mapping of settings, not {settings!r}")
        # None takes a trial away, in a profile; in the file itself it is one without settings of its own.
        flat[str(name)] = None if settings is None and at else flatten(settings or {})
        lines = lines.dotted(path)
    return flat, lines


def _dimensions(value: Any, path: tuple[str, ...]) -> Any:
    variants = [value] if isinstance(value, Mapping) else value
    if variants is None and path[0] == "profiles":  # takes the searched key away
        return None
    if not isinstance(variants, list | tuple) or not all(isinstance(one, Mapping) for one in variants):
        raise Fault(
            path, f"must be a mapping such as {{type: float, low: 0, high: 1}}, or a list of these, not {value!r}"
        )
    return variants


def with_profile(document: Document, name: str | None) -> Document:
    """The file with one of its profiles laid over it, and without the others.

    Sections are merged key by key; a searched key is replaced whole; ``null`` takes
    a searched key or a reference trial away. Lists and texts are replaced.

    Raises:
        Fault: no such profile, or one with a name or profiles of its own.
    """
    content = dict(document.content)
    profiles = content.pop("profiles", {})
    if name is None:
        return Document(content, document.lines)
    if name not in profiles:
        raise Fault(("profiles",), unknown("profile", name, map(str, profiles)), "")
    at = ("profiles", name)
    for key in ("name", "profiles"):
        if isinstance(profiles[name], Mapping) and key in profiles[name]:
            raise Fault((*at, key), f"a profile has no {key} of its own")
    over = normal(profiles[name] or {}, document.lines, at=at)
    lines = over.lines
    for section, value in over.content.items():
        gone = [("space", key) for key in value] if section == "space" else [(section,)] * (section not in BY_KEY)
        for path in gone:
            lines = lines.without(path)
        content[section] = _merged(content.get(section), value, section)
    return Document(content, lines.moved(at, ()))


def _merged(base: Any, over: Any, section: str) -> Any:
    if section not in BY_KEY:
        return over
    merged = dict(base or {})
    for key, value in over.items():
        if value is None and section in ("space", "reference_trials"):
            merged.pop(key, None)
        elif section == "reference_trials":
            merged[key] = {**merged.get(key, {}), **value}
        else:
            merged[key] = value
    return merged
