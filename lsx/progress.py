"""A progress bar for anyone who trains in the foreground."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lsx.training.report import Report


class Progress:
    """A callback that shows stage, epoch, losses and ETA; plain lines where the output is no terminal.

    Example:
        >>> learner = fit(config, dataset, Progress())

    As a context manager it leaves the terminal in order also after an exception.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=self.console)
        self._task = self._bar.add_task("starting", total=None, note="")

    def __enter__(self) -> Self:
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hide()

    def __call__(self, report: Report) -> None:
        """Show one finished epoch."""
        note = _note(report)
        self._show()
        self._bar.update(self._task, description=report.stage, completed=report.position, total=report.total, note=note)
        if report.position == report.total:
            self._hide()
        if not self.console.is_terminal:
            place = f"{report.position}/{report.total} {report.stage} {report.epoch}/{report.epochs}"
            left = report.seconds * (report.epochs - report.epoch)
            self.console.print(f"{place}  {note}  {report.seconds:.1f} s, {left:.0f} s left in stage", soft_wrap=True)

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
