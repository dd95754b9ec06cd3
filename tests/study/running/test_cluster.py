"""What Ray has for trials, what it says when it does not start, and what it survives. No Ray is started."""

from types import SimpleNamespace
from typing import Any

import pytest

from lsx.study.environment import quiet

quiet.prepare()

from ray.air.execution._internal.actor_manager import RayActorManager  # noqa: E402
from ray.exceptions import ObjectLostError, OutOfMemoryError  # noqa: E402

from lsx.errors import StudyError  # noqa: E402
from lsx.study.declared.sections import Resources  # noqa: E402
from lsx.study.running import cluster  # noqa: E402
from lsx.study.running.cluster import Slots, survive_losses  # noqa: E402


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What Ray's nodes have."""
    resources: list[dict[str, float]] = [{"CPU": 8.0}]
    monkeypatch.setattr(cluster, "resources_there", lambda: resources)
    return resources


@pytest.mark.parametrize(
    ("gpus", "settings", "most", "share", "slots"),
    [
        (0, {"gpus_per_trial": 0}, None, 0, 8),
        (0, {"gpus_per_trial": 0, "cpus_per_trial": 3}, None, 0, 2),
        (0, {"gpus_per_trial": 0, "cpus_per_trial": 0.5}, 5, 0, 5),
        (1, {}, None, 0.25, 4),
        (2, {}, 100, 0.25, 8),
        (1, {"gpus_per_trial": 0.1}, None, 0.1, 8),
        (1, {"gpus_per_trial": 0.4}, None, 0.4, 2),
        (3, {"gpus_per_trial": 0.4}, None, 0.4, 6),  # a share lies on one card: two on each
        (3, {"gpus_per_trial": 2}, None, 2, 1),
        (1, {"gpus_per_trial": 1}, None, 1, 1),
        (1, {"gpus_per_trial": 0}, None, 0, 8),
    ],
)
def test_what_trials_occupy(
    there: list[dict[str, float]], gpus: int, settings: dict[str, Any], most: int | None, share: float, slots: int
) -> None:
    there[0]["GPU"] = gpus
    wanted = cluster.request(Resources(**settings), 0.25)
    assert wanted["GPU"] == share
    assert Slots(wanted, most)() == slots


def test_nodes_are_counted_one_by_one_and_again_after_a_while(
    there: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(cluster, "time", SimpleNamespace(monotonic=lambda: now[0]))
    there[:] = [{"CPU": 5.0}, {"CPU": 5.0}]
    slots = Slots({"CPU": 3.0, "GPU": 0.0})
    assert slots() == 2 and not slots.none  # not three: none spans two nodes
    there.append({"CPU": 6.0})
    assert slots() == 2
    now[0] += 3
    assert slots() == 4
    there.clear()
    now[0] += 3
    assert slots() == 1 and slots.none  # a node that comes back finds a trial to run


def test_more_than_there_is_is_refused(there: list[dict[str, float]]) -> None:
    there.append({"CPU": 4.0, "GPU": 1.0})
    with pytest.raises(StudyError, match="a trial needs 9 CPUs; the largest of Ray's nodes has 8"):
        cluster.request(Resources(cpus_per_trial=9, gpus_per_trial=0), 0)
    with pytest.raises(StudyError, match="a trial needs 2 GPUs; the largest of Ray's nodes has 1"):
        cluster.request(Resources(gpus_per_trial=2), 0)
    with pytest.raises(StudyError, match="a trial needs 6 CPUs and 1 GPUs; no single node has both"):
        cluster.request(Resources(cpus_per_trial=6, gpus_per_trial=1), 0)


@pytest.mark.parametrize(
    ("gpus", "alone", "given"), [(0.25, False, 0.25), (0.25, True, 1.0), (2.0, True, 2.0), (0.0, True, None)]
)
def test_a_trial_alone_gets_the_whole_card(gpus: float, alone: bool, given: float | None) -> None:
    place = cluster.placement({"CPU": 2.0, "GPU": gpus})
    (bundle,) = place({"alone": alone}).bundles
    assert (bundle["CPU"], bundle.get("GPU")) == (2.0, given)


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        (None, "no\nroom", "^Ray does not start: no room$"),
        (
            "h:1",
            "timed out",
            r"^the Ray cluster at 'h:1' does not answer: timed out; valid: host:port of its head node",
        ),
        ("h:1", "InvalidAuthToken", "^the Ray cluster at 'h:1' refuses: .*; set RAY_AUTH_MODE and RAY_AUTH_TOKEN as"),
    ],
)
def test_a_ray_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, address: str | None, error: str, message: str
) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError(error)

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster, "reach", lambda _: None)
    with pytest.raises(StudyError, match=message), cluster.started(address):
        pytest.fail("it started")


def test_the_environment_names_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(cluster.ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster, "reach", lambda _: None)
    with cluster.started(images=1000):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with cluster.started():
        pass
    with cluster.started("other:6379"):
        pass
    assert [one["address"] for one in asked] == ["local", "head:6379", "other:6379"]
    assert asked[0]["object_store_memory"] == cluster.OBJECT_STORE_BYTES + 2000
    assert "object_store_memory" not in asked[1]


def test_memory_monitors_victims_fail_alone() -> None:
    survive_losses()
    survive_losses()  # once is enough
    seen: list[Exception] = []
    actor = SimpleNamespace(actor_id=1, _on_error=None)
    task: Any = SimpleNamespace(_tracked_actor=actor, _on_error=lambda _, error: seen.append(error))
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=OutOfMemoryError("low"))
    RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=ObjectLostError("1f", None, ""))
    assert [type(error).__name__ for error in seen] == ["RayActorError"] * 2
    with pytest.raises(RuntimeError, match="unexpected"):
        RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=KeyError("other"))
