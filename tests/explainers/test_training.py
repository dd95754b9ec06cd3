"""Explainers inside training: refused by name, reproducible, resumable; with every network and any channels."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lsx import explainers, models
from lsx.config import Config, ExplainerConfig
from lsx.errors import ConfigError
from lsx.explainers import InputXGradientExplainer
from lsx.metrics import evaluate
from lsx.training import Report, Trainer
from tests.tiny import images, load, network

BASE = Config.build(
    {
        "device": "cpu",
        "model.name": "tests.tiny:Tiny",
        "data": {"dataset": "decoy_mnist", "few_shot_fraction": 0.02},
        "critic": {"batches": 2, "batch_size": 8, "optimizer": "adam", "learning_rate": 0.01},
        "loss": {"lambda_e": 5.0, "lambda_ft": 20.0},
        "explainer.samples": 2,
        "evaluation": {"max_images": 10, "faithfulness_images": 5, "encoder_epochs": 0},
        **{f"{stage}.epochs": 2 for stage in ("joint", "finetune")},
        "pretrain.epochs": 1,
    }
)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()]).clone()


@pytest.mark.parametrize("weight", ["lambda_e", "lambda_ft"])
def test_an_explainer_for_evaluation_only_is_refused_by_name(weight: str) -> None:
    off = {"loss.lambda_e": 0.0, "loss.lambda_ft": 0.0}
    config = Config.build(BASE, {"explainer.method": "guided_gradcam"}, off, {f"loss.{weight}": 1.0})
    with pytest.raises(ConfigError, match="explainer 'guided_gradcam' .*for evaluation only") as error:
        Trainer(config)
    assert "\n" not in str(error.value)


def test_an_explainer_for_evaluation_only_measures_a_learner_without_explanation_loss() -> None:
    settings = {"explainer.method": "guided_gradcam", "model.name": "SimpleConvNet"}
    config = Config.build(BASE, settings, {"loss.lambda_e": 0.0, "loss.lambda_ft": 0.0})
    trainer = Trainer(config)
    scores = evaluate(trainer.run(), trainer.dataset, "validation", config)
    assert 0 <= scores["relevance_mass"] <= 1
    assert scores["relevance_mass"] != scores["reference_relevance_mass"]


@pytest.mark.parametrize("method", ["smoothgrad", "gradient_shap"])
def test_noise_is_resumable_and_undisturbed_by_measuring(method: str) -> None:
    config = Config.build(BASE, {"explainer.method": method})
    states: list[dict[str, Any]] = []

    def measure(report: Report) -> None:
        states.append(report.checkpoint())
        evaluate(report.learner, trainer.dataset, "validation", config)

    trainer = Trainer(config, callback=measure)
    whole = weights(trainer.run())
    assert torch.equal(weights(Trainer(config).run()), whole)
    for state in (states[1], states[3]):  # in joint training and in finetuning
        assert torch.equal(weights(Trainer.resume(state).run()), whole)
    changes = [{"explainer.samples": 3}, {"explainer.noise": 0.2}, {"seed": 1}, {"explainer.method": "saliency"}]
    assert not any(torch.equal(weights(Trainer(Config.build(config, one)).run()), whole) for one in changes)


def test_an_mlp_critic_teaches_something_else() -> None:
    config = Config.build(BASE, {"stages": ["joint"], "joint.epochs": 1})
    learners = [Trainer(Config.build(config, {"critic.model": name})).run() for name in ("MLP", None)]
    assert not torch.equal(*map(weights, learners))


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", ["Net1", "SimpleConvNet", "MLP"])
def test_every_explainer_on_every_network_and_any_channels(name: str, channels: int) -> None:
    torch.manual_seed(0)
    model = models.build(name, (channels, 16, 18), 4)
    for method in explainers.EXPLAINERS:
        explainer = explainers.build(ExplainerConfig(method=method, steps=3, samples=2))
        for count in (1, 3):
            inputs, targets = torch.randn(count, channels, 16, 18), torch.arange(count)
            if name == "MLP" and "gradcam" in method:
                with pytest.raises(ConfigError, match="Grad-CAM needs a convolution; model MLP has none"):
                    explainer(model, inputs, targets)
                continue
            explanation = explainer(model, inputs, targets, create_graph=explainer.trains_learner)
            assert explanation.shape == inputs.shape
            assert explanation.isfinite().all() and explanation.any()
            assert explanation.requires_grad is explainer.trains_learner


class Watch(TorchDispatchMode):
    """Refuses what would make the processor wait for a GPU, or move something between them."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.name()
        assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select", "equal")), name
        assert "device" not in (kwargs or {}) or "_to_copy" not in name, name
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("method", sorted(set(explainers.EXPLAINERS) - {"guided_gradcam"}))
def test_explanations_that_train_never_wait_for_the_device(method: str, count: int) -> None:
    explainer = explainers.build(ExplainerConfig(method=method, steps=3, samples=2))
    model = models.build("SimpleConvNet", (1, 28, 28), 10)
    inputs, targets = torch.randn(count, 1, 28, 28), torch.arange(count)
    with Watch():
        explainer(model, inputs, targets, create_graph=True)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            targets[0].item()


class Squared(InputXGradientExplainer):
    """A user's own explainer, in a few lines."""

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        return super().attribute(model, images, targets, create_graph=create_graph) ** 2


def test_a_users_explainer_trains_a_learner() -> None:
    values = load("explanations")
    model, inputs, labels = network(values, "learner"), images(values), values["y"]
    path = "tests.explainers.test_training:Squared"
    squared = explainers.build(ExplainerConfig(method=path, normalization="sample"))(model, inputs, labels)
    plain = InputXGradientExplainer(ExplainerConfig()).attribute(model, inputs, labels, create_graph=False)
    torch.testing.assert_close(squared, (plain / plain.abs().amax((1, 2, 3), keepdim=True)) ** 2)
    config = Config.build(BASE, {"explainer.method": path})
    without = Config.build(BASE, {"explainer.method": path, "loss.lambda_e": 0.0, "loss.lambda_ft": 0.0})
    assert not torch.equal(weights(Trainer(config).run()), weights(Trainer(without).run()))
