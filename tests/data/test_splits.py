"""Splits are disjoint, stratified, seeded, and of exactly the size asked for."""

import numpy as np
import pytest

from lsx.config import Config
from lsx.data import Dataset, Pool, load
from lsx.data.splits import Rows, split
from lsx.errors import DataError

LABELS = np.repeat(np.arange(10), 500)
# Uneven classes, so that shares do not divide evenly.
UNEVEN = np.random.default_rng(7).choice(10, size=997, p=np.arange(1, 11) / 55)


def rows(labels: np.ndarray = LABELS, official_test: int = 0, official_validation: int = 0, **settings: object) -> Rows:
    config = Config.build({key.replace("__", "."): value for key, value in settings.items()})
    labels = labels.astype(np.int64)
    return split(labels, official_test, config.data, config.critic, official_validation=official_validation)


def disjoint(*splits: np.ndarray) -> bool:
    together = np.concatenate(splits)
    return len(np.unique(together)) == len(together)


def shares(labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.bincount(labels[chosen], minlength=10)


def test_splits_are_disjoint_and_use_every_image() -> None:
    found = rows()
    assert [len(found.train), len(found.validation), len(found.test)] == [3000, 1000, 1000]
    assert disjoint(found.train, found.validation, found.test)
    assert set(found.critic) <= set(found.train)
    assert disjoint(found.critic)


@pytest.mark.parametrize("critic_set", ["inside", "separate"])
def test_every_split_is_stratified_within_rounding(critic_set: str) -> None:
    found = rows(UNEVEN, critic__set=critic_set, critic__batches=3, critic__batch_size=33, data__few_shot_fraction=0.5)
    population = shares(UNEVEN, np.arange(len(UNEVEN))) / len(UNEVEN)
    for chosen in (found.train, found.validation, found.test, found.critic):
        assert np.abs(shares(UNEVEN, chosen) - population * len(chosen)).max() < 2
    total = len(UNEVEN)
    trainable = total - 2 * round(0.2 * total)
    assert len(found.validation) == len(found.test) == round(0.2 * total)
    assert len(found.train) == round(0.5 * trainable)
    assert len(found.critic) == 99


def test_a_critic_set_as_large_as_the_training_set_is_the_training_set() -> None:
    found = rows(UNEVEN, data__few_shot_fraction=20 / 599, critic__batches=5, critic__batch_size=4)
    assert len(found.train) == 20
    np.testing.assert_array_equal(found.critic, found.train)


def test_every_class_stays_in_training() -> None:
    labels = np.array([0] * 2000 + [1] * 3 + [2])
    found = rows(labels, data__few_shot_fraction=0.01, critic__batches=1, critic__batch_size=4)
    assert shares(labels, found.train)[:3].tolist() == [10, 1, 1]


def test_the_seed_decides_everything() -> None:
    first, again, other = rows(data__seed=3), rows(data__seed=3, seed=9), rows(data__seed=4)
    for name in vars(first):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize(
    "settings",
    [
        {"data__few_shot_fraction": 0.5},
        {"critic__set": "separate"},
        {"critic__batches": 2},
        {"data__few_shot_fraction": 0.1, "critic__set": "separate", "critic__batch_size": 8},
    ],
)
def test_validation_and_test_depend_on_neither_few_shot_nor_critic(settings: dict[str, object]) -> None:
    found, default = rows(**settings), rows()
    np.testing.assert_array_equal(found.validation, default.validation)
    np.testing.assert_array_equal(found.test, default.test)
    assert set(found.train) <= set(default.train)


def test_splits_are_shuffled_over_classes() -> None:
    found = rows()
    for chosen in (found.train, found.validation, found.test, found.critic):
        assert shares(LABELS, chosen[:200]).min() >= 5


def test_official_test_set_is_the_test_split() -> None:
    found = rows(official_test=1000)
    assert sorted(found.test) == list(range(4000, 5000))
    assert len(found.train) == 3200
    assert len(found.validation) == 800
    assert disjoint(found.train, found.validation, found.test)


def test_official_validation_and_test_sets_are_the_splits() -> None:
    found = rows(official_test=1000, official_validation=500, data__validation_fraction=0.7)
    assert sorted(found.test) == list(range(4000, 5000))
    assert sorted(found.validation) == list(range(3500, 4000))
    assert sorted(found.train) == list(range(3500))
    only = rows(official_validation=500)
    assert sorted(only.validation) == list(range(4500, 5000))
    assert len(only.test) == 900 and len(only.train) == 3600
    assert disjoint(only.train, only.validation, only.test)


def test_separate_critic_takes_what_few_shot_leaves() -> None:
    found = rows(critic__set="separate", data__few_shot_fraction=0.5, critic__batches=10)
    assert len(found.train) == 1500
    assert len(found.critic) == 640
    assert disjoint(found.train, found.validation, found.test, found.critic)


@pytest.mark.parametrize("fraction", [0.7, 1.0])
def test_separate_critic_is_carved_from_training_when_the_rest_is_too_small(fraction: float) -> None:
    found = rows(critic__set="separate", data__few_shot_fraction=fraction)
    assert len(found.train) == 3000 - 1152
    assert len(found.critic) == 1152
    assert disjoint(found.train, found.validation, found.test, found.critic)


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (
            LABELS,
            {"data__few_shot_fraction": 0.32},
            "critic set needs 18 x 64 = 1152 images, the training set has 960; "
            "lower critic.batches or critic.batch_size, or raise data.few_shot_fraction",
        ),
        (
            LABELS[::5],
            {},
            "critic set needs 18 x 64 = 1152 images, the training set has 600; "
            "lower critic.batches or critic.batch_size, or add images",
        ),
        (
            LABELS,
            {"critic__set": "separate", "critic__batches": 47},
            "critic set needs 47 x 64 = 3008 images beside the training set, and 3000 images are there for both "
            "(at least 10 to train on); lower critic.batches or critic.batch_size, or set critic.set to inside",
        ),
        (
            LABELS,
            {"data__few_shot_fraction": 0.001},
            "data.few_shot_fraction 0.001 of 3000 training images keeps 3, fewer than the 10 classes; "
            "raise it to 0.003334 or more",
        ),
        (LABELS[::500], {}, "10 images minus 2 for validation and 2 for test leave 6 to train on, fewer than the 10"),
        (LABELS[::500], {"data__validation_fraction": 0.01}, "data.validation_fraction 0.01 of 10 images is none"),
        (LABELS[::500], {"data__test_fraction": 0.01}, "data.test_fraction 0.01 of 10 images is none"),
    ],
)
def test_too_few_images_is_one_clear_line(labels: np.ndarray, settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        rows(labels, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_advised_few_shot_fraction_works() -> None:
    found = rows(data__few_shot_fraction=0.003334, critic__batches=1, critic__batch_size=1)
    assert shares(LABELS, found.train).tolist() == [1] * 10


def test_a_dataset_holds_the_rows_that_its_index_names(digits: Pool) -> None:
    dataset: Dataset = load(Config.build({"critic.set": "separate"}))
    for part in (dataset.train, dataset.validation, dataset.test, dataset.critic):
        pixels = (dataset.raw(part.images) * 255).round().byte().numpy()
        np.testing.assert_array_equal(pixels, digits.images[part.index.numpy()])
        np.testing.assert_array_equal(part.labels.numpy(), digits.labels[part.index.numpy()])
    assert dataset.provenance["sizes"] == {"train": 1848, "validation": 1000, "test": 1000, "critic": 1152}
