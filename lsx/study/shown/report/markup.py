"""HTML that is safe: every text redacted and escaped, every figure data that no browser takes for markup."""

import base64
import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go
from rich.table import Table
from rich.text import Text

from lsx.study.environment.credentials import redacted


def text(value: object) -> str:
    """For HTML. Redacted first: the markup around a URI must not be taken for a part of it."""
    return html.escape(redacted(str(value)))


def label(value: object) -> str:
    """For plotly, which reads some markup, and entities, in every text that it draws."""
    return html.escape(redacted(str(value)), quote=False)


def readable(name: str) -> str:
    """A metric's name for people."""
    return name.replace("_", " ")


def number(value: Any) -> str:
    """A setting for people: floats with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def script_data(content: str) -> str:
    """JSON that stays inside of its script element."""
    return content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plot(name: str, figure: go.Figure, *, height: int, caption: str, width: int = 0) -> str:
    """A place for a figure, which the page's script draws, and its data.

    Args:
        name: tells it from others; the element's id is ``plot-<name>``.
        figure: plotly's.
        height: in CSS pixels.
        caption: what it shows, in words, for those who do not see it.
        width: least width in CSS pixels, below which it is scrolled.
    """
    figure.update_layout(height=height, autosize=True, title=None)
    style = f"height:{height}px" + (f";min-width:{width}px" if width else "")
    data = script_data(figure.to_json())
    return (
        f'<div class="scroll"><div class="plot" id="plot-{text(name)}" role="img" aria-label="{text(caption)}" '
        f'style="{style}"></div></div>'
        f'<script type="application/json" data-plot="plot-{text(name)}">{data}</script>'
    )


def picture(light: bytes, dark: bytes, caption: str, width: int) -> str:
    """A PNG in both colour schemes; below its natural width (CSS pixels) it is scrolled."""
    sources = [f"data:image/png;base64,{base64.b64encode(one).decode()}" for one in (light, dark)]
    return (
        f'<div class="scroll"><picture><source media="screen and (prefers-color-scheme: dark)" srcset="{sources[1]}">'
        f'<img alt="{text(caption)}" src="{sources[0]}" style="width:{width}px"></picture></div>'
    )


def grid(rows: Iterable[tuple[object, str]]) -> str:
    """Names and values; values are HTML already."""
    cells = "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in rows)
    return f"<dl>{cells}</dl>"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], classes: str = "") -> str:
    """Headers and cells are HTML already."""
    head = "".join(f'<th scope="col">{one}</th>' for one in headers)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return _scrolled(f'<table class="{classes}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def rich_table(source: Table) -> str:
    """A table of the terminal as one of the page; lines of a cell stay lines."""
    columns = [[_cell(cell) for cell in column.cells] for column in source.columns]
    rows = list(zip(*columns, strict=True))
    body = "".join(
        f'<tr class="{text(row.style or "")}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for row, cells in zip(source.rows, rows, strict=True)
    )
    head = "".join(f'<th scope="col">{_cell(column.header)}</th>' for column in source.columns)
    return _scrolled(f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def folded(summary: str, content: str) -> str:
    """Text that is opened by a click."""
    return f"<details><summary>{text(summary)}</summary><pre>{text(content)}</pre></details>"


def plain_json(value: Any) -> str:
    """Indented."""
    return json.dumps(value, indent=1, ensure_ascii=False)


def _scrolled(content: str) -> str:
    return f'<div class="scroll">{content}</div>'


def _cell(cell: Any) -> str:
    return text(cell.plain if isinstance(cell, Text) else cell).replace("\n", "<br>")
