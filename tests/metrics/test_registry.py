"""Metrics by name: a user's own, groups, what is refused, and what is computed at all."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lsx
from lsx import explainers, metrics
from lsx.config import Config
from lsx.data.types import Dataset
from lsx.errors import ConfigError
from lsx.metrics import METRICS, Context, Score, select
from tests.metrics.conftest import bar_dataset
from tests.tiny import Tiny

TINY = {
    "model.name": "tests.tiny:Tiny",
    "evaluation": {"max_images": 40, "faithfulness_images": 10, "encoder_epochs": 0, "critic_epochs": 1},
}
OWN = """
import lsx

@lsx.metrics.register("edge_share_of_file", direction="minimize", low=0, high=1, meaning="relevance on the rim")
def edge_share(context):
    maps = context.own.sample
    return 1 - (maps[:, :, 1:-1, 1:-1].sum() / maps.sum()).item()

def directionless(context):
    return 0.0

number = 3
"""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return bar_dataset()


@pytest.fixture(scope="module")
def learner() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: None) -> str:
    """A user's module; every test has one of its own, since Python imports a name once."""
    name = f"own_metrics_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def edge_share(dataset: Dataset, learner: Tiny, config: Config) -> float:
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:40]
    settings = config.explainer.model_copy(update={"target": "predicted"})
    maps = metrics.explain(learner, dataset.validation.take(rows), settings, 256).sample
    rim = torch.ones(28, 28, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    return float(maps[..., rim].sum() / maps.sum())


def test_own_metric_in_a_few_lines(dataset: Dataset, learner: Tiny, registry: None) -> None:
    @lsx.metrics.register("edge_share", direction="minimize", low=0, high=1, meaning="relevance on the image's rim")
    def edge(context: Context) -> float:
        maps = context.own.sample
        return float(1 - maps[:, :, 1:-1, 1:-1].sum() / maps.sum())

    config = Config.build(TINY)
    values = lsx.evaluate(learner, dataset, "validation", config, metrics=["accuracy", "edge_share"])
    assert list(values) == ["accuracy", "edge_share"]
    assert values["edge_share"] == pytest.approx(edge_share(dataset, learner, config), rel=1e-5)
    assert METRICS["edge_share"].arrow == "↓"
    assert "edge_share" in METRICS.group("all") and "edge_share" not in METRICS.group("standard")
    assert any("edge_share" in line and "rim" in line for line in repr(METRICS).splitlines())


def test_own_metric_by_its_module(dataset: Dataset, learner: Tiny, module: str) -> None:
    name = f"{module}:edge_share"
    config = Config.build(TINY, {"evaluation.metrics": ["accuracy", name]})
    values = lsx.evaluate(learner, dataset, "validation", config)
    assert values[name] == pytest.approx(edge_share(dataset, learner, config), rel=1e-5)
    assert METRICS[name].direction == "minimize"
    assert Config.build(config.plain()).evaluation.metrics == ("accuracy", name)  # survives YAML and checkpoints


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sparsness", "unknown metric 'sparsness'; did you mean 'sparseness'"),
        ("localisation", "unknown metric 'localisation'; did you mean 'localization'"),
        ("{module}:directionless", "does not say which way is better; decorate it with @lsx.metrics.register"),
        ("{module}:number", "does not say which way is better"),
        ("{module}:absent", "cannot be imported"),
        ("no_such_package.metrics:one", "cannot be imported: No module named 'no_such_package'"),
    ],
)
def test_unusable_names_are_refused_before_anything_is_computed(module: str, name: str, message: str) -> None:
    name = name.format(module=module)
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")) as caught:
        lsx.evaluate(None, bar_dataset(), "test", Config(), metrics=["accuracy", name])  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert name not in METRICS


def test_registration_is_checked(registry: None) -> None:
    def one(context: Context) -> float:
        return 1.0

    def other(context: Context) -> float:
        return 2.0

    register = lsx.metrics.register
    assert register("once", direction="maximize")(one) is one
    register("once", direction="minimize")(one)  # defined again, as in a notebook
    assert METRICS["once"].direction == "minimize"
    for name in ("once", "accuracy"):
        with pytest.raises(ConfigError, match=f"metric '{name}' is registered already"):
            register(name, direction="maximize")(other)
    with pytest.raises(ConfigError, match="'standard' is the name of a group"):
        register("standard", direction="maximize")(other)
    with pytest.raises(ConfigError, match="unknown direction 'maximise'; did you mean 'maximize'"):
        register("new", direction="maximise")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="low 1 must be below high 0"):
        register("new", direction="maximize", low=1, high=0)


def test_names_and_groups_are_selected_in_order() -> None:
    chosen = select(["sparseness", "accuracy", "robustness"])
    assert chosen == {"sparseness": True, "accuracy": True, "infidelity": False, "max_sensitivity": False}
    assert list(chosen) == ["sparseness", "accuracy", "infidelity", "max_sensitivity"]
    assert set(select(["all"])) == set(METRICS)
    topical = ["accuracy", "faithfulness", "separability", "localization", "robustness", "sanity", "critic"]
    assert set(select(topical)) == set(METRICS)
    assert len(METRICS.group("standard")) == 24


def test_all_metrics_are_in_their_documented_range(dataset: Dataset, learner: Tiny) -> None:
    config = Config.build(TINY, {"evaluation": {"metrics": ["all"], "encoder_epochs": 1, "auc_steps": 4}})
    result = metrics.evaluate_with_reasons(learner, dataset, "validation", config)
    assert set(result.values) == set(METRICS)
    assert not result.reasons
    for name, value in result.values.items():
        assert METRICS[name].low <= value <= METRICS[name].high, name
    with torch.no_grad():
        torch.manual_seed(5)
        assert metrics.evaluate(learner, dataset, "validation", config) == result.values


def test_groups_leave_out_what_a_name_gives_as_nan(learner: Tiny) -> None:
    bare = bar_dataset(masks=False, foreground=False)
    config = Config.build(TINY)
    asked = ["localization", "relevance_mass", "separability", "iies", "foreground_pointing_game"]
    result = metrics.evaluate_with_reasons(learner, bare, "validation", config, metrics=asked)
    ridges = {name for name in METRICS if "ridge" in name}
    assert set(result.values) == {"relevance_mass", "iies", "foreground_pointing_game"} | ridges
    assert {name for name, value in result.values.items() if math.isnan(value)} == set(result.values) - ridges
    assert result.reasons["relevance_mass"] == "the validation images have no masks of a confounder"
    assert result.reasons["foreground_pointing_game"] == "the validation images have no masks of the object itself"
    assert "evaluation.encoder_epochs is 0" in result.reasons["iies"]


def test_standard_looks_at_the_object_where_there_is_no_confounder(dataset: Dataset, learner: Tiny) -> None:
    config = Config.build(TINY)
    confounded = metrics.evaluate(learner, dataset, "validation", config)
    plain = metrics.evaluate(learner, bar_dataset(masks=False), "validation", config)
    assert not any("foreground" in name for name in confounded)
    assert set(plain) - set(confounded) == set(METRICS.group("foreground"))
    on_object = metrics.evaluate(learner, dataset, "validation", config, metrics="foreground")
    assert {name: plain[name] for name in on_object} == on_object


def test_foreground_is_where_the_object_is(dataset: Dataset, learner: Tiny) -> None:
    """The input as its own explanation lies on the bright bar; on dim noise, elsewhere."""
    config = Config.build(TINY, {"explainer.method": "input", "explainer.normalization": "sample"})
    values = metrics.evaluate(learner, dataset, "validation", config, metrics=["localization"])
    part = dataset.validation
    light = part.images.where(part.foreground, 0).sum(dim=(1, 2, 3)) / part.images.sum(dim=(1, 2, 3))
    chosen = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:40]
    assert values["foreground_relevance_mass"] == pytest.approx(float(light[chosen].mean()), rel=1e-5)
    assert values["foreground_rank_accuracy"] == values["foreground_pointing_game"] == 1
    assert values["pointing_game"] == 0
    assert METRICS["foreground_relevance_mass"].direction == "maximize"
    assert METRICS["relevance_mass"].direction == "minimize"


def test_a_number_costs_only_what_it_needs(
    dataset: Dataset, learner: Tiny, monkeypatch: pytest.MonkeyPatch, registry: None
) -> None:
    explained: list[int] = []
    original = explainers.InputXGradientExplainer.attribute

    def counted(self: Any, model: Any, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        explained.append(len(images))
        return original(self, model, images, targets, create_graph=create_graph)

    monkeypatch.setattr(explainers.InputXGradientExplainer, "attribute", counted)
    config = Config.build(TINY)
    metrics.evaluate(learner, dataset, "validation", config, metrics=["accuracy", "input_critic_accuracy"])
    assert explained == []
    names = ["degenerate_maps", "sparseness", "deletion_auc", "reference_deletion_auc", "relevance_mass"]
    metrics.evaluate(learner, dataset, "validation", config, metrics=names)
    assert explained == [40]


@pytest.mark.parametrize(
    ("value", "expected", "reason"),
    [
        (2, 2.0, ""),
        (torch.tensor(0.5), 0.5, ""),
        (Score(1.0, "1 of 2 samples used"), 1.0, "1 of 2 samples used"),
        (math.nan, math.nan, "the metric gave nan"),
        (-math.inf, math.nan, "the metric gave -inf"),
        (Score(math.inf, "some"), math.nan, "the metric gave inf"),
    ],
)
def test_what_a_metric_gives(
    dataset: Dataset, learner: Tiny, registry: None, value: Any, expected: float, reason: str
) -> None:
    lsx.metrics.register("own", direction="maximize")(lambda context: value)
    result = metrics.evaluate_with_reasons(learner, dataset, "test", Config.build(TINY), metrics=["own"])
    assert result.values["own"] == pytest.approx(expected, nan_ok=True)
    assert result.reasons.get("own", "") == reason


@pytest.mark.parametrize("value", ["0.5", None, torch.zeros(3), [0.5]])
def test_a_metric_that_gives_no_number_is_named(dataset: Dataset, learner: Tiny, registry: None, value: Any) -> None:
    lsx.metrics.register("own", direction="maximize")(lambda context: value)
    with pytest.raises(ConfigError, match="metric 'own' must give a number or an lsx.metrics.Score, not"):
        metrics.evaluate(learner, dataset, "test", Config.build(TINY), metrics=["own"])


def test_random_explainers_and_metrics_are_seeded(dataset: Dataset, learner: Tiny, registry: None) -> None:
    numpy = pytest.importorskip("numpy")

    class Noisy(explainers.InputXGradientExplainer):
        def attribute(self, model: Any, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
            noise = torch.randn_like(images) + float(numpy.random.rand())
            return super().attribute(model, images, targets, create_graph=create_graph) + noise

    @lsx.metrics.register("dice", direction="maximize")
    def dice(context: Context) -> float:
        return float(torch.rand(()) + numpy.random.rand())

    explainers.EXPLAINERS._entries["noisy"] = Noisy
    try:
        names = ["dice", "sparseness", "max_sensitivity", "randomisation", "ridge", "reference_ridge"]
        config = Config.build(TINY, {"explainer.method": "noisy", "evaluation.metrics": names})
        found = []
        for state, seed in ((1, 0), (2, 0), (2, 1)):
            torch.manual_seed(state)
            numpy.random.seed(state)
            before = torch.get_rng_state(), numpy.random.get_state()[1].copy()
            found.append(metrics.evaluate(learner, dataset, "test", config, seed=seed))
            assert torch.equal(before[0], torch.get_rng_state())
            assert numpy.array_equal(before[1], numpy.random.get_state()[1])
        assert found[0] == found[1]
        assert all(found[0][name] != found[2][name] for name in ("dice", "sparseness", "max_sensitivity"))
        # Another order of metrics, and another selection, change no number.
        reverse = metrics.evaluate(learner, dataset, "test", config, metrics=names[::-1])
        assert reverse == found[0]
        alone = metrics.evaluate(learner, dataset, "test", config, metrics=["sparseness"])
        assert alone["sparseness"] == found[0]["sparseness"]
    finally:
        del explainers.EXPLAINERS._entries["noisy"]


def test_settings_of_metrics_bite(dataset: Dataset, learner: Tiny) -> None:
    cases = {
        "auc_steps": (3, "deletion_auc"),
        "perturbation": (0.3, "max_sensitivity"),
        "perturbations": (3, "infidelity"),
        "critic_epochs": (3, "critic_loss_to_chance"),
        "replacement": ("zero", "insertion_auc"),
        "target": ("true", "infidelity"),
    }
    base = metrics.evaluate(learner, dataset, "test", Config.build(TINY), metrics=[name for _, name in cases.values()])
    for key, (value, name) in cases.items():
        config = Config.build(TINY, {f"evaluation.{key}": value})
        assert metrics.evaluate(learner, dataset, "test", config, metrics=[name])[name] != base[name], key


def test_critic_model_decides_who_learns(dataset: Dataset, learner: Tiny) -> None:
    found = {
        model: metrics.evaluate(
            learner, dataset, "test", Config.build(TINY, {"critic.model": model}), metrics=["critic_loss_to_chance"]
        )
        for model in (None, "SimpleConvNet", "tests.tiny:Tiny")
    }
    assert found[None] == found["SimpleConvNet"] != found["tests.tiny:Tiny"]


def test_randomisation_needs_the_learners_architecture(dataset: Dataset, learner: Tiny) -> None:
    config = Config.build(TINY, {"model.name": "SimpleConvNet"})
    result = metrics.evaluate_with_reasons(learner, dataset, "test", config, metrics=["randomisation"])
    assert math.isnan(result.values["randomisation"])
    assert "the learner is no SimpleConvNet" in result.reasons["randomisation"]
    assert "randomisation" not in metrics.evaluate(learner, dataset, "test", config, metrics=["sanity"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_all_metrics_on_a_gpu(dataset: Dataset, learner: Tiny) -> None:
    config = Config.build(TINY, {"evaluation.metrics": ["all"]})
    expected = metrics.evaluate(learner, dataset, "validation", config)
    state = torch.cuda.get_rng_state()
    values = metrics.evaluate(copy.deepcopy(learner).cuda(), dataset, "validation", config)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert set(values) == set(expected)
    for name in ("deletion_auc", "insertion_auc", "infidelity", "max_sensitivity", "sparseness", "randomisation"):
        assert values[name] == pytest.approx(expected[name], rel=0.05, abs=1e-4), name
