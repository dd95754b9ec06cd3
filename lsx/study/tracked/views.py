"""How MLflow's pages show a study: tags of its experiment that they read.

A saved view has its columns, order and filter in a tag of the experiment; its address opens it, and so does the menu
*Views* of the page. MLflow has no tag for what a page shows by itself: columns beside the standard ones are in views
only.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

NOTE = "mlflow.note.content"
OUR_NOTE = "lsx.note_sha256"
EXPERIMENT = "{experiment}"
"""In a tag's value, stands for the experiment's id, which is known where the tag is delivered."""
TRIALS, FRONT = "lsx-trials", "lsx-front"
NAMES = {TRIALS: "Trials, best first", FRONT: "Pareto front"}
NAME, CREATED, DURATION, DATASET = "attributes.`Run Name`", "runDateAndNestInfo", "duration", "attributes.`Dataset`"
"""Columns that MLflow's table has for itself."""
WIDE, NARROW = 310, 110
"""Pixels: of the names, which tell runs apart, and of everything else."""


def address(view: str = TRIALS, experiment: str = EXPERIMENT) -> str:
    """Of a saved view, below the address of an MLflow server."""
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={view}"


def column(kind: Literal["metrics", "params", "tags"], name: str) -> str:
    """What MLflow's table calls a column."""
    return f"{kind}.`{name}`"


def tags(columns: Sequence[str], descending: bool) -> dict[str, str]:
    """Of the experiment: its kind and its saved views.

    Args:
        columns: from left to right, as :func:`column` names them; the runs are sorted by the first.
        descending: whether more of the first is better.
    """
    trials = "tags.`lsx.trial` != 'none'"
    chosen = {TRIALS: trials, FRONT: f"{trials} and tags.`lsx.front` = 'true'"}
    views = {key: _view(NAMES[key], condition, columns, not descending) for key, condition in chosen.items()}
    return {
        "mlflow.experimentKind": "custom_model_development",
        **{f"mlflow.sharedViewState.{key}": view for key, view in views.items()},
    }


def tracking_tags() -> dict[str, str]:
    """Of a trial's run. MLflow's list of runs unfolds a parent on the first visit if it has runs of this type."""
    return {"mlflow.runType": "evaluation", "mlflow.source.name": "tune.py", "mlflow.source.type": "LOCAL"}


def _view(name: str, condition: str, columns: Sequence[str], ascending: bool) -> str:
    order = [NAME, CREATED, *columns, DATASET, DURATION]
    state: dict[str, Any] = {
        "searchFilter": condition,
        "orderByKey": columns[0],
        "orderByAsc": ascending,
        "selectedColumns": [*columns, DATASET],
        "columnOrder": order,
        "columnWidths": dict.fromkeys(order, NARROW) | {NAME: WIDE},
    }
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def changes(known: Mapping[str, str], wanted: Mapping[str, str], experiment: str) -> dict[str, str]:
    """The tags to set: a description that a person wrote stays.

    Args:
        known: the experiment's tags.
        wanted: new ones.
        experiment: its id.
    """
    found = {key: value.replace(EXPERIMENT, experiment) for key, value in wanted.items()}
    if NOTE in found:
        before = known.get(NOTE, "")
        if before and known.get(OUR_NOTE) != _sum(before):
            del found[NOTE]
        else:
            found[OUR_NOTE] = _sum(found[NOTE])
    return {key: value for key, value in found.items() if known.get(key) != value}


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
