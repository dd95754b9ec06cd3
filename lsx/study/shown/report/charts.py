"""What all charts of the report have in common: colours, that both a light and a dark page bear, and their frame."""

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from lsx.study.declared.sections import Objective
from lsx.study.shown.display import ARROWS
from lsx.study.shown.report.markup import label, readable
from lsx.study.shown.report.subject import Subject

TRIAL, FRONT, BASELINE, INFEASIBLE = "#7c9bbd", "#d9591c", "#0f9d8a", "#a9adb5"
FAINT = "#9db3c9"
OTHERS = ("#8b6fd1", "#e0a526", "#5b7fa6")
MARGIN = {"l": 64, "r": 16, "t": 36, "b": 52}
LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"}
ROW, LEAST_ROWS, MOST_ROWS = 20, 5, 45
"""Pixels of a row of a chart, and how few and many rows a chart is high."""


def hover(trace: Any, subject: Subject, numbers: Iterable[int]) -> None:
    """Let a trace say of each of its points, which stand for these trials, what the report says of a trial."""
    trace.update(text=[subject.hovers[int(one)] for one in numbers], hovertemplate="%{text}<extra></extra>")


def axis(one: Objective) -> str:
    """A metric and which way is better."""
    return f"{label(readable(one.metric))} {ARROWS[one.direction]}"


def rows(count: int) -> int:
    """Height of a chart of so many rows, in pixels."""
    return 110 + ROW * min(max(count, LEAST_ROWS), MOST_ROWS)


def blended(share: float) -> str:
    """From :data:`FAINT` (0) to :data:`FRONT` (1)."""
    mixed = (a + share * (b - a) for a, b in zip(hex_to_rgb(FAINT), hex_to_rgb(FRONT), strict=True))
    return f"rgb({', '.join(str(round(one)) for one in mixed)})"


def styled(figure: go.Figure, **margin: int) -> go.Figure:
    """Plain: the page gives the colours of text, grid and background."""
    figure.update_layout(template="none", margin={**MARGIN, **margin}, legend=LEGEND, title=None)
    return figure
