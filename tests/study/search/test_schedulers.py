"""Which trials are stopped, decision by decision. No Ray is started."""

import itertools
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from lsx.study.declared.sections import Scheduler
from lsx.study.environment import quiet

quiet.prepare()

from ray import cloudpickle  # noqa: E402
from ray.tune.schedulers import TrialScheduler  # noqa: E402

from lsx.study.search.schedulers import Halving, MedianStopping, build, positions  # noqa: E402

Table = Mapping[int, Mapping[int, float]]


def halving(**settings: Any) -> Scheduler:
    return Scheduler(type="asha", **settings)


def median(**settings: Any) -> Scheduler:
    return Scheduler.model_validate({"type": "median", "grace_epochs": 2, "least_trials": 2, **settings})


def judge(scheduler: TrialScheduler, number: int, position: int, guard: float | None, role: str = "search") -> str:
    trial: Any = SimpleNamespace(trial_id=f"t{number}", config={"number": number, "role": role})
    result = {"position": position, "guard": guard}
    controller: Any = None
    return scheduler.on_trial_result(controller, trial, result)


def seen(scheduler: TrialScheduler, table: Table) -> TrialScheduler:
    """The scheduler after those reports, trial by trial, none of which stops."""
    for number, values in table.items():
        for position, guard in values.items():
            assert judge(scheduler, number, position, guard) == "CONTINUE"
    return scheduler


def test_halving_stops_the_worse_and_spares_references() -> None:
    scheduler = Halving(halving(grace_epochs=2, reduction_factor=2), 9, {})
    assert judge(scheduler, 0, 2, 0.9) == "CONTINUE"
    assert judge(scheduler, 1, 2, 0.1) == "STOP"
    assert judge(scheduler, 2, 2, 0.1, role="baseline") == "CONTINUE"
    assert judge(scheduler, 3, 1, 0.1) == "CONTINUE"  # within grace
    assert judge(scheduler, 4, 3, None) == "CONTINUE"  # not at a rung
    assert judge(Halving(halving(grace_epochs=2, direction="minimize"), 9, {0: {2: 0.1}}), 1, 2, 0.9) == "STOP"


def test_halving_remembers_earlier_drivers() -> None:
    settings = halving(grace_epochs=2, reduction_factor=2)
    assert judge(Halving(settings, 9, {}), 5, 2, 0.1) == "CONTINUE"
    scheduler = Halving(settings, 9, {0: {2: 0.9, 4: 0.95}, 5: {2: 0.92}})
    assert judge(scheduler, 6, 2, 0.1) == "STOP"
    assert judge(scheduler, 5, 2, 0.1) == "CONTINUE"  # decided before, and continued


@pytest.mark.parametrize(
    ("own", "decision"),
    # The others' means up to epoch 4 are 0.3, 0.5 and 0.7; what comes after it does not count.
    [((0.1, 0.49), "STOP"), ((0.1, 0.5), "CONTINUE"), ((0.51, 0.0), "CONTINUE")],
)
def test_the_best_so_far_is_compared_with_the_median_of_the_means(own: Sequence[float], decision: str) -> None:
    others = {0: {2: 0.3, 4: 0.3, 6: 0.9}, 1: {2: 0.4, 4: 0.6, 6: 0.9}, 2: {2: 0.8, 4: 0.6, 6: 0.9}}
    scheduler = MedianStopping(median(least_trials=3), {**others, 3: {2: own[0]}})
    assert judge(scheduler, 3, 4, own[1]) == decision


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_direction_decides_what_is_worse(direction: str) -> None:
    table = {0: {2: 0.8}, 1: {2: 0.8}}
    low, high = (judge(MedianStopping(median(direction=direction), table), 2, 2, guard) for guard in (0.7, 0.9))
    expected = ("STOP", "CONTINUE") if direction == "maximize" else ("CONTINUE", "STOP")
    assert (low, high) == expected


def test_too_few_others_stop_nobody() -> None:
    scheduler = seen(MedianStopping(median(least_trials=3), {}), {0: {2: 0.8, 4: 0.8}, 1: {2: 0.8, 4: 0.8}})
    assert judge(scheduler, 2, 2, 0.1) == "CONTINUE"  # two others
    assert judge(scheduler, 3, 2, 0.1) == "STOP"  # three
    assert judge(scheduler, 2, 4, 0.1) == "CONTINUE"  # only two of the three are as far as epoch 4
    assert judge(scheduler, 4, 4, 0.1) == "STOP"


def test_nothing_is_judged_within_grace_between_positions_or_at_the_end() -> None:
    scheduler = MedianStopping(median(), {0: {2: 0.8}, 1: {2: 0.8}})
    assert judge(scheduler, 2, 1, 0.1) == "CONTINUE"
    assert judge(scheduler, 2, 2, None) == "CONTINUE"
    trial: Any = SimpleNamespace(config={"number": 2, "role": "search"})
    controller: Any = None
    assert scheduler.on_trial_result(controller, trial, {"final": {"accuracy": 0.1}}) == "CONTINUE"
    assert judge(scheduler, 2, 2, 0.1) == "STOP"  # none of these was taken down


def test_reference_trials_are_spared_and_do_not_count() -> None:
    scheduler = MedianStopping(median(), {0: {2: 0.8}})
    assert judge(scheduler, 1, 2, 0.9, role="published") == "CONTINUE"
    assert judge(scheduler, 2, 2, 0.1) == "CONTINUE"  # one other search trial
    assert judge(scheduler, 3, 2, 0.1, role="baseline") == "CONTINUE"
    assert judge(scheduler, 4, 2, 0.1) == "STOP"


def test_a_trial_that_is_taken_up_again_is_no_other_to_itself() -> None:
    scheduler = MedianStopping(median(), {0: {2: 0.8}, 1: {2: 0.9}, 2: {2: 0.1}})
    assert judge(scheduler, 2, 2, 0.1) == "CONTINUE"  # said again by a worker lost after its report: decided before
    assert judge(scheduler, 1, 4, 0.1) == "CONTINUE"  # nobody else is there
    assert judge(scheduler, 3, 2, 0.79) == "STOP"  # the others' median is 0.8, each of them counted once
    assert judge(scheduler, 4, 2, 0.81) == "CONTINUE"


def test_values_that_are_not_finite_neither_win_nor_count() -> None:
    scheduler = MedianStopping(median(), {0: {2: math.nan}, 1: {2: math.inf}, 2: {2: 0.5}})
    assert judge(scheduler, 3, 2, 0.1) == "CONTINUE"  # one other has a mean
    assert judge(scheduler, 4, 2, math.nan) == "STOP"  # two have


@pytest.mark.parametrize("killed_after", range(1, 12))
def test_a_driver_that_continues_decides_as_one_that_was_not_killed(killed_after: int) -> None:
    reports = [
        (number, position, ((7 * number + 3 * position) % 11) / 10)
        for position, number in itertools.product((2, 4, 6), range(4))
    ]
    for settings in (median(), halving(grace_epochs=2, reduction_factor=2)):
        steady = build(settings, 9, {})
        assert steady is not None
        expected = [judge(steady, *report) for report in reports]
        assert set(expected) == {"CONTINUE", "STOP"}
        history: dict[int, dict[int, float]] = {}
        for number, position, guard in reports[:killed_after]:
            history.setdefault(number, {})[position] = guard
        after = build(settings, 9, history)
        assert after is not None
        assert [judge(after, *report) for report in reports[killed_after:]] == expected[killed_after:]


@pytest.mark.parametrize(
    ("grace", "epochs", "expected"),
    [(2, 5, [2, 3, 4]), (1, 2, [1]), (4, 4, []), (9, 4, []), (1, 0, []), (1, 21, [*range(1, 21)])],
)
def test_positions_of_the_median_rule(grace: int, epochs: int, expected: list[int]) -> None:
    assert positions(median(grace_epochs=grace), epochs) == expected


@pytest.mark.parametrize(("grace", "epochs"), [(1, 22), (5, 64), (7, 1000), (3, 10_001)])
def test_long_trials_have_twenty_positions_evenly_spaced(grace: int, epochs: int) -> None:
    found = positions(median(grace_epochs=grace), epochs)
    steps = {after - before for before, after in itertools.pairwise(found)}
    assert (len(found), found[0], found[-1]) == (20, grace, epochs - 1)
    assert min(steps) >= 1 and max(steps) - min(steps) <= 1


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "expected"),
    [(2, 2, 9, [2, 4, 8]), (2, 2, 8, [2, 4]), (5, 3, 9, [5]), (5, 2.5, 40, [5, 13, 32]), (4, 3, 4, []), (9, 3, 4, [])],
)
def test_rungs(grace: int, factor: float, epochs: int, expected: list[int]) -> None:
    assert positions(halving(grace_epochs=grace, reduction_factor=factor), epochs) == expected
    assert positions(Scheduler(type="none", grace_epochs=grace), epochs) == []


def test_the_study_gets_the_scheduler_that_it_names() -> None:
    assert isinstance(build(median(), 9, {}), MedianStopping)
    assert isinstance(build(halving(), 9, {}), Halving)
    assert build(Scheduler(type="none"), 9, {}) is None
    assert build(median(grace_epochs=4), 4, {}) is None
    assert build(halving(grace_epochs=4), 4, {}) is None


def test_schedulers_can_be_pickled_without_their_driver() -> None:
    for scheduler in (build(median(), 9, {0: {2: 0.5}}), build(halving(), 9, {})):
        assert vars(cloudpickle.loads(cloudpickle.dumps(scheduler))) == {}
