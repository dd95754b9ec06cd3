"""Progress in a terminal and out of it."""

import io

from rich.console import Console
from torch import nn

from lsx import Progress, Report


def report(position: int, critic: bool = False) -> Report:
    metrics = {"loss": 1.25, "validation_accuracy": 0.5} | ({"critic_loss_last_to_chance": 0.75} if critic else {})
    return Report("joint", position, 2, position, 2, metrics, 3.0, nn.Identity(), dict)


def show(terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    progress = Progress(console)
    progress(report(1, critic=True))
    progress(report(2))
    return console.file.getvalue()


def test_plain_lines_say_place_losses_and_time_left() -> None:
    lines = show(terminal=False).splitlines()
    assert lines[0] == "1/2 joint 1/2  loss 1.250, val acc 0.500, critic 0.75 of chance  3.0 s, 3 s left in stage"
    assert len(lines) == 2


def test_a_terminal_gets_a_bar_that_ends_with_the_run() -> None:
    shown = show(terminal=True)
    assert "joint" in shown
    assert "2/2" in shown
    assert "left in stage" not in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor hidden, and back
