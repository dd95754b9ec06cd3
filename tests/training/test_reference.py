"""One joint step and one finetuning step against the authors' code."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lsx import explainers
from lsx.config import CriticConfig, ExplainerConfig
from lsx.critic import CriticPass, CriticSet, critic_pass
from lsx.models import SimpleConvNet
from lsx.optim import optimizer, weighted_cross_entropy
from lsx.training.device import computing
from lsx.training.stages import finetune_step
from tests.tiny import REFERENCE, Tiny, TinyChain, images, load, relative_error, weights

SIMPLE = Path(os.environ.get("LSX_REFERENCE", REFERENCE)) / "simple_conv_net"
METHODS = ["input_x_gradient", "integrated_gradient"]


def reference_weights(values: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries below ``prefix/`` under our layer names."""
    return {key.replace("last_conv", "conv2"): value for key, value in weights(values, prefix).items()}


def reference_parameters(values: dict[str, Tensor], prefix: str, model: nn.Module) -> list[Tensor]:
    """Entries below ``prefix/`` in the order of the model's parameters."""
    renamed = reference_weights(values, prefix)
    return [renamed[name] for name, _ in model.named_parameters()]


def network(values: dict[str, Tensor], prefix: str, factory: type[nn.Module]) -> nn.Module:
    model = factory()
    model.load_state_dict(reference_weights(values, prefix))
    return model


def joint(values: dict[str, Tensor], method: str, factory: type[nn.Module], chunk: int) -> tuple[nn.Module, CriticPass]:
    """The reference's critic pass, computed here."""
    learner, critic = network(values, "learner", factory), network(values, "critic", factory)
    batches, size = int(values["n_critic_batches"]), int(values["batch_size_critic"])
    critic_set = CriticSet(
        images(values, "critic_x_uint8").reshape(batches, size, 1, 28, 28), values["critic_y"].reshape(batches, size)
    )
    config = CriticConfig(batches=batches, batch_size=size, learning_rate=float(values["critic_lr"]), chunk=chunk)
    taught = critic_pass(
        learner,
        critic,
        critic_set,
        values["order"],
        explainers.build(ExplainerConfig(method=method)),
        values["class_weights"],
        config,
        float(values["lambda_e"]),
    )
    return learner, taught


def check_joint(values: dict[str, Tensor], method: str, factory: type[nn.Module], chunk: int, tolerance: float) -> None:
    learner, taught = joint(values, method, factory, chunk)

    def expected(prefix: str) -> list[Tensor]:
        return reference_parameters(values, prefix, learner)

    assert relative_error(taught.losses, values["critic_losses"].float()) < 1e-4
    assert float(taught.losses.mean()) == pytest.approx(float(values["mean_critic_loss"]), rel=1e-4)
    for actual, reference in zip(taught.critic.parameters(), expected("critic_after"), strict=True):
        assert relative_error(actual, reference) < 1e-4
    for actual, reference in zip(taught.gradients, expected("grad_explanation"), strict=True):
        assert relative_error(actual, reference) < tolerance

    optim = optimizer("adadelta", learner.parameters(), float(values["learner_lr"]))
    loss = weighted_cross_entropy(learner(images(values)), values["y"], values["class_weights"])
    assert float(loss.detach()) == pytest.approx(float(values["classification_loss"]), rel=1e-4)
    (float(values["lambda_c"]) * loss).backward()
    for parameter, gradient in zip(learner.parameters(), taught.gradients, strict=True):
        parameter.grad += gradient
    for parameter, reference in zip(learner.parameters(), expected("grad_total"), strict=True):
        assert relative_error(parameter.grad, reference) < tolerance
    optim.step()
    for parameter, reference in zip(learner.parameters(), expected("learner_after"), strict=True):
        assert relative_error(parameter, reference) < 1e-4


@pytest.mark.parametrize("chunk", [1, 3, 4])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factory", [Tiny, TinyChain])
def test_joint_step_matches_the_authors(factory: type[Tiny], method: str, chunk: int) -> None:
    check_joint(load(f"joint_step_{method}"), method, factory, chunk, tolerance=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factory", [Tiny, TinyChain])
def test_joint_step_in_bfloat16_is_close_to_the_authors(factory: type[Tiny], method: str) -> None:
    values = load(f"joint_step_{method}")
    with computing("bfloat16", torch.device("cpu")):
        learner, taught = joint(values, method, factory, chunk=1)
    expected = reference_parameters(values, "grad_explanation", learner)
    found, reference = (torch.cat([one.flatten() for one in each]) for each in (taught.gradients, expected))
    assert found.dtype == torch.float32
    assert relative_error(found, reference) > 1e-4  # it was computed in another precision
    assert torch.cosine_similarity(found, reference, dim=0) > 0.95
    assert relative_error(taught.losses, values["critic_losses"].float()) < 1e-2


def check_finetune(values: dict[str, Tensor], factory: type[nn.Module]) -> None:
    learner = network(values, "learner", factory)
    train = SimpleNamespace(images=images(values), labels=values["y"])
    dataset = SimpleNamespace(train=train, class_weights=values["class_weights"])  # what the step reads of a Dataset
    explainer = explainers.build(ExplainerConfig(method="input_x_gradient"))
    step = finetune_step(learner, dataset, explainer, values["target_explanation"], float(values["lambda_ft"]))
    losses = step(torch.arange(len(train.labels)))
    assert float(losses["classification_loss"]) == pytest.approx(float(values["classification_loss"]), rel=1e-4)
    assert float(losses["explanation_loss"]) == pytest.approx(float(values["mse"]), rel=1e-4)
    expected = reference_parameters(values, "grad_total", learner)
    for parameter, reference in zip(learner.parameters(), expected, strict=True):
        assert relative_error(parameter.grad, reference) < 1e-4


@pytest.mark.parametrize("factory", [Tiny, TinyChain])
def test_finetune_step_matches_the_authors(factory: type[Tiny]) -> None:
    check_finetune(load("finetune_step"), factory)


needs_simple = pytest.mark.skipif(
    not SIMPLE.is_dir(), reason="set LSX_REFERENCE to a folder with simple_conv_net/ for the larger reference"
)


@needs_simple
@pytest.mark.parametrize(("method", "tolerance"), [("input_x_gradient", 1e-3), ("integrated_gradient", 2e-2)])
def test_simple_conv_net_joint_step(method: str, tolerance: float) -> None:
    # Max-pool ties, of which a constant background makes many, and the clipping at zero make this depend on the order
    # of summation: in double precision, input x gradient's is 4e-4 away from the reference.
    check_joint(load(f"joint_step_{method}", SIMPLE), method, SimpleConvNet, chunk=1, tolerance=tolerance)


@needs_simple
def test_simple_conv_net_finetune_step() -> None:
    check_finetune(load("finetune_step", SIMPLE), SimpleConvNet)


@needs_simple
@pytest.mark.parametrize("method", [*METHODS, "input_x_integrated_gradient", "gradcam"])
def test_simple_conv_net_explanations(method: str) -> None:
    values = load("explanations", SIMPLE)
    learner = network(values, "learner", SimpleConvNet)
    explanation = explainers.build(ExplainerConfig(method=method))(learner, images(values), values["y"])
    assert relative_error(explanation, values[f"explanation/{method}"]) < 1e-4
