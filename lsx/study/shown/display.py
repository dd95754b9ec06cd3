"""A running study in the terminal: one live panel, or plain lines where nothing can be redrawn."""

import math
import os
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lsx.study.shown.snapshot import Direction, Snapshot, TrialView

ARROWS: dict[Direction, str] = {"maximize": "↑", "minimize": "↓"}
WIDTH = 100
REFRESHES = 4  # a second
FRAME_ROWS = 14  # rows of the panel without its running trials
LEAST_PROGRESS = 0.25  # trials; below it a remaining time would be a guess


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
        self._updated = 0.0
        self._told: dict[int, str] = {}
        self._message = ""
        self._troubled = False
        self._panel = Live(
            get_renderable=self._draw, console=self.console, refresh_per_second=REFRESHES, vertical_overflow="crop"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._panel.stop()

    def update(self, snapshot: Snapshot) -> None:
        """Show another state of the study; cheap enough for every report."""
        self._snapshot, self._updated = snapshot, self._clock()
        if not self.live:
            self._tell(snapshot)
        elif not self._panel.is_started:
            self._panel.start()

    def _draw(self) -> RenderableType:
        if self._snapshot is None:
            return Text()
        room = max(3, self.console.height - FRAME_ROWS)
        since = self._clock() - self._updated
        return Panel(
            Group(*_body(self._snapshot, since, room)),
            title=Text(f"lsx study {self._snapshot.study}", style="bold"),
            subtitle=Text(duration(self._snapshot.elapsed + since)),
            title_align="left",
            subtitle_align="right",
            border_style="cyan",
            width=min(WIDTH, self.console.width),
        )

    def _tell(self, snapshot: Snapshot) -> None:
        if snapshot.message and snapshot.message != self._message:
            self._line(snapshot.message)
        self._message = snapshot.message
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

    def _line(self, text: str) -> None:
        self.console.print(Text(f"lsx: {text}"), soft_wrap=True)


def remaining(snapshot: Snapshot) -> float | None:
    """Seconds to the end, from what was finished in how much time; None while too little was.

    Trials that run count with the share that they have behind them, so concurrency is in the rate.
    """
    finished = len(_finished(snapshot))
    running = [trial.position / trial.total for trial in snapshot.trials if trial.status == "running" and trial.total]
    done = finished - snapshot.resumed + sum(running)
    if finished >= snapshot.planned:
        return 0.0
    if done < LEAST_PROGRESS or snapshot.elapsed <= 0:
        return None
    return max(0.0, snapshot.planned - finished - sum(running)) * snapshot.elapsed / done


def best(snapshot: Snapshot, metric: str, direction: Direction) -> TrialView | None:
    """The complete trial with the best finite value of a metric; the earliest among equals."""
    sign = -1 if direction == "maximize" else 1
    scored = [
        trial
        for trial in snapshot.trials
        if trial.status == "complete" and math.isfinite(trial.metrics.get(metric, math.nan))
    ]
    return min(scored, key=lambda trial: (sign * trial.metrics[metric], trial.number), default=None)


def _body(snapshot: Snapshot, since: float, room: int) -> Iterable[RenderableType]:
    yield _progress(snapshot, since)
    yield _counts(snapshot)
    failure = max(_of(snapshot, "failed"), key=lambda trial: trial.number, default=None)
    if failure is not None:
        yield _text(f"last failure: trial {failure.number}: {failure.reason or 'no reason given'}", "red")
    for line in filter(None, (snapshot.message, _trouble(snapshot))):
        yield _text(line, "yellow")
    if any(best(snapshot, *objective) for objective in snapshot.objectives):
        yield Text("\nbest so far", style="bold")
        yield _best_rows(snapshot)
    running = sorted(_of(snapshot, "running"), key=lambda trial: trial.number)
    if running:
        yield Text("\nrunning", style="bold")
        yield _running_rows(running[:room])
        if len(running) > room:
            yield _text(f"and {len(running) - room} more", "dim")
    if snapshot.tracking:
        yield Text()
        yield _text(f"tracking: {snapshot.tracking}", "dim")


def _progress(snapshot: Snapshot, since: float) -> RenderableType:
    finished = len(_finished(snapshot))
    left = remaining(snapshot)
    eta = "" if left is None else f"about {duration(max(0.0, left - since))} left" if left else "done"
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_row(
        Text(f"{finished} of {snapshot.planned} trials"),
        ProgressBar(total=max(1, snapshot.planned), completed=finished),
        Text(eta),
    )
    return row


def _counts(snapshot: Snapshot) -> Text:
    styles = {"complete": "green", "pruned": "yellow", "failed": "red"}
    parts = [(f"{len(_of(snapshot, status))} {status}", style) for status, style in styles.items()]
    if snapshot.resumed:
        parts.append((f"{snapshot.resumed} of them in an earlier run", "dim"))
    return Text(" · ").join(Text(*part) for part in parts)


def _best_rows(snapshot: Snapshot) -> RenderableType:
    rows = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, None, None, 1, None):
        rows.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio)
    baseline = next((trial for trial in snapshot.trials if trial.role == "baseline"), None)
    for metric, direction in snapshot.objectives:
        trial = best(snapshot, metric, direction)
        if trial is None:
            continue
        own = f"baseline {baseline.metrics[metric]:.4f}" if baseline and metric in baseline.metrics else ""
        cells = (f"{ARROWS[direction]} {metric}", f"{trial.metrics[metric]:.4f}", f"#{trial.number}", trial.name, own)
        rows.add_row(*(Text(cell) for cell in cells))
    return rows


def _running_rows(trials: Iterable[TrialView]) -> RenderableType:
    rows = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, 1, None, None, None):
        rows.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio)
    for trial in trials:
        rows.add_row(
            Text(f"#{trial.number}"),
            Text(trial.name),
            Text(trial.stage or "starting"),
            ProgressBar(total=max(1, trial.total), completed=trial.position, width=16),
            Text(f"{trial.position}/{trial.total}" if trial.total else ""),
        )
    return rows


def _news(trial: TrialView, snapshot: Snapshot) -> str:
    if trial.status == "running":
        return f"trial {trial.number} started: {trial.name}"
    count = f"[{len(_finished(snapshot))}/{snapshot.planned}]"
    figures = [f"{metric} {trial.metrics[metric]:.4f}" for metric, _ in snapshot.objectives if metric in trial.metrics]
    detail = trial.reason if trial.status != "complete" else ", ".join(figures)
    return f"{count} trial {trial.number} {trial.status}" + (f": {detail}" if detail else "")


def _trouble(snapshot: Snapshot) -> str:
    if not snapshot.trouble:
        return ""
    return f"{snapshot.trouble}; {snapshot.waiting} entries wait on disk, training goes on"


def _of(snapshot: Snapshot, status: str) -> list[TrialView]:
    return [trial for trial in snapshot.trials if trial.status == status]


def _finished(snapshot: Snapshot) -> list[TrialView]:
    return [trial for trial in snapshot.trials if trial.status not in ("running", "waiting")]


def _text(text: str, style: str = "") -> Text:
    return Text(" ".join(text.split()), style=style, no_wrap=True, overflow="ellipsis")


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
