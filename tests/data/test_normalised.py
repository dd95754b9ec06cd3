"""The same images in the units that a network was trained with."""

import pytest
import torch

from lsx.config import Config
from lsx.data import Dataset, load
from lsx.errors import DataError

FEW = {"data.few_shot_fraction": 0.1, "critic.batches": 1}
SPLITS = ("train", "validation", "test", "critic")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load(Config.build({"data.dataset": "color_mnist"}, FEW))


def test_provenance_has_the_normalisation(dataset: Dataset) -> None:
    assert dataset.provenance["mean"] == list(dataset.mean) and dataset.provenance["std"] == list(dataset.std)
    plain = load(Config.build(FEW)).provenance
    assert plain["mean"] == [0.1307] and plain["std"] == [0.3081]
    assert all(type(value) is float for name in ("mean", "std") for value in plain[name])


def test_every_split_has_the_new_statistics(dataset: Dataset) -> None:
    mean, std = [0.1, 0.2, 0.4], [0.5, 0.25, 2.0]
    other = dataset.normalised(mean, std)
    assert other.mean == tuple(mean) and other.std == tuple(std)
    assert other.provenance == {**dataset.provenance, "mean": mean, "std": std}
    for name in SPLITS:
        before, after = getattr(dataset, name), getattr(other, name)
        for channel in range(3):
            pixels = before.images[:, channel].double() * dataset.std[channel] + dataset.mean[channel]
            expected = (pixels - mean[channel]) / std[channel]
            torch.testing.assert_close(after.images[:, channel].double(), expected, atol=1e-6, rtol=1e-6)
        assert torch.equal(after.labels, before.labels) and torch.equal(after.index, before.index)


def test_there_and_back_is_the_same_to_rounding(dataset: Dataset) -> None:
    back = dataset.normalised([0.5] * 3, [0.5] * 3).normalised(dataset.mean, dataset.std)
    for name in SPLITS:
        torch.testing.assert_close(getattr(back, name).images, getattr(dataset, name).images, atol=1e-5, rtol=1e-5)


def test_its_own_statistics_change_nothing(dataset: Dataset) -> None:
    assert dataset.normalised(list(dataset.mean), list(dataset.std)) is dataset


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5]), ([0.5] * 3, [0.5, 0.0, 0.5]), ([0.5] * 3, [0.5] * 2)])
def test_statistics_that_do_not_fit_are_one_line(dataset: Dataset, mean: list[float], std: list[float]) -> None:
    with pytest.raises(DataError, match="must be 3 numbers, one per channel, std above 0"):
        dataset.normalised(mean, std)
