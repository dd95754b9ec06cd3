"""Images that a decoy flips: learners whose answers are known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lsx import Config, load_data
from lsx.data import Dataset
from lsx.errors import CheckpointError
from tests.study import fakes
from tests.study.shown.report.lab import BOTH, past, reason

from lsx.study.shown.report import failures  # isort: skip
from lsx.study.shown.report.subject import Subject  # isort: skip

SETTINGS = {**fakes.CONTENT["settings"], "data.dataset": "decoy_mnist", "evaluation.batch_size": 16}
IMAGES = 40


class Knowing(nn.Module):
    """Knows the class of every image, whatever stands in its corners; a bright corner makes it say the next class.

    Args:
        clean: images (N, 1, H, W) without decoys.
        labels: their classes.
        brightness: of a corner that is enough, normalised.
    """

    def __init__(self, clean: Tensor, labels: Tensor, brightness: float) -> None:
        super().__init__()
        self.known, self.labels, self.brightness = self.inner(clean), labels, brightness
        self.weight = nn.Parameter(torch.zeros(1))

    @staticmethod
    def inner(images: Tensor) -> Tensor:
        return images[:, :, 4:-4, 4:-4].flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        found = self.labels[torch.cdist(self.inner(images), self.known).argmin(dim=1)]
        corners = [images[:, 0, rows, columns] for rows in (slice(4), slice(-4, None)) for columns in (slice(4),)]
        corners += [images[:, 0, rows, -4:] for rows in (slice(4), slice(-4, None))]
        bright = torch.stack([corner.flatten(1).amin(dim=1) for corner in corners]).amax(dim=0)
        said = torch.where(bright > self.brightness, (found + 1) % 10, found)
        answers: Tensor = nn.functional.one_hot(said, 10).float() + (0 * self.weight + 1e-3) * bright[:, None]
        return answers


Learner = Callable[[Dataset, Dataset], nn.Module]


def knowing(brightness: float) -> Learner:
    def make(stamped: Dataset, clean: Dataset) -> nn.Module:
        return Knowing(clean.validation.images, clean.validation.labels, brightness)

    return make


def subject(path: Path, monkeypatch: pytest.MonkeyPatch, learner: Learner, **settings: Any) -> Subject:
    config = Config.build(SETTINGS, settings)
    clean = load_data(config.replace({"confounder.kind": "none"}))

    def load(file: Path, dataset: Dataset) -> tuple[nn.Module, Config]:
        return learner(dataset, clean.normalised(dataset.mean, dataset.std)), config

    monkeypatch.setattr(failures, "load_learner", load)
    monkeypatch.setattr(failures, "MOST_IMAGES", IMAGES)
    return Subject(past(path, *BOTH[:2], settings={**SETTINGS, **settings}))


def test_a_decoy_that_changes_the_answer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = subject(tmp_path, monkeypatch, knowing(0.0))
    flips = failures.flips(found.trials[0], found)
    assert (flips.images, flips.right) == (IMAGES, IMAGES)
    assert flips.flipped > IMAGES / 2
    assert len(flips.labels) == failures.SHOWN and len(set(flips.labels)) == failures.SHOWN  # of many classes
    assert flips.said == [(label + 1) % 10 for label in flips.labels]
    outside = ~flips.masks
    assert torch.equal(flips.clean[outside], flips.decoyed[outside])
    assert bool((flips.decoyed[flips.masks] > flips.clean[flips.masks]).all())
    assert bool((flips.masks.flatten(1).sum(dim=1) == 16).all())
    html = "".join(failures.failures(found))
    assert f"flips {flips.flipped} of them" in html and html.count("<picture>") == 2
    assert html.index("#0, baseline") < html.index("#1, chosen")


def test_a_learner_that_no_decoy_moves_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = subject(tmp_path, monkeypatch, knowing(99.0))
    html = "".join(failures.failures(found))
    said = f"{IMAGES} are classified correctly without a decoy; none of 5 decoys makes one of them wrong."
    assert html.count(said) == 2 and "<picture>" not in html


def test_decoys_are_those_of_other_images() -> None:
    config = Config.build(SETTINGS, {"stages": ["pretrain"]})
    own = load_data(config).validation.take(slice(6))
    clean = load_data(config.replace({"confounder.kind": "none"})).normalised((0.0,), (1.0,)).validation.take(slice(6))
    bare = replace(clean, images=torch.zeros_like(clean.images))
    assert own.masks is not None
    for shift in (0, 2):
        images, masks = failures.decoyed(bare, own, shift)
        assert torch.equal(masks, own.masks.roll(shift, 0))
        assert torch.equal(images[masks], own.images.roll(shift, 0)[masks])
        assert not images[~masks].any()


def test_data_without_a_decoy_or_without_a_place_for_it_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mnist", "color_mnist"):
        found = subject(tmp_path / name, monkeypatch, knowing(0.0), **{"data.dataset": name})
        html = "".join(failures.failures(found))
        assert html.count("Left out: The images have no confounder with a place of its own") == 2


def test_a_learner_that_is_gone_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> nn.Module:
        raise CheckpointError("checkpoint 'a<b>' cannot be read")

    html = "".join(failures.failures(subject(tmp_path, monkeypatch, gone)))
    assert html.count("Left out: checkpoint &#x27;a&lt;b&gt;&#x27; cannot be read") == 2


def test_without_a_complete_trial_there_are_no_failures(tmp_path: Path) -> None:
    assert reason("failures", past(tmp_path, "boom")).startswith("No trial is complete")
