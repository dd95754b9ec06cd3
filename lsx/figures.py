"""Pictures: explanations beside their images, a Pareto front.

Figures are drawn on Agg canvases without pyplot, so that worker processes need no display and share no state, and
replace an older file in one step.
"""

import io
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

DPI = 130
CSS_DPI = 96
"""Pixels of a page in an inch."""
MAP_COLORS = "magma"  # perceptually uniform
SIGNED_COLORS = "berlin"
"""Diverging and perceptually uniform; zero is as dark as in :data:`MAP_COLORS`."""
MASK_COLOR = "#35c2b0"
FRONT_COLOR = "#c2410c"
TRIAL_COLOR = "#5b7fa6"
BASELINE_COLOR = "#222222"
MUTED = "#6b7280"
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9}


@dataclass(frozen=True)
class Point:
    """One trial in a scatter of two objectives; points with a NaN are not drawn.

    Attributes:
        number: the trial's.
        x, y: its values.
        dx, dy: half widths of their intervals; 0 draws none.
    """

    number: int
    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One picture of a grid.

    Attributes:
        picture: (C, H, W): an image in 0–1, or an explanation in 0–1 or −1–1.
        caption: below it.
        mask: bool (1, H, W), outlined.
        is_map: whether it is an explanation.
    """

    picture: Tensor
    caption: str = ""
    mask: Tensor | None = None
    is_map: bool = True


@dataclass(frozen=True)
class Objective:
    """An axis: its label, and which way is better."""

    label: str
    direction: Literal["maximize", "minimize"]


def explanations(
    path: str | Path,
    images: Tensor,
    columns: Mapping[str, Tensor],
    masks: Tensor | None = None,
    title: str = "",
    names: Sequence[str] = (),
) -> None:
    """One row per image: the image, then one explanation per column, on one fixed scale from 0 to 1.

    Args:
        path: PNG to write.
        images: (R, C, H, W) in 0–1, C = 1 or 3 (``Dataset.raw`` undoes a normalization).
        columns: title → explanations (R, C, H, W) in 0–1; of several channels the highest is shown.
        masks: bool (R, 1, H, W), outlined in every picture.
        title: above the figure.
        names: of the rows, beside them; none when empty.
    """
    rows, titles = len(images), ["input", *columns]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.35 * len(titles) + 1.0, 1.35 * rows + 0.85), layout="constrained")
        axes: Any = figure.subplots(rows, len(titles), squeeze=False)
        for row, column in np.ndindex(rows, len(titles)):
            name = titles[column]
            panel: Axes = axes[row, column]
            _picture(panel, images[row] if column == 0 else columns[name][row], is_map=column > 0)
            if masks is not None:
                _outline(panel, masks[row, 0].cpu().numpy())
            if row == 0:
                panel.set_title(name)
            if column == 0 and names:
                panel.set_ylabel(names[row], rotation=0, ha="right", va="center", fontsize=7)
        if columns:
            _bar(figure, axes, rows, "relevance")
        _finish(figure, path, title)


def grid(
    cells: Sequence[Sequence[Cell | None]],
    titles: Sequence[str] = (),
    names: Sequence[str] = (),
    *,
    bar: str = "relevance",
    dark: bool = False,
) -> tuple[bytes, int]:
    """Pictures in rows and columns, all explanations on one fixed scale: 0 to 1, or −1 to 1 where one has a sign.

    Args:
        cells: rows of equally many; None leaves a place empty.
        titles: of the columns.
        names: of the rows.
        bar: name of the scale.
        dark: for a dark page; the ground is transparent in both cases.

    Returns:
        A PNG, and the width in CSS pixels at which it is sharp.
    """
    rows, columns = len(cells), max(map(len, cells))
    maps = [cell.picture for row in cells for cell in row if cell is not None and cell.is_map]
    signed = any(bool((one < 0).any()) for one in maps)
    ink = "#d7dbe2" if dark else "#1f2937"
    style = {**STYLE, "text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink}
    with matplotlib.rc_context(style):
        size = (1.08 * columns + (0.6 if names else 0) + 0.7, 1.24 * rows + (0.45 if titles else 0.1))
        figure = Figure(figsize=size, layout="constrained")
        axes: Any = figure.subplots(rows, columns, squeeze=False)
        for row, column in np.ndindex(rows, columns):
            panel: Axes = axes[row, column]
            cell = cells[row][column] if column < len(cells[row]) else None
            _cell(panel, cell, signed)
            if titles and row == 0:
                panel.set_title(titles[column], fontsize=8)
            if names and column == 0:
                panel.set_ylabel(names[row], rotation=0, ha="right", va="center", fontsize=8)
        if maps:
            _bar(figure, axes, rows, bar, signed=signed)
        FigureCanvasAgg(figure)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=2 * CSS_DPI, transparent=True)
    return content.getvalue(), round(size[0] * CSS_DPI)


def front(
    path: str | Path,
    points: Sequence[Point],
    front: Collection[int],
    x: Objective,
    y: Objective,
    baseline: Point | None = None,
    baseline_name: str = "classification only",
    title: str = "",
) -> None:
    """Scatter of all trials, the Pareto front joined and numbered, the baseline marked.

    Args:
        path: PNG to write.
        points: every trial with two values; the baseline may be among them.
        front: numbers of the trials on the front.
        x, y: the axes.
        baseline: drawn as a star with dashed guides.
        baseline_name: its label.
        title: above the figure.
    """
    drawn = [point for point in points if isfinite(point.x) and isfinite(point.y)]
    best = sorted((point for point in drawn if point.number in front), key=lambda point: (point.x, point.y))
    others = [point for point in drawn if point.number not in front]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        panel = figure.subplots()
        panel.grid(color="#e5e7eb", linewidth=0.6)
        panel.set_axisbelow(True)
        _scatter(panel, others, "trial", TRIAL_COLOR, 30)
        # What is reached for a given x: the next better point's y where more x is better, the last one's where less is.
        step = "steps-pre" if x.direction == "maximize" else "steps-post"
        panel.plot([p.x for p in best], [p.y for p in best], drawstyle=step, color=FRONT_COLOR, linewidth=1.2, zorder=2)
        _scatter(panel, best, "Pareto front", FRONT_COLOR, 42, zorder=3)
        _numbers(panel, drawn, {point.number for point in best})
        if baseline is not None and isfinite(baseline.x) and isfinite(baseline.y):
            _baseline(panel, baseline, baseline_name)
        panel.set_xlabel(f"{x.label}  ({'higher is better →' if x.direction == 'maximize' else '← lower is better'})")
        panel.set_ylabel(f"{y.label}  ({'higher is better →' if y.direction == 'maximize' else '← lower is better'})")
        panel.margins(0.1)
        if panel.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        _finish(figure, path, title)


def _picture(panel: Axes, picture: Tensor, *, is_map: bool, signed: bool = False) -> None:
    values = picture.detach().float().cpu()
    shown: Any = _strongest(values) if is_map or len(values) != 3 else values.permute(1, 2, 0).clamp(0, 1)
    colors = (SIGNED_COLORS if signed else MAP_COLORS) if is_map else "gray"
    panel.imshow(shown.numpy(), cmap=colors, vmin=-1 if is_map and signed else 0, vmax=1, interpolation="nearest")
    _bare(panel)


def _strongest(values: Tensor) -> Tensor:
    """(H, W), of every pixel the channel that is farthest from zero."""
    return values.gather(0, values.abs().argmax(dim=0, keepdim=True))[0]


def _bare(panel: Axes) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)


def _cell(panel: Axes, cell: Cell | None, signed: bool) -> None:
    if cell is None:
        _bare(panel)
        panel.patch.set_visible(False)
        return
    _picture(panel, cell.picture, is_map=cell.is_map, signed=signed)
    if cell.mask is not None:
        _outline(panel, cell.mask[0].cpu().numpy())
    panel.set_xlabel(cell.caption, fontsize=7.5, labelpad=3)


def _bar(figure: Figure, axes: Any, rows: int, label: str, *, signed: bool = False) -> None:
    scale = ScalarMappable(Normalize(-1 if signed else 0, 1), SIGNED_COLORS if signed else MAP_COLORS)
    bar = figure.colorbar(scale, ax=axes, shrink=min(1.0, 2.5 / rows), aspect=25, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _outline(panel: Axes, mask: Any) -> None:
    """Draw the pixel edges between a mask (H, W) and the rest."""
    padded = np.pad(mask.astype(bool), 1)
    lying = np.argwhere(padded[1:] != padded[:-1]).tolist()
    standing = np.argwhere(padded[:, 1:] != padded[:, :-1]).tolist()
    edges = [[(column - 1.5, row - 0.5), (column - 0.5, row - 0.5)] for row, column in lying]
    edges += [[(column - 0.5, row - 1.5), (column - 0.5, row - 0.5)] for row, column in standing]
    lines = LineCollection(edges, colors=MASK_COLOR, linewidths=1.3, capstyle="projecting", clip_on=False)
    panel.add_collection(lines, autolim=False)


def _scatter(panel: Axes, points: Sequence[Point], name: str, color: str, size: float, **more: Any) -> None:
    if points:
        style = {"s": size, "color": color, "linewidths": 0, "label": name, **more}
        panel.scatter([point.x for point in points], [point.y for point in points], **style)
        _intervals(panel, points, color)


def _intervals(panel: Axes, points: Sequence[Point], color: str) -> None:
    """Both intervals of every point that has one, as a cross."""
    known = [point for point in points if point.dx or point.dy]
    if known:
        panel.errorbar(
            [point.x for point in known],
            [point.y for point in known],
            xerr=[point.dx for point in known],
            yerr=[point.dy for point in known],
            fmt="none",
            ecolor=color,
            elinewidth=0.8,
            alpha=0.45,
            zorder=1,
        )


def _numbers(panel: Axes, points: Sequence[Point], front: Collection[int]) -> None:
    for point in points:
        on_front = point.number in front
        color, weight = (FRONT_COLOR, "bold") if on_front else (MUTED, "normal")
        text: dict[str, Any] = {"color": color, "fontsize": 7.5 if on_front else 6.5, "fontweight": weight}
        panel.annotate(str(point.number), (point.x, point.y), (4, 4), textcoords="offset points", **text)


def _baseline(panel: Axes, baseline: Point, name: str) -> None:
    line: dict[str, Any] = {
        "color": BASELINE_COLOR,
        "linewidth": 0.8,
        "linestyle": (0, (4, 3)),
        "alpha": 0.45,
        "zorder": 1,
    }
    panel.axvline(baseline.x, **line)
    panel.axhline(baseline.y, **line)
    panel.scatter([baseline.x], [baseline.y], marker="*", s=150, color=BASELINE_COLOR, zorder=4, label=name)
    _intervals(panel, [baseline], BASELINE_COLOR)


def _finish(figure: Figure, path: str | Path, title: str) -> None:
    if title:
        figure.suptitle(title, fontsize=10)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        FigureCanvasAgg(figure)
        figure.savefig(unfinished, format="png", dpi=DPI)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
