"""Optuna's own plots of a study, in the report's colours: history, importances, parallel coordinates, timeline."""

import math
from collections.abc import Iterator
from typing import Any

import optuna.visualization as optuna_plots
import plotly.graph_objects as go
from optuna.trial import TrialState
from plotly.colors import sequential, unlabel_rgb

from lsx.study.shown.report.charts import (
    BASELINE,
    FRONT,
    INFEASIBLE,
    MOST_ROWS,
    OTHERS,
    TRIAL,
    axis,
    blended,
    hover,
    rows,
    styled,
)
from lsx.study.shown.report.drawable import drawable
from lsx.study.shown.report.markup import label, plot, readable
from lsx.study.shown.report.subject import STATES, LeftOut, Subject

TIMES = {"COMPLETE": TRIAL, "INFEASIBLE": INFEASIBLE, "PRUNED": "#e0a526", "FAIL": "#d64545", "RUNNING": "#8b6fd1"}
"""Colours by Optuna's names of a state."""
BLUES = sequential.Blues
"""Optuna's scale of parallel coordinates."""


def history(subject: Subject) -> Iterator[str]:
    """Every objective as trials came, with the best so far; of several objectives, the hypervolume too."""
    if not subject.complete:
        raise LeftOut("No trial is complete, so there is no history.")
    drawn = []
    for index, one in enumerate(subject.spec.objectives):
        figure = optuna_plots.plot_optimization_history(drawable(subject, [index]), target_name=axis(one))
        names = {0: "trial", 1: "best so far", 2: "outside of the constraints"}
        styles: tuple[dict[str, Any], ...] = (
            {"marker": {"color": TRIAL, "size": 8}},
            {"line": {"color": FRONT, "width": 2}},
            {"marker": {"color": INFEASIBLE, "size": 8}, "showlegend": bool(subject.spec.constraints)},
        )
        for place, (trace, style) in enumerate(zip(figure.data, styles, strict=True)):
            trace.update(name=names[place], **style)
            if place != 1:
                hover(trace, subject, trace.x)
        drawn.append(plot(f"history-{index}", styled(figure), height=320, caption=f"History of {readable(one.metric)}"))
    if len(subject.spec.objectives) > 1:
        worst, whole = _worst(subject)
        figure = optuna_plots.plot_hypervolume_history(drawable(subject), worst)
        figure.update_traces(line={"color": FRONT, "width": 2}, marker={"color": FRONT})
        figure.data[0].y = [value / whole for value in figure.data[0].y]
        figure.update_layout(yaxis_title="hypervolume ↑", xaxis_tickformat="d")
        drawn.append(plot("history-hypervolume", styled(figure), height=320, caption="History of the hypervolume"))
    yield f'<div class="several">{"".join(drawn)}</div>'
    if len(subject.spec.objectives) > 1:
        yield (
            '<p class="quiet">Hypervolume: the share that the front dominates of the box between the best value of '
            "each objective and a point a tenth of the range beyond the worst.</p>"
        )


def importances(subject: Subject) -> Iterator[str]:
    """Which settings moved which objective, by PED-ANOVA, Optuna's own default, which covers conditional settings."""
    searched = [trial for trial in subject.complete if trial.params]
    if len(searched) < 2:
        raise LeftOut("Importances need two complete trials with searched settings.")
    figure = optuna_plots.plot_param_importances(drawable(subject))
    if not figure.data:
        raise LeftOut("No setting was searched, so none has an importance.")
    for trace, color in zip(figure.data, (FRONT, BASELINE, *OTHERS), strict=False):
        trace.marker.color = color
    names = {name for trace in figure.data for name in trace.y}
    longest = max(map(len, names), default=0)
    figure.update_layout(bargap=0.35, xaxis_title="importance", yaxis_title=None, xaxis_rangemode="tozero")
    figure.update_yaxes(automargin=True, categoryorder="total ascending")
    height = rows(len(names) * len(figure.data))
    caption = "Importance of every searched setting for every objective"
    yield plot("importances", styled(figure), height=height, caption=caption, width=320 + 6 * longest)
    yield (
        f'<p class="quiet">PED-ANOVA over {len(searched)} complete trials with searched settings: how much a setting '
        "decides whether a trial is among the best. With few trials it is a hint.</p>"
    )


def parallel(subject: Subject) -> Iterator[str]:
    """Every complete trial as a line through objectives and settings."""
    names = {name for trial in subject.complete for name in trial.params}
    if not names:
        raise LeftOut("No complete trial has searched settings.")
    study = drawable(subject)
    aims = subject.spec.objectives
    name = label(readable(aims[0].metric))
    named: dict[str, Any] = {} if len(aims) > 1 else {"target_name": name}
    figure = optuna_plots.plot_parallel_coordinate(study, None, **named)
    figure.update_traces(selector={"mode": "lines"}, opacity=0.8, line_width=1.6)
    _recoloured(figure)
    figure.update_layout(plot_bgcolor=None, xaxis_tickangle=-25)
    figure.update_annotations(font={"color": None, "size": 11})
    heads = [*(label(readable(one.metric)) for one in aims), *sorted(map(label, names))]
    figure.update_xaxes(automargin=True, ticktext=heads)  # Optuna's own are cut
    figure.for_each_trace(lambda one: one.update(line_color=INFEASIBLE), selector={"showlegend": True})
    caption = "Objectives and settings of every complete trial"
    yield plot("parallel", styled(figure, t=64), height=460, caption=caption, width=125 * len(heads))
    what = "Lines are coloured by " + ("Pareto rank, 0 being the front" if len(aims) > 1 else "the objective")
    dotted = "; dotted: outside of the constraints" if subject.spec.constraints else ""
    yield f'<p class="quiet">{what}{dotted}. None: a trial without the setting.</p>'


def timeline(subject: Subject) -> Iterator[str]:
    """When every trial ran, by how it ended."""
    if all(trial.state == TrialState.WAITING for trial in subject.trials):
        raise LeftOut("No trial has begun.")
    figure = optuna_plots.plot_timeline(drawable(subject))
    figure.data = [trace for trace in figure.data if trace.name != "WAITING"]
    for trace in figure.data:
        state = trace.name
        name = "outside of the constraints" if state == "INFEASIBLE" else STATES.get(state.lower(), state.lower())
        trace.update(name=name, marker_color=TIMES.get(state, INFEASIBLE))
        hover(trace, subject, trace.y)
    figure.update_layout(xaxis_title=None, bargap=0.25)
    figure.update_yaxes(autorange="reversed", dtick=max(1, math.ceil(len(subject.trials) / MOST_ROWS)))
    caption = "When every trial ran, and how it ended"
    yield plot("timeline", styled(figure), height=rows(len(subject.trials)), caption=caption)
    yield '<p class="quiet">From its first start to its end, interruptions included.</p>'


def _worst(subject: Subject) -> tuple[list[float], float]:
    """A point that every complete trial dominates, and the volume of the box from there to the best values."""
    worst, volume = [], 1.0
    for index, one in enumerate(subject.spec.objectives):
        values = [trial.values[index] for trial in subject.complete]
        low, high = min(values), max(values)
        beyond = 0.1 * (high - low) or 1e-6
        worst.append(low - beyond if one.direction == "maximize" else high + beyond)
        volume *= high - low + beyond
    return worst, volume


def _recoloured(figure: go.Figure) -> None:
    """Optuna's scale of blues is made for a white page: the same places on a scale that is seen on a dark one, too."""
    for trace in figure.data:
        if trace.mode == "lines" and not trace.showlegend:
            trace.line.color = blended(_place(trace.line.color))
        elif trace.mode == "markers":
            trace.marker.colorscale = [[0, blended(0)], [1, blended(1)]]


def _place(color: str) -> float:
    """Of a colour on Optuna's scale, 0–1: its red falls all along."""
    red = [unlabel_rgb(one)[0] for one in (BLUES[0], color, BLUES[-1])]
    return float((red[0] - red[1]) / (red[0] - red[2]))
