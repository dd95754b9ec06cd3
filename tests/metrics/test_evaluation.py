"""One call for everything: keys, selection, reuse, the reference explainer, and what must not be disturbed."""

import importlib
import math

import pytest
import torch
from torch import Tensor, nn

from lsx import metrics
from lsx.config import Config
from lsx.data.types import Dataset, Split
from lsx.errors import ConfigError
from lsx.metrics import METRICS, Score, separability
from lsx.metrics.encoder import cached, encoder, fresh

# The package has functions of these names.
accuracies = importlib.import_module("lsx.metrics.accuracy")
encoders = importlib.import_module("lsx.metrics.encoder")
CLASSES = 3
LOCAL = ("relevance_mass", "rank_accuracy", "pointing_game")
SETTINGS = {
    "model.name": "SimpleConvNet",
    "evaluation": {"max_images": 45, "batch_size": 20, "encoder_epochs": 1, "target": "true"},
}


def make_split(count: int, seed: int, masks: bool = True) -> Split:
    """Noise, with a bright bar in the class's row and a patch in a corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(count)[:count].sort().values  # sorted: the shuffle is needed
    images = 0.3 * torch.rand(count, 1, 16, 16, generator=generator)
    for row, label in enumerate(labels.tolist()):
        images[row, 0, 5 * label + 2] += 1
    patch = torch.zeros(count, 1, 16, 16, dtype=torch.bool)
    patch[:, :, :4, :4] = True
    return Split(images, labels, patch if masks else None, torch.arange(count))


def make_dataset(masks: bool = True) -> Dataset:
    parts = [make_split(count, seed, masks) for seed, count in enumerate((96, 60, 48, 32))]
    return Dataset("bars", {}, parts[0], parts[1], parts[2], parts[3], CLASSES, 0.0, 1.0)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="module")
def learner(dataset: Dataset) -> nn.Module:
    return encoder(dataset, 6, seed=5)


def test_keys_are_the_documented_ones_and_in_range(dataset: Dataset, learner: nn.Module) -> None:
    values = metrics.evaluate(learner, dataset, "validation", Config.build(SETTINGS))
    assert set(values) == set(METRICS.group("standard"))
    for name, value in values.items():
        assert type(value) is float
        assert METRICS[name].low <= value <= METRICS[name].high, name
    assert values["accuracy"] == metrics.accuracy(learner, dataset.validation)


def test_good_learner_beats_an_untrained_one(dataset: Dataset, learner: nn.Module) -> None:
    config = Config.build(SETTINGS)
    trained = metrics.evaluate(learner, dataset, "test", config)
    untrained = fresh("SimpleConvNet", dataset.image_shape, CLASSES, 1, torch.device("cpu"))
    blank = metrics.evaluate(untrained, dataset, "test", config)
    assert trained["accuracy"] > 0.9 > blank["accuracy"]
    assert trained["comprehensiveness"] > blank["comprehensiveness"] + 5
    assert trained["sufficiency"] < blank["sufficiency"] - 5
    assert trained["control_ridge"] == blank["control_ridge"]


def test_optional_keys_are_absent(learner: nn.Module) -> None:
    config = Config.build(SETTINGS, {"evaluation.encoder_epochs": 0})
    values = metrics.evaluate(learner, make_dataset(masks=False), "validation", config)
    local = {f"{prefix}{name}" for prefix in ("", "reference_") for name in LOCAL}
    similarity = {name for name in METRICS if "iies" in name}
    assert set(values) == set(METRICS.group("standard")) - local - similarity


def test_given_encoder_is_used(dataset: Dataset, learner: nn.Module) -> None:
    config = Config.build(SETTINGS, {"evaluation.encoder_epochs": 0})
    given = metrics.evaluate(learner, dataset, "validation", config, encoder=learner)
    own = metrics.evaluate(learner, dataset, "validation", Config.build(SETTINGS))
    assert given["iies"] != own["iies"]
    assert given["ridge"] == own["ridge"]


def test_reference_does_not_follow_the_learners_explainer(dataset: Dataset, learner: nn.Module) -> None:
    found = {}
    for method, normalization in (
        ("input_x_gradient", "batch"),
        ("gradcam", "sample"),
        ("integrated_gradient", "batch"),
    ):
        explainer = {"method": method, "normalization": normalization, "steps": 7}
        found[method] = metrics.evaluate(learner, dataset, "test", Config.build(SETTINGS, {"explainer": explainer}))
    fixed = [name for name in METRICS.group("standard") if name.startswith(("reference_", "control_"))]
    for values in found.values():
        assert {name: values[name] for name in fixed} == pytest.approx({name: found["gradcam"][name] for name in fixed})
    same = found["input_x_gradient"]
    assert [same[f"reference_{name}"] for name in LOCAL] == pytest.approx([same[name] for name in LOCAL], abs=1e-6)
    assert found["gradcam"]["relevance_mass"] != found["gradcam"]["reference_relevance_mass"]
    assert found["gradcam"]["ridge"] == found["gradcam"]["ridge_own"]


def test_shared_reference_equals_a_computed_one(dataset: Dataset, learner: nn.Module) -> None:
    """The short cut for a learner whose explainer is the reference must not show in the numbers."""
    shared = metrics.evaluate(learner, dataset, "test", Config.build(SETTINGS))
    computed = metrics.evaluate(learner, dataset, "test", Config.build(SETTINGS, {"explainer.steps": 49}))
    assert shared == pytest.approx(computed)


def test_quadrature_in_small_batches_changes_nothing(
    dataset: Dataset, learner: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.build({"explainer": {"method": "integrated_gradient", "steps": 8}}).explainer
    small = metrics.explain(learner, dataset.test, config, batch_size=16)
    monkeypatch.setattr(accuracies, "CPU_BATCH", 10_000)
    large = metrics.explain(learner, dataset.test, config, batch_size=16)
    torch.testing.assert_close(small.own, large.own)
    assert small.own.split(16)[0].max() == 1
    assert not torch.equal(small.own, small.sample)


def test_target_is_the_evaluations(dataset: Dataset) -> None:
    untrained = fresh("SimpleConvNet", dataset.image_shape, CLASSES, 1, torch.device("cpu"))
    values = [
        metrics.evaluate(untrained, dataset, "test", Config.build(SETTINGS, {"evaluation.target": target}))
        for target in ("true", "predicted")
    ]
    assert values[0]["accuracy"] < 1
    assert values[0]["relevance_mass"] != values[1]["relevance_mass"]
    assert values[0]["reference_relevance_mass"] != values[1]["reference_relevance_mass"]


def test_separability_sees_the_maps_that_its_keys_name(
    dataset: Dataset, learner: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separability, "ridge", lambda maps, labels: Score(float(maps.sum())))
    monkeypatch.setattr(separability, "iies", lambda maps, *rest: Score(float(maps.sum())))
    config = Config.build(SETTINGS, {"explainer": {"method": "integrated_gradient", "target": "true", "steps": 5}})
    values = metrics.evaluate(learner, dataset, "test", config)
    rows = torch.randperm(48, generator=torch.Generator().manual_seed(0))[:45]
    maps = metrics.explain(learner, dataset.test.take(rows), config.explainer, 20)
    for name in ("ridge", "iies"):
        assert values[name] == pytest.approx(float(maps.sample.sum()))
        assert values[f"{name}_own"] == pytest.approx(float(maps.own.sum()))
        assert len({values[key] for key in (name, f"{name}_own", f"reference_{name}", f"control_{name}")}) == 4


def test_dead_learner_gives_nan_with_reasons(dataset: Dataset) -> None:
    dead = fresh("SimpleConvNet", dataset.image_shape, CLASSES, 0, torch.device("cpu"))
    for weight in dead.parameters():
        nn.init.zeros_(weight)
    result = metrics.evaluate_with_reasons(dead, dataset, "test", Config.build(SETTINGS))
    undefined = {name for name, value in result.values.items() if math.isnan(value)}
    assert undefined == set(METRICS.group("standard")) - {
        "accuracy",
        "degenerate_maps",
        "control_ridge",
        "control_iies",
    }
    assert undefined <= set(result.reasons)
    assert result.values["degenerate_maps"] == 1
    assert result.reasons["ridge"] == "all 45 maps are constant"


def test_nothing_global_is_disturbed(dataset: Dataset, learner: nn.Module) -> None:
    model = fresh("SimpleConvNet", dataset.image_shape, CLASSES, 3, torch.device("cpu")).train()
    config = Config.build(SETTINGS)
    encoders._cache.clear()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = metrics.evaluate(model, dataset, "test", config)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    torch.manual_seed(99)
    encoders._cache.clear()  # what is made anew, from another global state and without gradients, must be the same
    with torch.no_grad():
        assert metrics.evaluate(model, dataset, "test", config) == first


def test_seed_chooses_images_and_unknown_split_is_refused(dataset: Dataset, learner: nn.Module) -> None:
    config = Config.build(SETTINGS, {"evaluation.max_images": 30})
    one, two = (metrics.evaluate(learner, dataset, "validation", config, seed=seed) for seed in (0, 1))
    assert one["relevance_mass"] != two["relevance_mass"]
    assert one["accuracy"] == two["accuracy"]
    with pytest.raises(ConfigError, match="unknown split 'valid'; did you mean 'validation'"):
        metrics.evaluate(learner, dataset, "valid", config)  # type: ignore[arg-type]


def test_encoder_is_seeded_cached_and_useful(dataset: Dataset) -> None:
    network = encoder(dataset, 4, seed=21)
    assert encoder(dataset, 4, seed=21) is network
    assert encoder(make_dataset(), 4, seed=21) is network  # equal content, another object
    assert metrics.accuracy(network, dataset.validation) > 0.6
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    other = encoder(dataset, 4, seed=22)
    assert not torch.equal(next(other.parameters()), next(network.parameters()))


def test_cache_keeps_the_newest() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number

    for number in [*range(12), 11, 0]:
        assert cached(("test", number), lambda number=number: make(number)) == number
    assert made == [*range(12), 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu(dataset: Dataset, learner: nn.Module) -> None:
    def on_gpu(tensor: Tensor) -> Tensor:
        return tensor.cuda()

    config = Config.build(SETTINGS, {"evaluation.encoder_epochs": 0})
    expected = metrics.evaluate(learner, dataset, "test", config)
    model = fresh("SimpleConvNet", dataset.image_shape, CLASSES, 0, torch.device("cuda"))
    model.load_state_dict({name: on_gpu(weight) for name, weight in learner.state_dict().items()})
    assert metrics.evaluate(model, dataset, "test", config) == pytest.approx(expected, rel=0.02, abs=0.5)
