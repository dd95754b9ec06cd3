"""Images that travel once: through Ray's object store, to workers that read no file."""

import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsx.config import Config
from lsx.data import Pool, load, mnist_pool, shared
from lsx.errors import DataError, StudyError
from lsx.study.environment import quiet

quiet.prepare()

import ray  # noqa: E402
from ray import cloudpickle, tune  # noqa: E402
from ray._private import ray_constants  # noqa: E402
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # noqa: E402
from ray._raylet import Config as RayConfig  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.exceptions import ObjectStoreFullError  # noqa: E402

from lsx.study.running import cluster  # noqa: E402
from lsx.study.worker import shipping  # noqa: E402
from tests.data.conftest import idx_bytes  # noqa: E402

quiet.hush()


@pytest.fixture(autouse=True)
def nothing_received(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shipping, "_received", None)
    yield
    shared.install({})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Digits of noise in idx files; 600 KB, since Ray sends what is small along with its reference."""
    random = np.random.default_rng(0)
    (tmp_path / "idx").mkdir()
    images, labels = random.integers(256, size=(800, 28, 28), dtype=np.uint8), np.arange(800, dtype=np.uint8) % 10
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (tmp_path / "idx" / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return Config.build({"data.source": "folder", "data.root": str(tmp_path / "idx"), "critic.batches": 1})


def pools_of(config: Config) -> Mapping[shared.Key, Pool]:
    """The pools as the driver has them; their files are gone."""
    with shared.remembering():
        load(config)
        pools = shared.loaded()
    shutil.rmtree(str(config.data.root))
    return pools


def look(config: Config) -> dict[str, Any]:
    """What this process makes its dataset of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load(config)
    pool = mnist_pool(config.data)
    arrays = shared.arrays(pool)
    return {
        "process": os.getpid(),
        "pool": id(pool),
        "sum": int(pool.images.sum(dtype=np.int64)),
        "sha256": dataset.provenance["sha256"],
        "hashed": "sha256" in vars(pool),
        "copies": sum(array.flags.writeable or array.flags.owndata for array in arrays),
    }


def run_look(assignment: Mapping[str, Any]) -> None:
    """A trainable; the second of two may be in a worker that is used again."""
    tune.report(look(Config.build(assignment["config"])))


def expected(pools: Mapping[shared.Key, Pool]) -> dict[str, Any]:
    (pool,) = pools.values()
    return {"sum": int(pool.images.sum(dtype=np.int64)), "sha256": pool.sha256, "hashed": True, "copies": 0}


def fit(trainable: shipping.Trainable, config: Config, folder: Path, resources: dict[str, float]) -> list[Any]:
    """Results of three trials, one after the other."""
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"config": config.plain(), "role": "search"},
        tune_config=tune.TuneConfig(num_samples=3, max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    results = tuner.fit()
    assert [result.error for result in results] == [None] * 3
    return [result.metrics for result in results]


def test_size_is_that_of_all_arrays(config: Config) -> None:
    pools = pools_of(config)
    images, labels = 800 * 28 * 28, 800 * 8
    assert shipping.bytes_of(pools) == 2 * images + labels  # the foreground takes a byte a pixel
    assert shipping.bytes_of({}) == 0


def test_nothing_is_shipped_where_nothing_is_remembered() -> None:
    assert shipping.ship({}) is None
    assert shipping.carrying(run_look, None) is run_look
    shipping.receive(None)
    assert shared.loaded() == {}


def test_a_process_receives_a_shipment_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    pools, got = pools_of(config), []
    store: dict[str, Any] = {"first": pools, "second": {}}

    def get(reference: str) -> Any:
        got.append(reference)
        return store[reference]

    monkeypatch.setattr(ray, "get", get)
    first, second = (shipping.Shipped(name, name) for name in ("first", "second"))
    for shipped in (first, cloudpickle.loads(cloudpickle.dumps(first)), None, first):  # type: ignore[no-untyped-call]
        shipping.receive(shipped)
    assert got == ["first"]
    assert mnist_pool(config.data) is next(iter(pools.values()))
    shipping.receive(second)
    assert got == ["first", "second"]
    with pytest.raises(DataError):
        mnist_pool(config.data)


def test_images_that_do_not_fit_are_refused_in_one_line(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> None:
        raise ObjectStoreFullError("no\nroom")

    monkeypatch.setattr(ray, "put", full)
    with pytest.raises(StudyError, match=r"images, 1 MiB, do not fit into Ray's object store: .*no room") as caught:
        shipping.ship(pools_of(config))
    assert "\n" not in str(caught.value)


def test_trials_share_the_nodes_memory_and_read_no_file(config: Config, tmp_path: Path) -> None:
    pools = pools_of(config)
    with cluster.started():
        trainable = shipping.carrying(run_look, shipping.ship(pools))
        assert trainable.__name__ == "run_look"
        found = fit(trainable, config, tmp_path, {"cpu": 1})
    for one in found:
        assert {name: one[name] for name in expected(pools)} == expected(pools)
        assert one["process"] != os.getpid()
    # A worker that runs several trials receives the pool once: it is the same object.
    assert len({one["process"] for one in found}) == len({(one["process"], one["pool"]) for one in found}) < 3


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray of two nodes; yields the identity of the second one, which trials can ask for as ``second``."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray caches all this, and a study on a Ray of its own may have been run before.
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    RayConfig.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = nodes.add_node(num_cpus=1, resources={"second": 1}, wait=True)
        with cluster.started(nodes.address):
            yield other.node_id
    finally:
        nodes.shutdown()
        AuthenticationTokenLoader.instance().reset_cache()


def test_a_node_without_the_files_gets_the_images(config: Config, tmp_path: Path, two_nodes: str) -> None:
    pools = pools_of(config)

    @ray.remote(resources={"second": 1}, num_cpus=0, max_retries=0)
    def there(shipped: shipping.Shipped | None, plain: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        shipping.receive(shipped)
        return ray.get_runtime_context().get_node_id(), look(Config.build(plain))

    with pytest.raises(DataError):  # nothing there to read
        ray.get(there.remote(None, config.plain()))
    shipped = shipping.ship(pools)
    node, found = ray.get(there.remote(shipped, config.plain()))
    assert node == two_nodes != ray.get_runtime_context().get_node_id()
    assert found.items() >= expected(pools).items()
    for one in fit(shipping.carrying(run_look, shipped), config, tmp_path, {"cpu": 1, "second": 1}):
        assert one.items() >= expected(pools).items()
