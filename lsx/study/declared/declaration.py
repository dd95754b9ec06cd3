"""What a study was declared like, and whether it may go on when it is declared otherwise."""

from collections.abc import Mapping
from typing import Any

from lsx.config import flatten

DECIDING = ("space", "objectives", "constraints", "repeats", "scheduler", "sampler", "seed")
FREE = ("constraints", "scheduler", "sampler")
"""Sections that may change between two runs of a study: they decide which trials come, or count, not what they give."""


def compatible(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether trials of a study that was declared like ``old`` stand beside those of one declared like ``new``.

    Sections of :data:`FREE` may change, reference trials may be added, and the bounds of a searched number may move.
    """
    return not difference(_binding(old), _binding({**new, "reference_trials": _known(old, new)}))


def _binding(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint without what may change."""
    free = ("low", "high", "step", "points")
    space = {
        key: [{name: value for name, value in one.items() if name not in free} for one in variants]
        for key, variants in fingerprint["space"].items()
    }
    return {key: value for key, value in fingerprint.items() if key not in FREE} | {"space": space}


def _known(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Of the new reference trials, those that the old study has."""
    return {name: own for name, own in new["reference_trials"].items() if name in old["reference_trials"]}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, one readable line each; empty when nothing does."""
    before, after = flatten(old), flatten(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            lines.append(f"{key}: {before[key]} was taken out")
        elif key not in before:
            lines.append(f"{key}: {after[key]} is new")
        elif before[key] != after[key]:
            lines.append(f"{key}: {before[key]} became {after[key]}")
    return lines
