"""Progress for anyone who trains in the foreground: a bar in a terminal, few plain lines elsewhere."""

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from lsx.training.report import Report, Tick

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_MOVES = 0.1


class Progress:
    """A callback that shows stage, epoch, losses and the time that is left, of the stage and of the run.

    The run's time left takes later epochs to be as long as those of the running stage, since theirs are not known yet:
    it is rough until the last stage has begun. Where the output is no terminal, a line is written for the first epoch,
    at the end of every stage, and every few seconds between.

    Args:
        console: to show it on; standard error by default.
        every: seconds between lines where the output is no terminal.
        clock: seconds, ever growing.

    Example:
        >>> progress = Progress()
        >>> learner = Trainer(config, dataset, progress, progress.pulse).run()

    Without ``pulse``, as in ``fit(config, dataset, Progress())``, the bar moves from epoch to epoch. As a context
    manager it leaves the terminal in order also after an exception.
    """

    def __init__(
        self,
        console: Console | None = None,
        every: float = SECONDS_BETWEEN_LINES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(stderr=True)
        self._every, self._clock = every, clock
        self._spoke: float | None = None
        self._moved = -math.inf
        self._stage, self._began, self._from = "", clock(), 0.0
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[left]}"))
        self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=self.console, refresh_per_second=5)
        self._task = self._bar.add_task("starting", total=None, note="", left="")

    def __enter__(self) -> Self:
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hide()

    def pulse(self, tick: Tick) -> None:
        """Show the moment before a step; cheap, and without effect where the output is no terminal."""
        done = tick.epoch + tick.step / tick.steps
        if tick.stage != self._stage:
            self._begin(tick.stage, done)
        now = self._clock()
        if self.console.is_terminal and now - self._moved >= SECONDS_BETWEEN_MOVES:
            self._moved = now
            self._show()
            self._move(tick.stage, done, tick.epochs, tick.total - tick.position + tick.epoch - tick.epochs)

    def __call__(self, report: Report) -> None:
        """Show one finished epoch."""
        if report.stage != self._stage:
            self._begin(report.stage, report.epoch - 1, report.seconds)
        later = report.total - report.position + report.epoch - report.epochs
        if self.console.is_terminal:
            self._show()
            self._move(report.stage, report.epoch, report.epochs, later)
            self._bar.update(self._task, note=_note(report))
            if report.position == report.total:
                self._hide()
        else:
            self._say(report, later)

    def _begin(self, stage: str, done: float, before: float = 0.0) -> None:
        """Time is measured from here, ``before`` seconds ago, where ``done`` epochs of the stage were finished."""
        self._stage, self._began, self._from = stage, self._clock() - before, done

    def _move(self, stage: str, done: float, epochs: int, later: int) -> None:
        current = min(int(done) + 1, epochs)
        description = f"{stage} {current}/{epochs}"
        left = self._left(done, epochs, later)
        self._bar.update(self._task, description=description, completed=done, total=epochs, left=left)

    def _left(self, done: float, epochs: int, later: int) -> str:
        if done <= self._from:
            return "-:-- left"
        pace = (self._clock() - self._began) / (done - self._from)
        stage, run = pace * (epochs - done), pace * (epochs - done + later)
        return f"{_clock(stage)} left" if later == 0 else f"{_clock(stage)} left in stage, ~{_clock(run)} in all"

    def _say(self, report: Report, later: int) -> None:
        now = self._clock()
        if self._spoke is not None and not report.ends_stage and now - self._spoke < self._every:
            return
        self._spoke = now
        place = f"{report.position}/{report.total} {report.stage} {report.epoch}/{report.epochs}"
        line = f"{place}  {_note(report)}  {report.seconds:.1f} s, {self._left(report.epoch, report.epochs, later)}"
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _show(self) -> None:
        if self.console.is_terminal:
            self._bar.start()

    def _hide(self) -> None:
        if self.console.is_terminal:
            self._bar.stop()


def _note(report: Report) -> str:
    parts = [f"loss {report.metrics['loss']:.3f}", f"val acc {report.metrics['validation_accuracy']:.3f}"]
    if "critic_loss_last_to_chance" in report.metrics:
        parts.append(f"critic {report.metrics['critic_loss_last_to_chance']:.2f} of chance")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
