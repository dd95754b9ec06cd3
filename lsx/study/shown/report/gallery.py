"""Explanations of the same validation images: of the baseline, of the chosen trial stage by stage, of others.

Where the baseline itself is chosen, the next trial of the front is shown stage by stage.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from optuna.trial import FrozenTrial
from torch import Tensor

from lsx import figures
from lsx.config import STAGES, Config
from lsx.figures import Cell
from lsx.metrics.localization import relevance_mass
from lsx.study.environment.places import MAPS
from lsx.study.shown.report.markup import picture, text
from lsx.study.shown.report.subject import LeftOut, Subject
from lsx.study.worker.maps import Arrays, read

AFTER = {"pretrain": "after\npretraining", "joint": "after joint\ntraining", "finetune": "after\nfinetuning"}


class Column(NamedTuple):
    """Explanations (N, C, H, W) under one title, of one kind of explainer: ``own`` or ``reference``."""

    title: str
    maps: dict[str, Tensor]
    predicted: list[int]


def gallery(subject: Subject) -> Iterator[str]:
    """By the reference explainer, which is one for all; and by each trial's own, where that is another."""
    every = [one for one in (subject.first, subject.featured, *subject.best) if one is not None]
    shown = list({one.number: one for one in every}.values())
    files = {one.number: read(subject.file(one, MAPS)) for one in shown}
    known = [one for one in shown if files[one.number]]
    if not known:
        raise LeftOut(
            "No explanations lie in the study's folder: no trial is complete, or they are of a version that kept "
            "pictures only."
        )
    base = files[known[0].number]
    same = [one for one in known if np.array_equal(files[one.number]["index"], base["index"])]
    columns = [column for one in same for column in _columns(one, files[one.number], subject)]
    methods = {one.number: Config.build(one.user_attrs["config"]) for one in same}
    reference = methods[same[0].number].evaluation.reference_explainer
    yield f"<p>By {text(reference)}, the reference explainer, the same for every column.</p>"
    yield _picture("reference", columns, base, f"Explanations of the same validation images by {reference}")
    own = {number: config.explainer.method for number, config in methods.items()}
    if set(own.values()) != {reference}:
        said = ", ".join(f"#{number} {method}" for number, method in own.items())
        yield f"<details><summary>By each trial's own explainer: {text(said)}</summary>"
        yield _picture("own", columns, base, "Explanations of the same images by each trial's own explainer")
        yield "</details>"
    yield f'<p class="quiet">{text(_said(base, len(known) - len(same)))}</p>'


def _columns(trial: FrozenTrial, arrays: Arrays, subject: Subject) -> Iterator[Column]:
    """The featured trial has one for every stage, others have their last."""
    stages = [stage for stage in STAGES if f"reference/{stage}" in arrays]
    featured = trial is subject.featured
    for stage in stages if featured else stages[-1:]:
        title = f"#{trial.number} {AFTER[stage]}" if featured else f"#{trial.number}\n{subject.role(trial) or 'front'}"
        maps = {kind: torch.from_numpy(arrays[f"{kind}/{stage}"]).float() for kind in ("own", "reference")}
        yield Column(title, maps, arrays[f"predicted/{stage}"].tolist())


def _picture(kind: str, columns: list[Column], base: Arrays, caption: str) -> str:
    images = torch.from_numpy(base["images"]).float() / 255
    masks = torch.from_numpy(base["masks"]) if "masks" in base else None
    scaled = [_scaled(column.maps[kind]) for column in columns]
    masses = [None if masks is None else relevance_mass(one, masks).tolist() for one in scaled]
    rows: list[list[Cell | None]] = []
    for row, label in enumerate(base["labels"].tolist()):
        mask = None if masks is None else masks[row]
        cells: list[Cell | None] = [Cell(images[row], f"class {label}", mask, is_map=False)]
        for column, maps, mass in zip(columns, scaled, masses, strict=True):
            wrong = "" if column.predicted[row] == label else f" (says {column.predicted[row]})"
            cells.append(Cell(maps[row], ("" if mass is None else _mass(mass[row])) + wrong, mask))
        rows.append(cells)
    titles = ["input", *(column.title for column in columns)]
    (light, width), (dark, _) = (figures.grid(rows, titles, dark=one) for one in (False, True))
    return picture(light, dark, caption, width)


def _scaled(maps: Tensor) -> Tensor:
    """Every map by its own greatest absolute value; one without any stays as it is."""
    top = maps.flatten(1).abs().amax(dim=1)
    return maps / torch.where(top > 0, top, torch.ones_like(top))[:, None, None, None]


def _mass(value: float) -> str:
    return "mass –" if value != value else f"mass {value:.2f}"


def _said(base: Arrays, others: int) -> str:
    parts = ["Every map is scaled by itself, so that colours compare places and not strengths."]
    if "masks" in base:
        parts.append("Outlined: the confounder; mass: the share of positive relevance inside of it, lower is better.")
    else:
        parts.append("The images have no mask of a confounder, so there is no mass to say.")
    if others:
        parts.append(f"{others} trials are left out, for they were shown other images.")
    return " ".join(parts)
