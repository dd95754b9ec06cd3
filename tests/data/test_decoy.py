"""DecoyMNIST: exact greys at exact places, tied to the label in training and to nothing elsewhere."""

import hashlib

import numpy as np
import pytest
import torch

from lsx.config import Config
from lsx.data import Dataset, Pool, Split, add_patch, load

CORNERS = {(0, 0), (0, 24), (24, 0), (24, 24)}
DIGEST = "2a5b0b0d20fe626584ba82f1e5ac0b2b9d768af44106a89dbd2e1b0146ad6a35"


def decoyed(**settings: object) -> Dataset:
    plain = {key.replace("__", "."): value for key, value in settings.items()}
    return load(Config.build({"data.dataset": "decoy_mnist"}, plain))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return decoyed()


def pixels(dataset: Dataset, part: Split) -> torch.Tensor:
    """int64 (N, 28, 28) on the 0–255 scale, normalisation undone here independently."""
    return ((part.images[:, 0].double() * 0.3081 + 0.1307) * 255).round().long()


def greys(dataset: Dataset, part: Split) -> torch.Tensor:
    """(N, 16), what is under the mask."""
    assert part.masks is not None
    return pixels(dataset, part)[part.masks[:, 0]].reshape(len(part), 16)


def corners(part: Split) -> list[tuple[int, int]]:
    assert part.masks is not None
    return [tuple(mask[0].nonzero().min(0).values.tolist()) for mask in part.masks]


def parts(dataset: Dataset) -> tuple[Split, ...]:
    return dataset.train, dataset.validation, dataset.test, dataset.critic


def test_mask_is_a_4x4_block_in_a_corner(dataset: Dataset) -> None:
    for part in parts(dataset):
        assert part.masks is not None
        assert part.masks.dtype == torch.bool
        assert part.masks.shape == (len(part), 1, 28, 28)
        assert (part.masks.sum((1, 2, 3)) == 16).all()
        assert set(corners(part)) == CORNERS
        for mask, (top, left) in zip(part.masks, corners(part), strict=True):
            assert mask[0, top : top + 4, left : left + 4].all()


def test_training_decoy_is_255_minus_25_times_the_label(dataset: Dataset) -> None:
    for part in (dataset.train, dataset.critic):
        assert (greys(dataset, part) == (255 - 25 * part.labels)[:, None]).all()


def test_held_out_decoys_are_one_of_the_ten_greys(dataset: Dataset) -> None:
    for part in (dataset.validation, dataset.test):
        found = greys(dataset, part)
        assert (found == found[:, :1]).all()
        assert set(found[:, 0].tolist()) == {255 - 25 * digit for digit in range(10)}


def test_pixels_beside_the_mask_are_the_digits(dataset: Dataset, digits: Pool) -> None:
    for part in parts(dataset):
        assert part.masks is not None
        original = torch.from_numpy(digits.images[part.index.numpy(), 0]).long()
        outside = ~part.masks[:, 0]
        assert torch.equal(pixels(dataset, part)[outside], original[outside])


def test_corners_and_held_out_decoys_are_uniform_and_independent_of_the_label(dataset: Dataset) -> None:
    held_out = [dataset.validation, dataset.test]
    place = np.concatenate([[2 * (top > 0) + (left > 0) for top, left in corners(part)] for part in parts(dataset)[:3]])
    drawn = np.concatenate([(255 - greys(dataset, part)[:, 0].numpy()) // 25 for part in held_out])
    labels = np.concatenate([part.labels.numpy() for part in held_out])
    # 99.99 % quantiles of chi-square: 21.1 at 3 degrees of freedom, 33.7 at 9, 138 at 81.
    assert chi_square(np.bincount(place, minlength=4)) < 21.1
    assert chi_square(np.bincount(drawn, minlength=10)) < 33.7
    assert chi_square(np.bincount(10 * labels + drawn, minlength=100)) < 160
    assert abs(np.corrcoef(labels, drawn)[0, 1]) < 0.1


def chi_square(counts: np.ndarray) -> float:
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())


def test_training_decoy_gives_the_label_away(dataset: Dataset) -> None:
    correlation = np.corrcoef(dataset.train.labels, 255 - greys(dataset, dataset.train)[:, 0])[0, 1]
    assert correlation == pytest.approx(1)


def by_row(part: Split) -> dict[int, torch.Tensor]:
    return dict(zip(part.index.tolist(), part.images, strict=True))


def test_confounded_critic_inside_has_the_very_images_of_training(dataset: Dataset) -> None:
    training = by_row(dataset.train)
    assert all(torch.equal(training[row], image) for row, image in by_row(dataset.critic).items())


def test_clean_critic_has_the_same_rows_without_decoys(dataset: Dataset, digits: Pool) -> None:
    clean = decoyed(critic__images="clean")
    assert clean.critic.masks is None
    assert torch.equal(clean.critic.index, dataset.critic.index)
    original = torch.from_numpy(digits.images[clean.critic.index.numpy(), 0]).long()
    assert torch.equal(pixels(clean, clean.critic), original)
    assert torch.equal(clean.train.images, dataset.train.images)


def test_separate_critic_is_decoyed_by_its_labels() -> None:
    separate = decoyed(critic__set="separate")
    assert not set(separate.critic.index.tolist()) & set(separate.train.index.tolist())
    assert (greys(separate, separate.critic) == (255 - 25 * separate.critic.labels)[:, None]).all()


def test_an_image_keeps_its_decoy_whatever_else_is_chosen(dataset: Dataset) -> None:
    few = decoyed(data__few_shot_fraction=0.1, critic__batches=2, critic__set="separate")
    assert len(few.train) == 300
    for small, large in ((few.train, dataset.train), (few.critic, dataset.train), (few.test, dataset.test)):
        known = by_row(large)
        assert all(torch.equal(known[row], image) for row, image in by_row(small).items())


def test_the_data_seed_decides_the_decoys(digits: Pool) -> None:
    tied = np.zeros(len(digits.labels), dtype=bool)
    first, again, other = (add_patch(digits, tied, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.images, again.images)
    assert 0.6 < (first.masks != other.masks).any((1, 2, 3)).mean() < 0.9
    assert torch.equal(decoyed(seed=5).train.images, decoyed(seed=6).train.images)


def digest(dataset: Dataset) -> str:
    found = hashlib.sha256()
    for part in parts(dataset):
        for tensor in (part.images, part.labels, part.index, part.masks):
            found.update(b"" if tensor is None else tensor.numpy().tobytes())
    return found.hexdigest()


def test_published_studies_get_the_very_images_that_they_got() -> None:
    # Computed before confounders had settings: a change here makes earlier runs impossible to repeat.
    assert digest(decoyed(data__few_shot_fraction=0.5, data__seed=3)) == DIGEST
