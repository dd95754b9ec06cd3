"""ColorMNIST and the foreground of digits."""

import numpy as np
import pytest
import torch

from lsx.config import Config
from lsx.data import Dataset, Pool, Split, load
from lsx.data.confounders import PALETTE


def colored(**settings: object) -> Dataset:
    plain = {key.replace("__", "."): value for key, value in settings.items()}
    return load(Config.build({"data.dataset": "color_mnist"}, plain))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return colored()


def hues(dataset: Dataset, part: Split) -> np.ndarray:
    """(N,) the palette's colour nearest in direction to an image's summed colour."""
    sums = dataset.raw(part.images).sum((2, 3)).double().numpy()
    colours = PALETTE / np.linalg.norm(PALETTE.astype(float), axis=1, keepdims=True)
    return np.asarray((sums @ colours.T).argmax(axis=1))


def test_training_hue_is_the_label_and_held_out_hue_is_random(dataset: Dataset) -> None:
    assert dataset.image_shape == (3, 28, 28)
    for part in (dataset.train, dataset.critic):
        np.testing.assert_array_equal(hues(dataset, part), part.labels)
    held = np.concatenate([hues(dataset, part) for part in (dataset.validation, dataset.test)])
    labels = torch.cat([dataset.validation.labels, dataset.test.labels]).numpy()
    counts, joint = np.bincount(held, minlength=10), np.bincount(10 * labels + held, minlength=100)
    # 99.99 % quantiles of chi-square: 33.7 at 9 degrees of freedom, 160 at 99.
    assert ((counts - 200) ** 2 / 200).sum() < 33.7
    assert ((joint - 20) ** 2 / 20).sum() < 160


def test_clean_critic_has_the_same_digits_in_random_hues(dataset: Dataset) -> None:
    clean = colored(critic__images="clean")
    assert torch.equal(clean.critic.index, dataset.critic.index)
    assert clean.critic.images.shape == dataset.critic.images.shape
    share = (hues(clean, clean.critic) == clean.critic.labels.numpy()).mean()
    assert share == pytest.approx(0.1, abs=0.045)  # five standard errors of 1152 draws
    assert torch.equal(clean.train.images, dataset.train.images)


@pytest.mark.parametrize("color", ["rgb", "grey"])
def test_training_images_are_standardised_per_channel(color: str) -> None:
    found = colored(data__color=color, data__few_shot_fraction=0.5)
    channels = 3 if color == "rgb" else 1
    assert len(found.mean) == len(found.std) == found.image_shape[0] == channels
    images = found.train.images.double()
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(channels).double(), atol=1e-6, rtol=0)
    spread = images.flatten(2).transpose(0, 1).flatten(1).std(1, correction=0)
    torch.testing.assert_close(spread, torch.ones(channels).double(), atol=1e-6, rtol=0)


def test_grey_turns_hue_into_brightness(dataset: Dataset) -> None:
    grey = colored(data__color="grey")
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    expected = (dataset.raw(dataset.train.images) * weights).sum(1, keepdim=True)
    torch.testing.assert_close(grey.raw(grey.train.images), expected, atol=0.51 / 255, rtol=0)
    brightest = grey.raw(grey.train.images).amax((1, 2, 3))
    least_green, least_blue = (float(brightest[grey.train.labels == label].min()) for label in (2, 7))
    assert least_green > 0.6 > 0.2 > least_blue


def test_foreground_is_the_digit_itself(dataset: Dataset, digits: Pool) -> None:
    assert dataset.train.masks is None
    for found in (dataset, load(Config()), load(Config.build({"data.dataset": "color_mnist", "data.color": "grey"}))):
        for part in (found.train, found.validation, found.test, found.critic):
            expected = torch.from_numpy(digits.images[part.index.numpy()] > 0)
            assert part.foreground is not None and torch.equal(part.foreground, expected)


def test_taking_and_moving_a_split_keeps_its_regions() -> None:
    train = load(Config.build({"data.dataset": "decoy_mnist"})).train
    rows = torch.tensor([5, 2])
    for some in (train.take(rows), train.to("cpu").take(rows)):
        assert train.masks is not None and some.masks is not None
        assert train.foreground is not None and some.foreground is not None
        assert torch.equal(some.masks, train.masks[rows]) and torch.equal(some.foreground, train.foreground[rows])
    assert all(tensor.device.type == "meta" for tensor in vars(train.to("meta")).values())
    assert load(Config()).train.to("meta").masks is None
