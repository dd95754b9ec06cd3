"""Which trials are cheap and which are not, and how many share a card."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lsx.errors import StudyError
from lsx.study.declared.spec import StudySpec
from lsx.study.environment import quiet
from lsx.study.running import packing
from lsx.study.running.packing import Machines, Measured, extremes, largest, share, work
from tests.study import fakes

quiet.prepare()

import ray  # noqa: E402

from lsx.study.running import cluster  # noqa: E402

GIB = 2**30
SPACE: dict[str, Any] = {
    "pretrain.epochs": {"type": "int", "low": 2, "high": 9},
    "joint.batch_size": {"type": "categorical", "choices": [64, 16, 128]},
    "finetune.batch_size": {"type": "int", "low": 8, "high": 32},
    "explainer.method": {"type": "categorical", "choices": ["gradcam", "integrated_gradient", "smoothgrad"]},
    "explainer.steps": {"type": "int", "low": 2, "high": 40, "when": {"explainer.method": "integrated_gradient"}},
    "critic.batches": {"type": "int", "low": 2, "high": 6},
    "critic.optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
    "loss.lambda_e": {"type": "float", "low": 0, "high": 10},
}


def spec(**changes: Any) -> StudySpec:
    settings = {"evaluation.encoder_epochs": 0}
    return fakes.spec(**{"settings": settings, "space": SPACE, "reference_trials": {}, **changes})


def test_extremes_are_at_the_ends_of_all_that_costs() -> None:
    cheap, slow = extremes(spec())
    assert (cheap.pretrain.epochs, slow.pretrain.epochs) == (2, 9)
    assert (cheap.loss.lambda_e, slow.loss.lambda_e) == (0, 10)
    assert (slow.joint.batch_size, slow.finetune.batch_size, cheap.finetune.batch_size) == (16, 8, 32)
    assert (cheap.explainer.method, slow.explainer.method, slow.explainer.steps) == (
        "gradcam",
        "integrated_gradient",
        40,
    )
    assert (cheap.critic.batches, slow.critic.batches) == (2, 6)


def test_a_number_that_others_depend_on_is_not_only_at_its_end() -> None:
    space = {
        "critic.batches": {"type": "int", "low": 2, "high": 6},
        "joint.epochs": {"type": "int", "low": 1, "high": 50, "when": {"critic.batches": [3, 4]}},
    }
    slow = extremes(spec(space=space))[1]
    assert (slow.critic.batches, slow.joint.epochs) == (4, 50)


def test_reference_trials_count() -> None:
    references = {"short": {"stages": ["pretrain"], "pretrain.epochs": 1}, "long": {"finetune.epochs": 90_000}}
    cheap, slow = extremes(spec(reference_trials=references))
    assert cheap.stages == ("pretrain",) and slow.finetune.epochs == 90_000


@pytest.mark.parametrize(
    ("key", "more", "times"),
    [
        ("pretrain.epochs", 4, None),
        ("model.name", "Net1", None),
        ("critic.batch_size", 128, None),
        ("critic.model", "Net1", None),
        ("data.few_shot_fraction", 1.0, 2.0),
        ("joint.batch_size", 16, None),
        ("loss.lambda_ft", 1.0, None),
    ],
)
def test_every_setting_costs(key: str, more: Any, times: float | None) -> None:
    base = fakes.spec().configure(
        {"model.name": "SimpleConvNet", "data.few_shot_fraction": 0.5, "loss.lambda_ft": 0.0, "joint.batch_size": 32}
    )
    before, after = work(base), work(base.replace({key: more}))
    assert after > before
    if times is not None:
        assert after / before == pytest.approx(times, rel=0.1)


def test_random_state_stays() -> None:
    packing._flops.cache_clear()
    before = torch.get_rng_state()
    extremes(spec())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_largest_has_the_largest_batches() -> None:
    found = largest(spec())
    assert found.explainer.method == "integrated_gradient" and found.explainer.steps == 40
    finetune = {"finetune.batch_size": {"type": "int", "low": 8, "high": 5000}}
    assert largest(spec(space={**SPACE, **finetune})).finetune.batch_size == 5000


@pytest.mark.parametrize(
    ("peak", "total", "trials"),
    [(10, 80, 6), (33, 80, 1), (32, 80, 2), (100, 80, 1), (1, 80, 16), (22, 80, 2), (24, 80, 2), (20, 80, 3)],
)
def test_shares_of_a_card(peak: int, total: int, trials: int) -> None:
    found = share(peak * GIB, total * GIB)
    assert int(1 / found + 1e-9) == trials and trials * found <= 1
    assert found == int(found * 10_000) / 10_000  # as Ray counts
    assert trials == 1 or trials * peak * 1.1 <= 0.9 * total


def test_reserve_and_most_bound_a_share() -> None:
    assert share(10 * GIB, 80 * GIB, reserve=1.0) == 0.3333
    assert share(GIB, 80 * GIB, most=4) == 0.25


def test_a_trial_that_ran_out_of_memory_gets_a_whole_card() -> None:
    assert Measured(GIB, 80 * GIB).share < 1
    assert Measured(GIB, 80 * GIB, fault="joint: out of memory").share == 1


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    """Ray that believes in a GPU."""
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 80 * 2**20, "log_to_driver": False}
    ray.init(address="local", num_cpus=2, num_gpus=1, logging_level="CRITICAL", **options)
    try:
        yield
    finally:
        ray.shutdown()


def test_the_largest_trial_is_measured_on_every_node_and_the_smallest_card_decides(
    one_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "first"

    def measure(plain: Mapping[str, Any], threads: int) -> Measured:
        device = f"{len(ray.get_gpu_ids())} GPU, {threads} threads, {plain['explainer']['steps']} steps"
        total = 80 if path.exists() else 24
        path.touch()
        return Measured(10 * GIB, total * GIB, device)

    nodes = cluster.nodes()
    monkeypatch.setattr(cluster, "nodes", lambda: nodes * 2)  # the second measurement is that of another card
    found = packing.measure_in_ray(spec(resources={"cpus_per_trial": 2}), measure)
    assert found == Measured(10 * GIB, 24 * GIB, "1 GPU, 2 threads, 40 steps")
    assert (found.share, Measured(10 * GIB, 80 * GIB).share) == (1.0, 0.1666)


def test_what_cannot_be_measured_is_one_line(one_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(plain: Mapping[str, Any], threads: int) -> Measured:
        raise ValueError("no data\nhere")

    def slow(plain: Mapping[str, Any], threads: int) -> Measured:
        time.sleep(60)
        return Measured(1, 1)

    with pytest.raises(StudyError, match=r"^gpus_per_trial auto cannot be measured: no data here$"):
        packing.measure_in_ray(spec(), broken)
    with pytest.raises(StudyError, match="no GPU of the cluster was free for 1 s"):
        packing.measure_in_ray(spec(), slow, seconds=1)
    monkeypatch.setattr(cluster, "nodes", lambda: [{"NodeID": "x", "Alive": True, "Resources": {"CPU": 4.0}}])
    with pytest.raises(StudyError, match="no node of the cluster has a whole GPU"):
        packing.measure_in_ray(spec(), broken)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_node_whose_torch_sees_no_gpu_is_named() -> None:
    with pytest.raises(StudyError, match="torch sees no GPU on node"):
        packing.measure_here({}, 1)


def test_machines_hold_whole_trials() -> None:
    there = Machines(({"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}))
    assert (there.total("CPU"), there.total("GPU")) == (7, 1)
    assert (there.slots(2, 0), there.slots(1, 0.25), there.slots(4, 1), there.slots(5, 0)) == (3, 4, 1, 0)
    assert packing.machines().slots(1, 0) >= 1


def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(StudyError, match=r"^the Ray cluster at '127.0.0.1:1' does not answer: [^\n]*refused"):
        packing.machines("127.0.0.1:1")
