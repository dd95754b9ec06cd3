"""Training curves of the baseline and the best trials, stage by stage, as their workers kept them."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from lsx.config import STAGES, Stage
from lsx.study.environment.places import DONE
from lsx.study.shown.report.charts import BASELINE, FRONT, OTHERS, styled
from lsx.study.shown.report.markup import label, plot, readable, text
from lsx.study.shown.report.subject import LeftOut, Subject
from lsx.study.worker import repeats

Row = dict[str, Any]

SHOWN = ("validation_accuracy", "classification_loss", "critic_loss_last_to_chance", "explanation_loss")
"""Metrics of an epoch; the others follow from them, or say nothing about learning."""
NAMES = {"critic_loss_last_to_chance": "critic loss / chance"}
TITLES = {"pretrain": "pretraining", "joint": "joint training", "finetune": "finetuning"}
CHANCE = "critic_loss_last_to_chance"


class Curves(NamedTuple):
    """Of one trial: a list of rows (``stage``, ``position``, ``metrics``) for every seed."""

    title: str
    color: str
    seeds: list[list[Row]]


def curves(subject: Subject) -> Iterator[str]:
    """A panel for every metric and stage that has it."""
    found = [one for one in _all(subject) if one.seeds]
    if not found:
        raise LeftOut(
            "No curves lie in the study's folder: no trial is complete, or they are of a version that kept them in "
            "MLflow only."
        )
    yield _legend(found)
    every = [row for one in found for rows in one.seeds for row in rows]
    drawn = []
    for metric in SHOWN:
        for stage in STAGES:
            if any(row["stage"] == stage and metric in row["metrics"] for row in every):
                name = f"{readable(NAMES.get(metric, metric))}, {TITLES[stage]}"
                figure = _panel(found, metric, stage, name)
                drawn.append(plot(f"curves-{metric}-{stage}", figure, height=230, caption=name))
    yield f'<div class="several small">{"".join(drawn)}</div>'
    if subject.spec.repeats > 1:
        yield f'<p class="quiet">Thick: mean of {subject.spec.repeats} seeds; thin: each of them.</p>'
    if any(CHANCE in row["metrics"] for row in every):
        yield '<p class="quiet">A critic whose loss stays at chance (1) learned nothing: it taught nothing.</p>'


def _all(subject: Subject) -> Iterator[Curves]:
    """The chosen trial, the baseline, and a few others of the front, in the colours that they have elsewhere."""
    if subject.chosen is not None and subject.role(subject.chosen) == "chosen":
        yield Curves(subject.title(subject.chosen), FRONT, _read(subject.chosen, subject))
    if subject.first is not None:
        yield Curves(subject.title(subject.first), BASELINE, _read(subject.first, subject))
    for trial, color in zip(subject.best, OTHERS, strict=False):
        yield Curves(subject.title(trial), color, _read(trial, subject))


def _read(trial: FrozenTrial, subject: Subject) -> list[list[Row]]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(subject.file(trial, DONE).read_text())
        return [one["curves"] for one in known["done"] if one["curves"]]
    return []


def _panel(found: list[Curves], metric: str, stage: Stage, name: str) -> go.Figure:
    figure = go.Figure()
    for one in found:
        if len(one.seeds) > 1:
            for rows in one.seeds:
                figure.add_trace(_line(rows, metric, stage, one, {"width": 1}, opacity=0.35, hoverinfo="skip"))
        mean = repeats.mean_curves(one.seeds) if len(one.seeds) > 1 else one.seeds[0]
        figure.add_trace(_line(mean, metric, stage, one, {"width": 2.2}))
    if metric == CHANCE:
        figure.add_hline(y=1, line={"color": "#8a8f98", "width": 1, "dash": "dot"})
    figure.update_layout(showlegend=False, title=None)
    figure.add_annotation(text=f"<b>{label(name)}</b>", xref="paper", yref="paper", x=0, y=1.14, showarrow=False)
    figure.update_xaxes(title={"text": "epoch of the stage", "standoff": 6}, rangemode="tozero")
    return styled(figure, t=34, l=48, b=42)


def _line(rows: list[Row], metric: str, stage: Stage, one: Curves, line: dict[str, Any], **more: Any) -> go.Scatter:
    """The epochs of a stage are counted from its beginning."""
    earlier = STAGES[: STAGES.index(stage)]
    before = max((row["position"] for row in rows if row["stage"] in earlier), default=0)
    there = [row for row in rows if row["stage"] == stage and metric in row["metrics"]]
    points = [(row["position"] - before, row["metrics"][metric]) for row in there]
    template = {} if "hoverinfo" in more else {"hovertemplate": f"{label(one.title)}: %{{y:.4g}}<extra></extra>"}
    return go.Scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        mode="lines+markers" if len(points) < 12 and not more else "lines",
        line={**line, "color": one.color},
        marker={"size": 5},
        **template,
        **more,
    )


def _legend(found: list[Curves]) -> str:
    keys = "".join(f'<span><i style="background:{one.color}"></i>{text(one.title)}</span>' for one in found)
    return f'<p class="legend">{keys}</p>'
