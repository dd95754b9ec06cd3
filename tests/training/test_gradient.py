"""The explanation gradient against finite differences, and what it must and must not do."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lsx import explainers
from lsx.config import CriticConfig, ExplainerConfig
from lsx.critic import CriticSet, critic_pass, require_gradient
from lsx.errors import ConfigError
from lsx.explainers import Explainer
from lsx.models import MLP, Net1, SimpleConvNet
from lsx.optim import optimizer, weighted_cross_entropy
from tests.tiny import Tiny, TinyChain, images, load, network

LAMBDA_E = 10.0
NOISE = 5  # seed of what noisy explainers draw: every loss that is compared must see the same
CONFIG = CriticConfig(batches=3, batch_size=8, optimizer="adam", learning_rate=1e-2)


def setting(method: str, **options: object) -> tuple[nn.Module, nn.Module, CriticSet, Tensor, Explainer]:
    """A trained learner, a critic and a critic set, in float64."""
    values = load("joint_step_input_x_gradient")
    rows = slice(0, 24)
    critic_set = CriticSet(
        images(values, "critic_x_uint8")[rows].double().reshape(3, 8, 1, 28, 28), values["critic_y"][rows].reshape(3, 8)
    )
    explainer = explainers.build(ExplainerConfig(method=method, **options))
    weights = values["class_weights"].double()
    return network(values, "learner").double(), network(values, "critic").double(), critic_set, weights, explainer


def frozen_critics(
    learner: nn.Module, critic: nn.Module, critic_set: CriticSet, order: Tensor, weights: Tensor, explainer: Explainer
) -> list[nn.Module]:
    """The critic as it was at each batch, by a plain loop of its own."""
    torch.manual_seed(NOISE)
    critic = copy.deepcopy(critic)
    optim = optimizer(CONFIG.optimizer, critic.parameters(), CONFIG.learning_rate)
    critics = []
    for batch in order:
        critics.append(copy.deepcopy(critic))
        optim.zero_grad()
        explanation = explainer(learner, critic_set.images[batch], critic_set.labels[batch], create_graph=True)
        explanation = explanation.detach()
        weighted_cross_entropy(critic(explanation), critic_set.labels[batch], weights).backward()
        optim.step()
    return critics


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("input_x_gradient", {}),
        ("input_x_gradient", {"normalization": "sample"}),
        ("input_x_gradient", {"target": "predicted"}),
        ("integrated_gradient", {"steps": 6}),
        ("input_x_integrated_gradient", {"steps": 6}),
        ("gradcam", {}),
        ("saliency", {}),
        ("smoothgrad", {"samples": 3}),
        ("smoothgrad", {"samples": 2, "noise": 0.3, "normalization": "sample"}),
        ("gradient_shap", {"samples": 3}),
    ],
)
def test_explanation_gradient_equals_finite_differences(method: str, options: dict[str, object]) -> None:
    learner, critic, critic_set, weights, explainer = setting(method, **options)
    order = torch.tensor([2, 0, 1])
    critics = frozen_critics(learner, critic, critic_set, order, weights, explainer)

    def loss() -> float:
        torch.manual_seed(NOISE)
        losses = [
            weighted_cross_entropy(
                frozen(explainer(learner, critic_set.images[batch], critic_set.labels[batch], create_graph=True)),
                critic_set.labels[batch],
                weights,
            )
            for frozen, batch in zip(critics, order, strict=True)
        ]
        return LAMBDA_E * float(torch.stack(losses).mean().detach())

    torch.manual_seed(NOISE)
    taught = critic_pass(learner, critic, critic_set, order, explainer, weights, CONFIG, LAMBDA_E)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in learner.parameters()]
        analytic = sum(float((g * d).sum()) for g, d in zip(taught.gradients, direction, strict=True))
        # Explanations of ReLU networks jump where a unit switches: the step must be too small to switch any.
        step, values = 1e-8, []
        for sign in (1, -1):
            moved = copy.deepcopy(learner)
            with torch.no_grad():
                for parameter, part in zip(learner.parameters(), direction, strict=True):
                    parameter.add_(part, alpha=sign * step)
            values.append(loss())
            learner.load_state_dict(moved.state_dict())
        numeric = (values[0] - values[1]) / (2 * step)
        assert analytic == pytest.approx(numeric, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (model, method)
        for model in (Net1, SimpleConvNet, MLP, Tiny)
        for method in ("input_x_gradient", "integrated_gradient", "gradcam", "saliency", "smoothgrad", "gradient_shap")
        if (model, method) != (MLP, "gradcam")
    ],
)
def test_gradient_reaches_every_learner_weight(model: type[nn.Module], method: str) -> None:
    torch.manual_seed(0)
    values = load("joint_step_input_x_gradient")
    critic_set = CriticSet(
        images(values, "critic_x_uint8")[:16].reshape(2, 8, 1, 28, 28), values["critic_y"][:16].reshape(2, 8)
    )
    learner = model()
    explainer = explainers.build(ExplainerConfig(method=method, steps=3, samples=2))
    taught = critic_pass(
        learner, model(), critic_set, torch.arange(2), explainer, values["class_weights"], CONFIG, LAMBDA_E
    )
    for (name, _), gradient in zip(learner.named_parameters(), taught.gradients, strict=True):
        assert gradient.abs().max() > 0, name


def test_gradient_is_linear_in_lambda_and_leaves_the_learner_alone() -> None:
    learner, critic, critic_set, weights, explainer = setting("input_x_gradient")
    before = copy.deepcopy(learner.state_dict())
    order = torch.arange(3)
    once, thrice = (
        critic_pass(learner, copy.deepcopy(critic), critic_set, order, explainer, weights, CONFIG, weight)
        for weight in (1.0, 3.0)
    )
    for small, large in zip(once.gradients, thrice.gradients, strict=True):
        torch.testing.assert_close(large, 3 * small)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.parameters())


class Detached(Explainer):
    """What stock gradient attributions do: the graph is gone."""

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        full = explainers.InputXGradientExplainer(self.config)
        return full.attribute(model, images, targets, create_graph=False).detach()


@pytest.mark.parametrize("factory", [Detached, explainers.InputExplainer])
def test_explainer_without_gradient_is_refused(factory: type[Explainer]) -> None:
    values = load("explanations")
    explainer = factory(ExplainerConfig(method="mine"))
    with pytest.raises(ConfigError, match="explainer 'mine' gives no gradient to the learner"):
        require_gradient(explainer, Tiny(), images(values), values["y"])


def test_differentiable_explainer_is_accepted() -> None:
    values = load("explanations")
    for method in set(explainers.EXPLAINERS) - {"input", "guided_gradcam"}:
        explainer = explainers.build(ExplainerConfig(method=method, steps=4))
        assert require_gradient(explainer, Tiny(), images(values), values["y"]) is None


class Reordered(TinyChain):
    """Registers its last layer first: its parameters are in another order than its layers."""

    def __init__(self, channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10) -> None:
        nn.Module.__init__(self)
        self.fc = nn.Linear(200, classes)
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.conv1 = nn.Conv2d(channels, 4, 5, stride=2)


def test_a_critic_whose_parameters_are_in_another_order_than_its_layers() -> None:
    torch.manual_seed(0)
    learner, critics = TinyChain(), [Reordered(), Reordered()]
    critics[1].load_state_dict(critics[0].state_dict())
    critics[1].register_forward_hook(lambda *_: None)  # so autograd differentiates it
    critic_set = CriticSet(torch.randn(3, 8, 1, 28, 28), torch.randint(0, 10, (3, 8)))
    config, explainer = CriticConfig(batches=3, batch_size=8, learning_rate=1.0), explainers.build(ExplainerConfig())
    passes = [
        critic_pass(learner, critic, critic_set, torch.arange(3), explainer, torch.full((10,), 0.1), config, 5.0)
        for critic in critics
    ]
    torch.testing.assert_close(passes[0].losses, passes[1].losses)
    for one, other in zip(critics[0].parameters(), critics[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
