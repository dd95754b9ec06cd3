"""What a trial keeps of its explanations, from real learners."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lsx import Config, gallery, load_data
from lsx.data import Dataset
from lsx.study.worker import maps
from tests.study.worker.test_trial import SETTINGS

from lsx import models  # isort: skip

CONFIG = Config.build(SETTINGS, {"explainer.method": "gradcam"})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_data(CONFIG)


@pytest.fixture
def learner(dataset: Dataset) -> nn.Module:
    torch.manual_seed(0)
    return models.build("SimpleConvNet", dataset.image_shape, dataset.num_classes, "cpu").train()


def test_maps_of_every_stage_are_kept_with_their_images(tmp_path: Path, dataset: Dataset, learner: nn.Module) -> None:
    maps.keep(learner, "pretrain", CONFIG, dataset, tmp_path)
    with torch.no_grad():
        for weight in learner.parameters():
            weight.mul_(1.5)
    maps.keep(learner, "joint", CONFIG, dataset, tmp_path)
    found = maps.read(tmp_path / maps.MAPS)
    rows = gallery.spread(dataset.validation.labels, maps.EXAMPLES)
    examples = dataset.validation.take(rows)
    assert found["labels"].tolist() == examples.labels.tolist() and len(set(found["labels"].tolist())) == maps.EXAMPLES
    assert found["index"].tolist() == examples.index.tolist()
    np.testing.assert_array_equal(found["masks"], examples.masks)
    np.testing.assert_allclose(found["images"] / 255, dataset.raw(examples.images), atol=1 / 500)
    own = gallery.explain(learner, CONFIG, examples)
    reference = gallery.explain(learner, CONFIG, examples, "input_x_gradient")
    np.testing.assert_allclose(found["own/joint"], own, atol=1e-3)
    np.testing.assert_allclose(found["reference/joint"], reference, atol=1e-3)
    assert not np.array_equal(found["reference/pretrain"], found["reference/joint"])
    with torch.no_grad():
        assert found["predicted/joint"].tolist() == learner.eval()(examples.images).argmax(dim=1).tolist()
    assert [path.name for path in tmp_path.iterdir()] == [maps.MAPS]


def test_keeping_maps_leaves_training_as_it_was(tmp_path: Path, dataset: Dataset, learner: nn.Module) -> None:
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    maps.keep(learner, "pretrain", CONFIG, dataset, tmp_path)
    assert torch.equal(torch.rand(1), expected) and learner.training
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(weight.grad is None for weight in learner.parameters())


def test_half_a_file_of_a_lost_worker_is_begun_anew(tmp_path: Path, dataset: Dataset, learner: nn.Module) -> None:
    maps.keep(learner, "pretrain", CONFIG, dataset, tmp_path)
    whole = (tmp_path / maps.MAPS).read_bytes()
    (tmp_path / maps.MAPS).write_bytes(whole[: len(whole) // 2])
    assert maps.read(tmp_path / maps.MAPS) == {}
    maps.keep(learner, "joint", CONFIG, dataset, tmp_path)
    assert {name for name in maps.read(tmp_path / maps.MAPS) if name.startswith("own/")} == {"own/joint"}
