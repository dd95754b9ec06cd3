"""A running study in the terminal: one live panel, or plain lines where nothing can be redrawn."""

import os
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from lsx.study.shown.snapshot import Direction, Snapshot, Status, TrialView, best, remaining

ARROWS: dict[Direction, str] = {"maximize": "↑", "minimize": "↓"}
WIDTH = 120
FRAME = 4  # columns of the panel's own
NARROW = 56  # columns inside of the panel, below which names matter more than bars
REFRESHES = 4  # a second
_PAGE = Console(width=WIDTH)  # for wrapping only
SECONDS_BETWEEN_LINES = 60.0
"""Of plain output that say how far the running trials are."""


class Display:
    """Shows snapshots of a study, as a context manager.

    A panel is redrawn in place on a terminal, plain lines are written where output
    is not a terminal, ``TERM=dumb``, or in CI. What others print appears above the panel.

    Args:
        console: where to draw; standard output by default.
        clock: seconds, monotonic.
    """

    def __init__(self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console()
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal and "CI" not in os.environ
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._began, self._updated, self._said = clock(), 0.0, clock()
        self._told: dict[int, str] = {}
        self._message = self._address = ""
        self._troubled = False
        self._spinner = Spinner("dots", style="cyan")  # one: it knows by itself how far it has turned
        self._panel = Live(
            get_renderable=self._draw, console=self.console, refresh_per_second=REFRESHES, vertical_overflow="crop"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._panel.stop()

    def prepare(self, study: str, message: str) -> None:
        """Say what is done before the study's record is open."""
        if self.live:
            self.update(Snapshot(study, 0, message=message))
        else:
            self._line(f"study {study}: {message}")

    def update(self, snapshot: Snapshot) -> None:
        """Show another state of the study; cheap enough for every report."""
        self._snapshot, self._updated = snapshot, self._clock()
        if not self.live:
            self._tell(snapshot)
            return
        self._panel.transient = not snapshot.trials  # what went before a mistake is of no use beside its line
        if not self._panel.is_started:
            self._panel.start()

    def _draw(self) -> RenderableType:
        if self._snapshot is None:
            return Text()
        now, width = self._clock(), min(WIDTH, self.console.width)
        return Panel(
            Group(*self._body(self._snapshot, now - self._updated, width - FRAME)),
            title=Text(f"lsx study {self._snapshot.study}", style="bold"),
            subtitle=Text(duration(now - self._began)),
            title_align="left",
            subtitle_align="right",
            border_style="cyan",
            width=width,
        )

    def _body(self, snapshot: Snapshot, since: float, inner: int) -> list[RenderableType]:
        """What is in the panel; running trials get the rows that the rest leaves."""
        above: list[RenderableType] = [*_standing(snapshot, since, inner)]
        if snapshot.message:
            row = Table.grid(padding=(0, 1))
            row.add_row(self._spinner, _text(snapshot.message, "yellow", inner - 2))
            above.append(row)
        above += _best(snapshot, inner)
        below: list[RenderableType] = []
        if snapshot.tracking:
            below += ["", _text(f"tracking: {snapshot.tracking}", "dim", inner)]
        options = self.console.options.update(width=inner)
        taken = sum(len(self.console.render_lines(part, options)) for part in (*above, *below))
        room = self.console.height - taken - 5  # the frame, a heading with its blank line, and the cursor's row
        return [*above, *_running(snapshot, max(2, room), inner), *below]

    def _tell(self, snapshot: Snapshot) -> None:
        if snapshot.message and snapshot.message != self._message:
            self._line(snapshot.message)
        self._message = snapshot.message
        if snapshot.tracking and snapshot.tracking != self._address:
            self._line(f"tracking: {snapshot.tracking}")
            self._address = snapshot.tracking
        if snapshot.trouble and not self._troubled:  # once: the number changes all the time
            self._line(_trouble(snapshot))
        self._troubled = bool(snapshot.trouble)
        known = len(self._told) > 0
        for trial in sorted(snapshot.trials, key=lambda trial: trial.number):
            # Trials of an earlier run are no news when this one starts.
            news = known or trial.status == "running" or not snapshot.resumed
            if self._told.get(trial.number) != trial.status and news:
                self._line(_news(trial, snapshot))
            self._told[trial.number] = trial.status
        if self._clock() - self._said >= SECONDS_BETWEEN_LINES and snapshot.of("running"):
            self._line(_progress_line(snapshot))

    def _line(self, text: str) -> None:
        self._said = self._clock()
        self.console.print(Text(f"lsx: {text}"), soft_wrap=True)


def _standing(snapshot: Snapshot, since: float, inner: int) -> Iterator[RenderableType]:
    """How far the study is, and what went wrong."""
    if snapshot.planned:
        yield _progress(snapshot, since)
    if snapshot.trials:
        yield _counts(snapshot)
    failure = max(snapshot.of("failed"), key=lambda trial: trial.number, default=None)
    if failure is not None:
        yield _text(f"last failure: trial {failure.number}: {failure.reason or 'no reason given'}", "red", inner)
    if snapshot.trouble:
        yield _text(_trouble(snapshot), "yellow", inner)


def _progress(snapshot: Snapshot, since: float) -> RenderableType:
    finished = len(snapshot.finished)
    left = remaining(snapshot)
    eta = "" if not left else f"about {duration(max(0.0, left - since))} left"
    if left == 0 and not snapshot.message:  # while there is one, the study is not
        eta = "done"
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_row(
        Text(f"{finished} of {snapshot.planned} trials"),
        ProgressBar(total=max(1, snapshot.planned), completed=finished + snapshot.share),
        Text(eta),
    )
    return row


def _counts(snapshot: Snapshot) -> Text:
    styles: dict[Status, str] = {"complete": "green", "pruned": "yellow", "failed": "red"}
    if snapshot.of("waiting"):
        styles["waiting"] = "cyan"
    parts = [(f"{len(snapshot.of(status))} {status}", style) for status, style in styles.items()]
    if snapshot.resumed:
        parts.append((f"{snapshot.resumed} of them in an earlier run", "dim"))
    return Text(" · ").join(Text(*part) for part in parts)


def _best(snapshot: Snapshot, inner: int) -> list[RenderableType]:
    found = {metric: best(snapshot, metric, direction) for metric, direction in snapshot.objectives}
    if not any(found.values()):
        return []
    baseline = next((trial for trial in snapshot.trials if trial.role == "baseline"), None)
    compared = {} if baseline is None else baseline.metrics
    own = any(metric in compared for metric in found)
    wide = inner >= NARROW
    rows = Table.grid(padding=(0, 1), expand=True)
    rows.add_column(no_wrap=True, overflow="ellipsis", ratio=None if wide else 1)
    rows.add_column(no_wrap=True, min_width=6, justify="right")
    rows.add_column(no_wrap=True, min_width=max(len(f"#{trial.number}") for trial in found.values() if trial))
    if wide:
        rows.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    rows.add_column(no_wrap=True, min_width=8 if own else 1, justify="right")
    gap = [""] * (2 + wide)
    rows.add_row(Text("best so far", style="bold"), *gap, Text("baseline" if own else "", style="dim"))
    for (metric, trial), (_, direction) in zip(found.items(), snapshot.objectives, strict=True):
        if trial is None:
            continue
        value = Text(f"{compared[metric]:.4f}" if metric in compared else "", style="dim")
        cells = [f"{ARROWS[direction]} {metric}", f"{trial.metrics[metric]:.4f}", f"#{trial.number}"]
        rows.add_row(*(Text(cell) for cell in (*cells, *[trial.name] * wide)), value)
    return ["", rows]


def _running(snapshot: Snapshot, room: int, inner: int) -> list[RenderableType]:
    running = sorted(snapshot.of("running"), key=lambda trial: trial.number)
    if not running:
        return []
    shown = running if len(running) <= room else running[: room - 1]
    bars = 0 if inner < NARROW else 10 if inner < 90 else 16
    rows = Table.grid(padding=(0, 1), expand=True)
    rows.add_column(no_wrap=True, min_width=len(f"#{running[-1].number}"))
    rows.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    rows.add_column(no_wrap=True, min_width=8)
    if bars:
        rows.add_column(no_wrap=True, min_width=bars)
    widest = max(1, *(len(_position(trial)) for trial in running))  # rich does not expand a grid with an empty column
    rows.add_column(no_wrap=True, min_width=widest, justify="right")
    for trial in shown:
        bar = [ProgressBar(total=max(1, trial.total), completed=trial.position, width=bars)] if bars else []
        stage = Text(trial.stage or "starting", style="" if trial.stage else "dim")
        rows.add_row(Text(f"#{trial.number}"), Text(trial.name), stage, *bar, Text(_position(trial)))
    more = [Text(f"and {len(running) - len(shown)} more", style="dim")] if len(running) > len(shown) else []
    return ["", Text("running", style="bold"), rows, *more]


def _position(trial: TrialView) -> str:
    return f"{trial.position}/{trial.total}" if trial.total else ""


def _progress_line(snapshot: Snapshot) -> str:
    left = remaining(snapshot)
    running = sorted(snapshot.of("running"), key=lambda trial: trial.number)
    stages = [f"#{trial.number} {trial.stage or 'starting'} {_position(trial)}".strip() for trial in running]
    eta = "" if left is None else f", about {duration(left)} left"
    return f"{len(snapshot.finished)} of {snapshot.planned} trials{eta}; running: {', '.join(stages)}"


def _news(trial: TrialView, snapshot: Snapshot) -> str:
    if trial.status == "running":
        return f"trial {trial.number} started: {trial.name}"
    count = f"[{len(snapshot.finished)}/{snapshot.planned}]"
    figures = [f"{metric} {trial.metrics[metric]:.4f}" for metric, _ in snapshot.objectives if metric in trial.metrics]
    detail = trial.reason if trial.status != "complete" else ", ".join(figures)
    return f"{count} trial {trial.number} {trial.status}" + (f": {detail}" if detail else "")


def _trouble(snapshot: Snapshot) -> str:
    if not snapshot.trouble:
        return ""
    return f"{snapshot.trouble}; {snapshot.waiting} entries wait on disk, training goes on"


def _text(text: str, style: str, width: int, rows: int = 2) -> Text:
    """As many rows as it needs, up to some; the last one says by an ellipsis that there is more."""
    whole = Text(" ".join(text.split()), style=style)
    lines = whole.wrap(_PAGE, max(1, width), overflow="fold")
    if len(lines) <= rows:
        return whole
    last = Text(" ".join(line.plain.rstrip() for line in lines[rows - 1 :]), style=style)
    last.truncate(width, overflow="ellipsis")
    return Text("\n").join([*lines[: rows - 1], last])


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
