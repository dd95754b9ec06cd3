"""Workers that Tune keeps between two trials."""

from lsx.study.environment import quiet

quiet.prepare()

from ray.tune import PlacementGroupFactory  # noqa: E402
from ray.tune.execution import tune_controller  # noqa: E402

from lsx.study.running import idle  # noqa: E402

SHARE, CARD = PlacementGroupFactory([{"CPU": 1, "GPU": 0.25}]), PlacementGroupFactory([{"CPU": 1, "GPU": 1}])


def workers(*names: str) -> idle.IdleWorkers:
    found = idle.IdleWorkers(may_keep_one=True)
    assert all(found.cache_object(PlacementGroupFactory([{"CPU": 1, "GPU": 0.25}]), name) for name in names)
    return found


def test_all_of_them_stay_while_no_trial_waits() -> None:
    kept = workers("first", "second", "third")
    assert list(kept.flush_cached_objects()) == []
    assert [kept.pop_cached_object(SHARE) for _ in range(4)] == ["first", "second", "third", None]


def test_a_trial_that_wants_the_same_ends_none() -> None:
    kept = workers("first", "second")
    kept.increase_max(SHARE)
    assert kept.cache_object(SHARE, "third") and list(kept.flush_cached_objects()) == []


def test_they_make_room_for_a_trial_that_wants_other_resources() -> None:
    kept = workers("first", "second")
    kept.increase_max(CARD)
    assert not kept.cache_object(SHARE, "third")
    assert list(kept.flush_cached_objects()) == ["first", "second"] and kept.num_cached_objects == 0
    kept.decrease_max(CARD)
    assert kept.cache_object(SHARE, "fourth")


def test_none_stays_at_the_end() -> None:
    assert list(workers("first", "second").flush_cached_objects(force_all=True)) == ["first", "second"]


def test_tune_has_them() -> None:
    idle.keep()
    assert tune_controller._ObjectCache is idle.IdleWorkers  # type: ignore[attr-defined]
