"""What a few steps of a trial say about the whole."""

import math
import time
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch

from lsx import Config, data
from lsx.data import Dataset
from lsx.errors import ConfigError
from lsx.study.worker import rehearsal
from lsx.study.worker.rehearsal import Rehearsal, StageCost, rehearse
from lsx.training import Trainer

SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "data": {"dataset": "decoy_mnist", "few_shot_fraction": 0.05},  # 150 training images
    "model.name": "SimpleConvNet",
    "pretrain": {"epochs": 7, "batch_size": 32, "optimizer": "adam"},
    "joint": {"epochs": 2, "batch_size": 64},
    "finetune": {"epochs": 3, "batch_size": 150, "optimizer": "adam"},
    "critic": {"batches": 2, "batch_size": 8},
    "evaluation": {"encoder_epochs": 0, "max_images": 48, "faithfulness_images": 8, "metrics": ["accuracy"]},
}


def config(**changes: Any) -> Config:
    return Config.build(SETTINGS, changes)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.load(config())


@pytest.fixture(scope="module")
def whole(dataset: Dataset) -> Rehearsal:
    return rehearse(config(), dataset)


class Watched(torch.nn.Module):
    """Counts its training steps with whole batches; fails at them, or gives nonsense, if it is told to."""

    steps = 0
    error: Exception | None = None
    factor = 1.0

    def __init__(self, channels: int, image_size: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(channels * image_size[0] * image_size[1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) == 32:
            type(self).steps += 1
            if self.error is not None:
                raise self.error
            return torch.log_softmax(self.linear(images.flatten(1)), dim=1) * self.factor
        return torch.log_softmax(self.linear(images.flatten(1)), dim=1)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(Watched, "steps", 0)
    monkeypatch.setattr(Watched, "error", None)
    monkeypatch.setattr(Watched, "factor", 1.0)
    return config(**{"model.name": f"{__name__}:Watched", "stages": ["pretrain"]})


def test_stages_have_the_trials_epochs_and_steps(whole: Rehearsal) -> None:
    shapes = [(one.stage, one.epochs, one.steps) for one in whole.stages]
    assert shapes == [("pretrain", 7, 5), ("joint", 2, 3), ("finetune", 3, 1)]
    assert all(one.step > 0 and one.validation > 0 for one in whole.stages)
    assert [one.start > 0 for one in whole.stages] == [False, False, True]  # finetuning's targets
    assert whole.fault is None and whole.notes == ()
    assert whole.device == "cpu" and whole.threads == torch.get_num_threads()


def test_one_seed_is_the_sum_of_its_parts() -> None:
    stage = StageCost("finetune", step=0.5, steps=10, epochs=3, validation=1.0, start=2.0)
    assert stage.seconds == 2.0 + 3 * (10 * 0.5 + 1.0)
    other = StageCost("pretrain", step=1.0, steps=1, epochs=1, validation=0.0)
    assert Rehearsal((other, stage), 4.0, 100.0, 0, 0, 0, "cpu", 1).seconds == 1.0 + 20.0 + 4.0


def test_memory_and_checkpoint(whole: Rehearsal, dataset: Dataset) -> None:
    assert whole.resident_bytes > 100 * 2**20 and whole.peak_bytes >= 0
    short = config(**{"pretrain.epochs": 1, "joint.epochs": 1, "finetune.epochs": 1})
    trainer = Trainer(short, dataset)
    trainer.run()
    file = BytesIO()
    torch.save(trainer.state(), file)
    assert whole.checkpoint_bytes == pytest.approx(file.tell(), rel=0.05)


def test_memory_that_was_taken_in_between_is_seen() -> None:
    with rehearsal._Memory(torch.device("cpu")) as memory:
        block = torch.ones(256 * 2**20 // 4)
        time.sleep(0.05)
        del block
    assert memory.peak > 200 * 2**20


def test_random_state_and_data_stay(watched: Config, dataset: Dataset) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    images = dataset.train.images.clone()
    rehearse(watched, dataset)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(dataset.train.images, images) and len(dataset.validation) > 1


def test_one_step_more_than_asked_for_is_made(watched: Config, dataset: Dataset) -> None:
    rehearse(watched, dataset, steps=2)
    assert Watched.steps == 3
    rehearse(watched, dataset, steps=6)  # of epochs with four full batches, and a smaller one that is not counted
    assert Watched.steps == 3 + 6


def test_impatience_ends_a_stage_and_scales_an_evaluation(
    watched: Config, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "PATIENCE", 0.0)
    found = rehearse(watched, dataset)
    assert Watched.steps == 1 and found.stages[0].step > 0
    assert found.notes == ("evaluation: timed on 32 of 48 images, and scaled",)
    assert math.isfinite(found.seconds)


def test_an_evaluation_is_extended_as_a_line(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that takes 1 s, 10 ms an image, and once 7 s more."""
    seen: list[tuple[int, int]] = []

    def timed(_: Any, action: Any) -> float:
        action()
        return (8.0 if len(seen) == 1 else 1.0) + 0.01 * seen[-1][0]

    def evaluation(_: Any, __: Any, ___: Any, settings: Config) -> None:
        seen.append((settings.evaluation.max_images, settings.evaluation.faithfulness_images))

    monkeypatch.setattr(rehearsal, "_timed", timed)
    monkeypatch.setattr(rehearsal, "evaluate_with_reasons", evaluation)
    monkeypatch.setattr(rehearsal, "PATIENCE", 4.0)
    big = config(**{"evaluation.max_images": 500, "evaluation.faithfulness_images": 100})
    found = rehearsal._Measurement(big, dataset, 1)
    found._evaluate(torch.nn.Identity())
    assert seen == [(32, 6), (32, 6), (96, 19)]  # 4 s at 1.32 s for 32 images
    assert found.once == pytest.approx(7.0)
    assert found.evaluation == pytest.approx(1.0 + 0.01 * 500)


def test_targets_of_few_images_are_scaled(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "TARGET_IMAGES", 50)
    small = config(**{"stages": ["joint", "finetune"], "joint.epochs": 0, "finetune.batch_size": 30})
    found = rehearse(small, dataset, steps=1)
    assert found.notes == ("finetune: targets timed on 50 of 150 images, and scaled",)
    assert [(one.stage, one.steps) for one in found.stages] == [("finetune", 5)]
    without = rehearse(small.replace({"loss.lambda_ft": 0.0}), dataset, steps=1)
    assert without.notes == ()


@pytest.mark.parametrize("steps", [2, 8])  # in the middle of an epoch, and beyond its end, where the trainer looks
def test_divergence_is_reported_with_the_times(watched: Config, dataset: Dataset, steps: int) -> None:
    Watched.factor = math.nan
    found = rehearse(watched, dataset, steps=steps)
    assert found.fault is not None and found.fault.startswith("pretrain: training diverged: loss")
    assert "\n" not in found.fault and math.isfinite(found.stages[0].step)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")]
)
def test_a_trial_without_memory_is_reported(watched: Config, dataset: Dataset, error: Exception) -> None:
    Watched.error = error
    found = rehearse(watched, dataset)
    assert found.fault == "pretrain: out of memory"
    assert math.isnan(found.seconds) and math.isfinite(found.evaluation)


def test_other_errors_are_raised(watched: Config, dataset: Dataset) -> None:
    Watched.error = RuntimeError("boom")
    with pytest.raises(RuntimeError, match="boom"):
        rehearse(watched, dataset)
    with pytest.raises(ConfigError, match="unknown explainer"):
        rehearse(config(**{"explainer.method": "none"}), dataset)


def test_seeds_that_train_together_are_rehearsed_together(dataset: Dataset) -> None:
    one, three = rehearse(config(), dataset), rehearse(config(), dataset, together=3)
    assert [stage.stage for stage in three.stages] == [stage.stage for stage in one.stages]
    assert all(stage.step > 0 for stage in three.stages)
    assert three.checkpoint_bytes == pytest.approx(3 * one.checkpoint_bytes, rel=0.05)
    apart = rehearse(config(**{"explainer.method": "smoothgrad"}), dataset, together=3)
    assert apart.checkpoint_bytes == pytest.approx(one.checkpoint_bytes, rel=0.05)
