"""Progress in a terminal and out of it."""

import io

import pytest
from rich.console import Console
from torch import nn

from lsx import Progress, Report
from lsx.training import Tick


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def report(epoch: int, epochs: int = 2, later: int = 0, critic: bool = False) -> Report:
    metrics = {"loss": 1.25, "validation_accuracy": 0.5} | ({"critic_loss_last_to_chance": 0.75} if critic else {})
    return Report("joint", epoch, epochs, epoch, epochs + later, metrics, 3.0, nn.Identity(), dict)


def progress(terminal: bool, clock: Clock) -> tuple[Progress, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=140, color_system=None)
    return Progress(console, clock=clock), file


def test_plain_lines_say_place_losses_and_time_left() -> None:
    clock = Clock()
    shown, file = progress(False, clock)
    shown(report(1, later=4, critic=True))
    clock.now += 9
    shown(report(2, later=4))
    assert file.getvalue().splitlines() == [
        "1/6 joint 1/2  loss 1.250, val acc 0.500, critic 0.75 of chance  3.0 s, 0:03 left in stage, ~0:15 in all",
        "2/6 joint 2/2  loss 1.250, val acc 0.500  3.0 s, 0:00 left in stage, ~0:24 in all",
    ]


def test_plain_lines_are_few() -> None:
    clock = Clock()
    shown, file = progress(False, clock)
    for epoch in range(1, 1001):
        clock.now += 0.1
        shown(report(epoch, 1000))
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("1/1000 ") and lines[-1].startswith("1000/1000 ")
    assert 20 <= len(lines) <= 22  # one every five of a hundred seconds, the first and the last


def test_a_terminal_gets_a_bar_that_ends_with_the_run() -> None:
    shown, file = progress(True, Clock())
    shown(report(1, critic=True))
    shown(report(2))
    text = file.getvalue()
    assert "joint" in text
    assert "2/2" in text
    assert "3.0 s" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor hidden, and back


def test_the_bar_moves_within_an_epoch() -> None:
    clock = Clock()
    shown, _ = progress(True, clock)
    with shown:
        task = shown._bar.tasks[0]
        for step in range(0, 60, 10):
            shown.pulse(Tick("joint", 0, 2, step, 100, 3, 9))
            clock.now += 6
        assert task.completed == pytest.approx(0.5)
        assert task.description == "joint 1/2"
        # 30 s for half an epoch: 1.5 to go in the stage, and four later ones.
        assert task.fields["left"] == "1:30 left in stage, ~5:30 in all"


def test_a_stage_that_was_resumed_is_timed_from_there() -> None:
    clock = Clock()
    shown, _ = progress(True, clock)
    with shown:
        shown.pulse(Tick("finetune", 90, 100, 0, 10, 90, 100))
        clock.now += 2
        shown.pulse(Tick("finetune", 91, 100, 0, 10, 91, 100))
        assert shown._bar.tasks[0].fields["left"] == "0:18 left"
