"""Stages, knobs, resumption: on real images, with a network small enough to be quick."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lsx import data
from lsx.config import Config
from lsx.errors import CheckpointError, ConfigError, DataError, DivergedError
from lsx.explainers import InputXGradientExplainer
from lsx.training import Report, Tick, Trainer, checkpoint
from tests.tiny import Tiny

BASE = Config.build(
    {
        "seed": 3,
        "device": "cpu",
        "model.name": "tests.tiny:Tiny",
        "data": {"dataset": "decoy_mnist", "few_shot_fraction": 0.04},
        "critic": {"batches": 3, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.01},
        "loss": {"lambda_e": 5.0, "lambda_ft": 20.0},
        "explainer.steps": 3,
        "finetune.schedule": "cosine",
        "evaluation.max_images": 50,
        **{f"{stage}.epochs": 2 for stage in ("pretrain", "joint", "finetune")},
        **{f"{stage}.learning_rate": 0.05 for stage in ("pretrain", "joint", "finetune")},
    }
)


def train(*settings: dict[str, Any]) -> nn.Module:
    return Trainer(Config.build(BASE, *settings)).run()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    return train()


def test_training_is_deterministic_and_leaves_the_callers_randomness_alone(reference: nn.Module) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert same(train(), reference)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "knob",
    [
        {"loss.lambda_c": 2.0},
        {"loss.lambda_e": 6.0},
        {"loss.lambda_ft": 30.0},
        {"explainer.method": "integrated_gradient"},
        {"explainer.method": "gradcam"},
        {"explainer.method": "input_x_integrated_gradient"},
        {"explainer.method": "integrated_gradient", "explainer.steps": 4},
        {"explainer.normalization": "sample"},
        {"explainer.target": "predicted"},
        {"critic.images": "clean"},
        {"critic.set": "separate"},
        {"critic.batches": 2},
        {"critic.batch_size": 8},
        {"critic.learning_rate": 0.02},
        {"critic.optimizer": "adadelta"},
        {"critic.labels": "permuted"},
        {"pretrain.optimizer": "sgd"},
        {"joint.optimizer": "sgd"},
        {"finetune.optimizer": "sgd"},
        {"model.name": "SimpleConvNet"},
        {"critic.model": "SimpleConvNet"},
        {"pretrain.learning_rate": 0.06},
        {"joint.learning_rate": 0.06},
        {"finetune.learning_rate": 0.06},
        {"pretrain.batch_size": 16},
        {"joint.batch_size": 16},
        {"finetune.batch_size": 16},
        {"pretrain.epochs": 3},
        {"joint.epochs": 1},
        {"finetune.epochs": 1},
        {"pretrain.schedule": "cosine"},
        {"joint.schedule": "cosine"},
        {"finetune.schedule": "constant"},
        {"joint.schedule": "linear"},
        {"joint.schedule": "exponential"},
        {"seed": 4},
        {"data.seed": 1},
        {"data.few_shot_fraction": 0.05},
    ],
    ids=lambda knob: ",".join(f"{key}={value}" for key, value in knob.items()),
)
def test_every_knob_bites(reference: nn.Module, knob: dict[str, Any]) -> None:
    changed = train(knob)
    if "model.name" in knob:
        assert type(changed) is not type(reference)
        return
    if knob.get("explainer.steps"):  # against three steps of the same explainer
        reference = train({"explainer.method": knob["explainer.method"]})
    assert not same(changed, reference)


def test_chunk_changes_memory_not_results() -> None:
    joint = {"stages": ["pretrain", "joint"]}
    whole, single = train(joint, {"critic.chunk": 3}), train(joint, {"critic.chunk": 1})
    for left, right in zip(whole.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def test_lambda_e_zero_is_joint_training_without_a_critic() -> None:
    """The same classification steps, written here as a plain loop."""
    config = Config.build(BASE, {"stages": ["joint"], "loss.lambda_e": 0.0, "loss.lambda_c": 1.5})
    trainer = Trainer(config)
    learner = Trainer(config).learner
    train_split, weights = trainer.dataset.train, trainer.dataset.class_weights
    optim = torch.optim.Adadelta(learner.parameters(), lr=config.joint.learning_rate)
    order = torch.Generator().manual_seed(config.seed * 8 + 3)
    for _ in range(config.joint.epochs):
        for rows in torch.randperm(len(train_split), generator=order).split(config.joint.batch_size):
            optim.zero_grad()
            losses = nn.functional.nll_loss(learner(train_split.images[rows]), train_split.labels[rows], weight=weights)
            (1.5 * losses).backward()
            optim.step()
    assert same(trainer.run(), learner)


def test_lambda_e_zero_ignores_the_critic_and_its_set() -> None:
    off = {"loss.lambda_e": 0.0, "stages": ["pretrain", "joint"]}
    plain = train(off)
    for knob in ({"critic.learning_rate": 1.0}, {"critic.batches": 2}, {"critic.images": "clean"}):
        assert same(train(off, knob), plain)
    assert same(train(off, {"explainer.method": "gradcam"}), plain)


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [
        ("constant", lambda done, epoch: 0.1),
        ("cosine", lambda done, epoch: 0.05 * (1 + math.cos(math.pi * done))),
        ("linear", lambda done, epoch: 0.1 * (1 - done)),
        ("exponential", lambda done, epoch: 0.1 * 0.5**epoch),
    ],
)
def test_schedules(schedule: str, rate: Callable[[float, int], float]) -> None:
    settings = {"epochs": 3, "schedule": schedule, "decay": 0.5, "learning_rate": 0.1}
    reports: list[tuple[float, float]] = []

    def report(epoch: Report) -> None:
        used = epoch.checkpoint()["optimizer"]["param_groups"][0]["lr"]
        reports.append((used, epoch.metrics["learning_rate"]))

    Trainer(Config.build(BASE, {"stages": ["pretrain"], "pretrain": settings}), callback=report).run()
    steps = 4  # 120 images in batches of 32
    expected = [rate((epoch * steps + steps - 1) / (3 * steps), epoch) for epoch in range(3)]
    assert [used for used, _ in reports] == pytest.approx(expected)
    assert [told for _, told in reports] == pytest.approx(expected)


class Stopped(Exception):
    """What a pulse raises to stop training."""


def stop_at(place: tuple[str, int, int]) -> Callable[[Tick], None]:
    def pulse(tick: Tick) -> None:
        if (tick.stage, tick.epoch, tick.step) == place:
            raise Stopped

    return pulse


@pytest.mark.parametrize(
    "place", [("pretrain", 0, 0), ("pretrain", 1, 2), ("joint", 0, 0), ("joint", 1, 3), ("finetune", 0, 1)]
)
def test_stopping_between_two_steps_and_resuming_ends_at_the_same_bits(
    tmp_path: Any, reference: nn.Module, states: list[dict[str, Any]], place: tuple[str, int, int]
) -> None:
    trainer = Trainer(BASE, pulse=stop_at(place))
    with pytest.raises(Stopped):
        trainer.run()
    path = checkpoint.save(trainer.state(), tmp_path / "state.pt")
    later: list[Report] = []
    last: list[dict[str, Any]] = []

    def report(epoch: Report) -> None:
        later.append(epoch)
        last[:] = [epoch.checkpoint()]

    assert same(Trainer.resume(path, callback=report).run(), reference)
    assert_equal(last[0], states[-1])
    assert later[0].epoch == place[1] + 1


def test_an_epoch_that_was_interrupted_reports_the_same_losses() -> None:
    whole: list[Report] = []
    Trainer(BASE, callback=whole.append).run()
    trainer = Trainer(BASE, pulse=stop_at(("joint", 0, 2)))
    with pytest.raises(Stopped):
        trainer.run()
    rest: list[Report] = []
    Trainer.resume(trainer.state(), callback=rest.append).run()
    assert [report.metrics for report in rest] == [report.metrics for report in whole[2:]]


def test_there_is_no_state_before_the_first_step() -> None:
    with pytest.raises(CheckpointError, match="training has not begun"):
        Trainer(BASE).state()


def test_ticks_count_the_steps_of_every_stage() -> None:
    ticks: list[Tick] = []
    Trainer(BASE, pulse=ticks.append).run()
    assert [(tick.stage, tick.epoch, tick.step) for tick in ticks] == [
        (stage, epoch, step) for stage in ("pretrain", "joint", "finetune") for epoch in (0, 1) for step in range(4)
    ]
    assert {(tick.epochs, tick.steps, tick.total) for tick in ticks} == {(2, 4, 6)}
    assert [tick.position for tick in ticks] == [position for position in range(6) for _ in range(4)]


@pytest.mark.parametrize(
    ("first", "then"), [(["pretrain"], ["joint", "finetune"]), (["pretrain", "joint"], ["finetune"])]
)
def test_stages_trained_one_run_after_the_other_are_those_of_one_run(
    tmp_path: Any, reference: nn.Module, first: list[str], then: list[str]
) -> None:
    path = tmp_path / "first.pt"
    Trainer(BASE.replace({"stages": first}), callback=lambda report: checkpoint.save(report.checkpoint(), path)).run()
    later = BASE.replace({"stages": then, "start": str(path)})
    taken: list[dict[str, Any]] = []
    assert same(Trainer(later, callback=lambda report: taken.append(report.checkpoint())).run(), reference)
    path.unlink()  # a resumed run has all that it needs
    assert same(Trainer.resume(taken[0]).run(), reference)


def test_a_start_of_another_architecture_is_refused(tmp_path: Any, states: list[dict[str, Any]]) -> None:
    path = checkpoint.save(states[0], tmp_path / "start.pt")
    with pytest.raises(CheckpointError, match="do not fit SimpleConvNet"):
        Trainer(BASE.replace({"start": str(path), "model.name": "SimpleConvNet"}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        Trainer(BASE.replace({"start": str(tmp_path / "none.pt")}))


@pytest.fixture(scope="module")
def states() -> list[dict[str, Any]]:
    """A checkpoint after every epoch of the uninterrupted run."""
    taken: list[dict[str, Any]] = []
    Trainer(BASE, callback=lambda report: taken.append(report.checkpoint())).run()
    return taken


@pytest.mark.parametrize("epoch", range(6))
def test_resuming_at_any_epoch_ends_at_the_same_bits(
    tmp_path: Any, states: list[dict[str, Any]], reference: nn.Module, epoch: int
) -> None:
    path = checkpoint.save(states[epoch], tmp_path / "state.pt")
    later: list[dict[str, Any]] = []
    trainer = Trainer.resume(path, callback=lambda report: later.append(report.checkpoint()))
    assert same(trainer.run(), reference)
    assert [state["position"] for state in later] == list(range(epoch + 2, 7))
    for resumed, straight in zip(later, states[epoch + 1 :], strict=True):
        assert_equal(resumed, straight)


class Noisy(Tiny):
    """Dropout and batch normalization: randomness and state in every forward pass."""

    def __init__(self, channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10) -> None:
        super().__init__(channels, image_size, classes)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(self.norm(images), 0.1, self.training))


def test_resuming_a_network_with_dropout_and_batch_normalization() -> None:
    config = BASE.replace({"model.name": "tests.training.test_trainer:Noisy"})
    taken: list[dict[str, Any]] = []
    whole = Trainer(config, callback=lambda report: taken.append(report.checkpoint())).run()
    for state in taken:
        assert same(Trainer.resume(state).run(), whole), state["position"]


def test_resuming_leaves_the_callers_randomness_alone(states: list[dict[str, Any]]) -> None:
    before = torch.get_rng_state()
    Trainer.resume(states[4])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dataset_of_another_configuration_is_refused() -> None:
    dataset = data.load(BASE.replace({"stages": ["pretrain"]}))
    with pytest.raises(DataError, match="the dataset's critic set has 0 images; critic.batches 3 x"):
        Trainer(BASE, dataset)


def assert_equal(one: Any, other: Any) -> None:
    """Equality of nested plain data and tensors, bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    else:
        assert one == other


def test_reports_name_stage_position_and_critic_against_chance() -> None:
    reports: list[Report] = []
    Trainer(BASE, callback=reports.append).run()
    assert [(r.stage, r.epoch, r.position) for r in reports] == [
        ("pretrain", 1, 1),
        ("pretrain", 2, 2),
        ("joint", 1, 3),
        ("joint", 2, 4),
        ("finetune", 1, 5),
        ("finetune", 2, 6),
    ]
    assert {r.total for r in reports} == {6}
    assert [r.ends_stage for r in reports] == [False, True] * 3
    joint, finetune = reports[2].metrics, reports[4].metrics
    assert joint["critic_loss_mean_to_chance"] == pytest.approx(joint["critic_loss_mean"] / 2.302585, rel=1e-5)
    assert joint["loss"] == pytest.approx(joint["classification_loss"] + 5 * joint["critic_loss_mean"], rel=1e-4)
    expected = finetune["classification_loss"] + 20 * finetune["explanation_loss"]
    assert finetune["loss"] == pytest.approx(expected, rel=1e-4)
    assert all(0 <= r.metrics["validation_accuracy"] <= 1 for r in reports)


@pytest.mark.parametrize("stages", [["pretrain"], ["pretrain", "joint"], ["joint"], ["joint", "finetune"]])
def test_any_run_of_neighbouring_stages(stages: list[str]) -> None:
    reports: list[Report] = []
    Trainer(Config.build(BASE, {"stages": stages}), callback=reports.append).run()
    assert [r.stage for r in reports] == [stage for stage in stages for _ in range(2)]


def test_finetuning_starts_from_a_new_learner() -> None:
    joint = train({"stages": ["pretrain", "joint"]})
    frozen = {"finetune.optimizer": "sgd", "finetune.learning_rate": 1e-12, "finetune.epochs": 1}
    fresh = train(frozen)
    untaught = train(frozen, {"loss.lambda_ft": 0.0})
    assert not same(fresh, joint)
    for left, right in zip(fresh.parameters(), untaught.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", ["lambda_e", "lambda_ft"])
def test_an_explainer_without_gradient_stops_training_before_it_starts(weight: str) -> None:
    off = {"loss.lambda_e": 0.0, "loss.lambda_ft": 0.0, "explainer.method": "input"}
    with pytest.raises(ConfigError, match="explainer 'input' gives no gradient to the learner"):
        Trainer(Config.build(BASE, off, {f"loss.{weight}": 1.0}))
    assert isinstance(train(off), nn.Module)  # without explanation losses it may be named


def test_divergence_is_one_clear_line() -> None:
    wild = {"stages": ["joint"], "joint.optimizer": "sgd", "joint.learning_rate": 100.0, "loss.lambda_e": 1e9}
    with pytest.raises(DivergedError, match="training diverged: .* lower the loss weights or learning rates"):
        train(wild)


def test_damaged_and_foreign_checkpoints(tmp_path: Any, states: list[dict[str, Any]]) -> None:
    path = checkpoint.save(states[0], tmp_path / "state.pt")
    assert not list(tmp_path.glob("*.part"))
    content = path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save(states[0] | {"format": 99}, tmp_path / "future.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "pickle.pt")
    faults = {"cut": "damaged", "other": "is no checkpoint", "future": "format 99", "pickle": "damaged", "no": "read"}
    for name, message in faults.items():
        with pytest.raises(CheckpointError, match=message) as caught:
            checkpoint.load(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)
    torch.testing.assert_close(torch.load(path, weights_only=True)["learner"], states[0]["learner"])


def test_checkpoint_of_another_architecture_or_other_data_is_refused(states: list[dict[str, Any]]) -> None:
    other = BASE.replace({"model.name": "SimpleConvNet"}).plain()
    with pytest.raises(CheckpointError, match="do not fit SimpleConvNet"):
        Trainer.resume(states[0] | {"config": other})
    with pytest.raises(CheckpointError, match="other data"):
        Trainer.resume(states[0] | {"data": {"sha256": "0" * 64}})
    with pytest.raises(CheckpointError, match="stage 'finetune' is not among"):
        Trainer.resume(states[5] | {"config": BASE.replace({"stages": ["pretrain"]}).plain()})


@pytest.mark.parametrize("device", ["cuda:7", "cuda:99999999999999999999"])
def test_missing_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device = '{device}' is"):
        Trainer(BASE.replace({"device": device}), data.load(BASE))


def test_an_explainer_that_cannot_explain_the_network_is_refused_before_training() -> None:
    settings = {"model.name": "MLP", "explainer.method": "gradcam", "stages": ["pretrain"]}
    with pytest.raises(ConfigError, match="Grad-CAM needs a convolution"):
        Trainer(BASE.replace(settings))


class Logits(Tiny):
    """What the author of a network forgets: log_softmax."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * 2 + 1


class FiveClasses(Tiny):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images)[:, :5].log_softmax(1)


class OneChannelOnly(Tiny):
    def __init__(self, channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10) -> None:
        super().__init__(2, image_size, classes)


class PerImage(InputXGradientExplainer):
    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        raw = super().attribute(model, images, targets, create_graph=create_graph)
        return raw.sum((2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"model.name": "Logits"}, "Logits must give log-probabilities: end its forward with log_softmax"),
        ({"model.name": "FiveClasses"}, r"FiveClasses must give log-probabilities \(8, 10\) here, not 8 x 5"),
        ({"model.name": "OneChannelOnly"}, "OneChannelOnly does not take images of 1 x 28 x 28"),
        ({"explainer.method": "PerImage"}, "PerImage' must give explanations shaped like the images"),
        ({"explainer.method": "PerImage", "stages": ["pretrain"]}, "PerImage' must give explanations shaped like"),
    ],
)
def test_networks_and_explainers_of_ones_own_that_do_not_fit(settings: dict[str, Any], line: str) -> None:
    own = {key: f"{__name__}:{name}" if key != "stages" else name for key, name in settings.items()}
    with pytest.raises(ConfigError, match=line):
        Trainer(BASE.replace(own))


def test_a_stopped_trainer_that_is_run_again_goes_on(reference: nn.Module) -> None:
    pulses = iter([stop_at(("pretrain", 1, 1)), stop_at(("finetune", 0, 2)), lambda tick: None])
    trainer = Trainer(BASE)
    for _ in range(2):
        trainer.pulse = next(pulses)
        with pytest.raises(Stopped):
            trainer.run()
        torch.rand(3)  # a caller's own draws between
    trainer.pulse = next(pulses)
    assert same(trainer.run(), reference)
    assert same(trainer.run(), reference)  # nothing is left


def test_finetuning_from_a_finished_run_aims_at_its_joint_model(
    tmp_path: Any, states: list[dict[str, Any]], reference: nn.Module
) -> None:
    path = checkpoint.save(states[-1], tmp_path / "finished.pt")
    assert same(Trainer(BASE.replace({"stages": ["finetune"], "start": str(path)})).run(), reference)


@pytest.mark.parametrize("stages", [["pretrain", "joint"], ["pretrain", "joint", "finetune"]])
@pytest.mark.parametrize("loss", [{}, {"loss.lambda_c": 3.0}, {"loss.lambda_e": 0.5}, {"loss.lambda_ft": 1.0}])
def test_a_chain_trains_as_autograd_does(loss: dict[str, float], stages: list[str]) -> None:
    one, other = (train(loss, {"stages": stages, "model.name": f"tests.tiny:{name}"}) for name in ("Tiny", "TinyChain"))
    for found, expected in zip(other.parameters(), one.parameters(), strict=True):
        assert (found - expected).abs().max() < 2e-4 * expected.abs().max()
