"""The Pareto front: Optuna's plot with the baseline, the chosen trial and intervals; a ranking for one objective."""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import optuna
import optuna.visualization as optuna_plots
import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from lsx.study.declared.sections import Objective
from lsx.study.shown import results
from lsx.study.shown.report.charts import BASELINE, FRONT, INFEASIBLE, MOST_ROWS, TRIAL, axis, hover, rows, styled
from lsx.study.shown.report.drawable import drawable
from lsx.study.shown.report.markup import label, plot, readable, rich_table
from lsx.study.shown.report.subject import LeftOut, Subject
from lsx.study.worker import repeats


def front(subject: Subject) -> Iterator[str]:
    """All complete trials by their objectives, the front, baseline and intervals; the front as a table."""
    if not subject.complete:
        raise LeftOut("No trial is complete, so there is no front.")
    aims = subject.spec.objectives
    if len(aims) == 1:
        yield plot("front", _ranking(subject), height=rows(len(subject.complete)), caption="Trials by their objective")
    else:
        study = drawable(subject)
        pairs = list(combinations(range(len(aims)), 2))
        drawn = []
        for x, y in pairs:
            name = "front" if len(pairs) == 1 else f"front-{x}-{y}"
            caption = f"Pareto front: {readable(aims[x].metric)} and {readable(aims[y].metric)} of all complete trials"
            figure = _pair(subject, study, x, y, joined=len(aims) == 2)
            drawn.append(plot(name, figure, height=430 if len(pairs) == 1 else 360, caption=caption))
        yield drawn[0] if len(pairs) == 1 else f'<div class="several">{"".join(drawn)}</div>'
    seeds = subject.spec.repeats
    yield f'<p class="quiet">Bars are 95 % intervals over {seeds} seeds.</p>' if seeds > 1 else ""
    if subject.chosen is not None:
        table = results.table(subject.past.study, subject.spec)
        table.title = None
        yield rich_table(table)
        tested = any("test" in trial.user_attrs for trial in subject.front)
        yield '<p class="quiet">← chosen' + ("; second line of a cell: on test images" if tested else "") + ".</p>"


def _pair(subject: Subject, study: optuna.Study, x: int, y: int, *, joined: bool) -> go.Figure:
    """Optuna's front in two of the objectives."""
    aims = subject.spec.objectives
    figure = optuna_plots.plot_pareto_front(
        study,
        targets=lambda trial: [trial.values[x], trial.values[y]],
        target_names=[axis(aims[x]), axis(aims[y])],
    )
    for trace in figure.data:
        kind = re.sub(r".*<extra>(.*)</extra>", r"\1", trace.hovertemplate)
        numbers = _numbers(trace)
        color = {"Best Trial": FRONT, "Infeasible Trial": INFEASIBLE}.get(kind, TRIAL)
        name = {"Best Trial": "Pareto front", "Infeasible Trial": "outside of the constraints"}.get(kind, "trial")
        trace.marker = {"color": color, "size": 10 if kind == "Best Trial" else 8}
        trace.update(name=name, showlegend=bool(numbers))
        hover(trace, subject, numbers)
        _intervals(trace, subject, numbers, color, {"x": x, "y": y})
    if joined and subject.front:
        figure.add_trace(_reached(subject))
    _mark(figure, subject, x, y)
    return styled(figure)


def _numbers(trace: Any) -> list[int]:
    """Which trials Optuna has put into a trace, as its own hover texts say."""
    return [int(found[1]) for one in trace.text or () if (found := re.search(r'"number": (\d+)', one))]


def _intervals(trace: Any, subject: Subject, numbers: list[int], color: str, axes: Mapping[str, int]) -> None:
    """Bars over the seeds, where there are several."""
    if subject.spec.repeats == 1:
        return
    for name, index in axes.items():
        halves = [_half(subject.trials[one], subject.spec.objectives[index]) for one in numbers]
        bar = {"type": "data", "array": halves, "color": color, "thickness": 1, "width": 3}
        trace.update(**{f"error_{name}": bar})


def _half(trial: FrozenTrial, objective: Objective) -> float:
    found = repeats.spread(trial.user_attrs.get("seeds", {}).get(objective.metric, ())).interval
    return found if math.isfinite(found) else 0.0


def _reached(subject: Subject) -> go.Scatter:
    """Joins the front of two objectives by what is reached for a given value of the first."""
    points = sorted((trial.values[0], trial.values[1]) for trial in subject.front)
    shape = "vh" if subject.spec.objectives[0].direction == "maximize" else "hv"
    line = {"color": FRONT, "width": 1.5, "shape": shape}
    xs, ys = zip(*points, strict=True)
    return go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _mark(figure: go.Figure, subject: Subject, x: int, y: int) -> None:
    """The baseline as a star, a ring around the chosen trial."""
    shown = (
        (subject.first, "baseline", {"symbol": "star", "size": 15, "color": BASELINE}),
        (subject.chosen, "chosen", {"symbol": "circle-open", "size": 18, "color": FRONT, "line": {"width": 2}}),
    )
    for trial, name, marker in shown:
        if trial is not None:
            trace = go.Scatter(x=[trial.values[x]], y=[trial.values[y]], mode="markers", marker=marker, name=name)
            hover(trace, subject, [trial.number])
            if name == "baseline":
                _intervals(trace, subject, [trial.number], BASELINE, {"x": x, "y": y})
            figure.add_trace(trace)


def _ranking(subject: Subject) -> go.Figure:
    """Of a single objective: the best trials and the baseline, the best on top."""
    aim = subject.spec.objectives[0]
    order = sorted(subject.complete, key=lambda one: one.values[0], reverse=aim.direction == "maximize")
    shown = order[:MOST_ROWS]
    if subject.first is not None and subject.first not in shown:
        shown[-1] = subject.first
    feasible = {one.number for one in results.feasible(subject.past.study, subject.spec)}
    roles = {"baseline": BASELINE, "chosen": FRONT, "": TRIAL}
    numbers = [one.number for one in shown]
    colors = [roles[subject.role(one)] if one.number in feasible else INFEASIBLE for one in shown]
    figure = go.Figure(
        go.Scatter(
            x=[one.values[0] for one in shown],
            y=[label(subject.title(one)) for one in shown],
            mode="markers",
            marker={"color": colors, "size": 11},
            showlegend=False,
        )
    )
    hover(figure.data[0], subject, numbers)
    _intervals(figure.data[0], subject, numbers, TRIAL, {"x": 0})
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    figure.update_xaxes(title=axis(aim))
    return styled(figure)
