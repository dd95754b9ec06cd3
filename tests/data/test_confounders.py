"""Patches and hues on any images: their places, their colours, and how much they say about the class."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lsx.config import Config, ConfounderConfig
from lsx.data import Confounded, Dataset, Pool, Split, add_hue, add_patch, assemble, load
from lsx.data.confounders import PALETTE, palette
from lsx.errors import DataError

NO_CRITIC = {"stages": ["pretrain"]}


def pool(classes: int = 10, count: int = 400, channels: int = 1, side: int = 12) -> Pool:
    random = np.random.default_rng(classes)
    images = random.integers(256, size=(count, channels, side, side), dtype=np.uint8)
    return Pool(images, np.arange(count) % classes, "made up", classes=classes)


def stamped(source: Pool, *, tied: bool = True, **settings: object) -> Confounded:
    config = ConfounderConfig.model_validate({"size": 3, **settings})
    return add_patch(source, np.full(len(source.labels), tied), 0, config)


def values(found: Confounded) -> np.ndarray:
    """(N, C) under the mask, which is the same all over it."""
    assert found.masks is not None
    inside = np.where(found.masks, found.images.astype(float), np.nan)
    least, most = np.nanmin(inside, axis=(2, 3)), np.nanmax(inside, axis=(2, 3))
    np.testing.assert_array_equal(least, most)
    return most


def starts(found: Confounded) -> np.ndarray:
    """(N, 2) first row and column of every mask."""
    assert found.masks is not None
    return np.array([np.argwhere(mask[0]).min(axis=0) for mask in found.masks])


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("top_left", (0, 0)),
        ("top_right", (0, 9)),
        ("bottom_left", (9, 0)),
        ("bottom_right", (9, 9)),
        ("center", (4, 4)),
    ],
)
def test_a_fixed_place_is_where_it_says(place: str, expected: tuple[int, int]) -> None:
    found = stamped(pool(), place=place)
    assert (starts(found) == expected).all()
    assert found.masks is not None and (found.masks.sum(axis=(1, 2, 3)) == 9).all()


def test_anywhere_is_uniform_over_all_places() -> None:
    found = starts(stamped(pool(count=5000, side=6), place="anywhere"))
    counts = np.bincount(found[:, 0] * 4 + found[:, 1], minlength=16)
    # The 99.99 % quantile of chi-square at 15 degrees of freedom is 44.3.
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 44.3


@pytest.mark.parametrize("classes", [2, 3, 10, 14])
def test_by_class_gives_every_class_its_own_place(classes: int) -> None:
    source = pool(classes)
    found = stamped(source, place="by_class", intensity="white")
    assert (values(found) == 255).all()
    places = {(label, *start) for label, start in zip(source.labels.tolist(), starts(found).tolist(), strict=True)}
    assert len(places) == len({place[1:] for place in places}) == classes
    first = [found.masks[label] for label in range(classes)]  # type: ignore[index]
    assert np.sum(first, axis=0).max() == 1  # no two overlap
    drawn = starts(stamped(source, tied=False, place="by_class", intensity="white"))
    assert {tuple(start) for start in drawn.tolist()} == {place[1:] for place in places}
    assert 0 < (drawn == starts(found)).all(axis=1).mean() < 2 / classes


@pytest.mark.parametrize("classes", [2, 10, 11, 12, 37, 250])
@pytest.mark.parametrize("intensity", ["descending", "ascending"])
def test_every_class_has_its_own_grey(classes: int, intensity: str) -> None:
    source = pool(classes, side=8)
    greys = values(stamped(source, intensity=intensity))[:classes, 0]
    assert len(set(greys)) == classes
    assert (np.diff(greys) < 0).all() == (intensity == "descending")
    if classes <= 11:
        steps = 25 * np.arange(classes)
        np.testing.assert_array_equal(greys, 255 - steps if intensity == "descending" else steps)


@pytest.mark.parametrize("classes", [10, 11, 250])
def test_hue_colours_a_patch_of_rgb_images(classes: int) -> None:
    source = pool(classes, channels=3, side=8)
    np.testing.assert_array_equal(values(stamped(source, intensity="hue"))[:classes], palette(classes))
    assert len({tuple(colour) for colour in palette(classes).tolist()}) == classes


def test_grey_patch_of_rgb_images_is_grey() -> None:
    found = values(stamped(pool(channels=3)))
    assert (found == found[:, :1]).all()


def test_float_images_get_the_same_patch() -> None:
    source = pool()
    floating = replace(source, images=(source.images / 255).astype(np.float32))
    np.testing.assert_allclose(stamped(floating).images * 255, stamped(source).images, atol=1e-4)
    np.testing.assert_allclose(hued(floating).images * 255, hued(source).images, atol=0.51)
    np.testing.assert_allclose(hued(floating, grey=True).images * 255, hued(source, grey=True).images, atol=1.1)


def test_the_place_changes_no_other_draw() -> None:
    source = pool()
    corner, anywhere = (stamped(source, tied=False, place=place) for place in ("random_corner", "anywhere"))
    np.testing.assert_array_equal(values(corner), values(anywhere))


def hued(source: Pool, *, tied: bool = True, grey: bool = False) -> Confounded:
    return add_hue(source, np.full(len(source.labels), tied), 0, grey=grey)


def test_hue_is_intensity_times_colour_on_black() -> None:
    source = pool()
    source.images[:, :, 0] = 0
    found = hued(source).images
    expected = (source.images / 255 * PALETTE[source.labels][:, :, None, None]).round()
    np.testing.assert_array_equal(found, expected)
    assert (found[:, :, 0] == 0).all()
    assert PALETTE[[0, 4, 9]].tolist() == [[255, 0, 0], [0, 198, 44], [128, 0, 127]]


def test_grey_of_a_hue_is_that_of_pillow() -> None:
    source = pool(count=60)
    coloured, grey = hued(source).images, hued(source, grey=True).images
    expected = [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in coloured]
    np.testing.assert_array_equal(grey[:, 0], expected)


def test_greys_of_hues_that_collide_are_refused() -> None:
    with pytest.raises(DataError, match="the hues of 20 classes have only 18 different greys; set data.color to rgb"):
        hued(pool(20), grey=True)
    assert hued(pool(20)).images.shape[1] == 3
    assert len(np.unique(hued(white(10), grey=True).images)) == 10


def white(classes: int) -> Pool:
    source = pool(classes, 2 * classes)
    source.images[:] = 255
    return source


@pytest.mark.parametrize("name", ["decoy_mnist", "color_mnist"])
def test_correlation_is_the_share_of_training_images_that_follow_their_label(name: str) -> None:
    full, half, none = (
        load(Config.build({"data.dataset": name, "confounder.correlation": c}, NO_CRITIC)) for c in (1.0, 0.5, 0.0)
    )
    same = {
        key: (raw_bytes(full, full.train) == raw_bytes(part, part.train)).flatten(1).all(1).float().mean()
        for key, part in (("half", half), ("none", none))
    }
    # A random class is the label's in a tenth of the draws; 3000 images: five standard errors are 0.05.
    assert same["half"] == pytest.approx(0.5 + 0.5 / 10, abs=0.05)
    assert same["none"] == pytest.approx(1 / 10, abs=0.05)
    assert torch.equal(raw_bytes(full, full.test), raw_bytes(none, none.test))


def raw_bytes(dataset: Dataset, part: Split) -> torch.Tensor:
    return (dataset.raw(part.images) * 255).round().byte()


def test_an_image_that_follows_at_low_correlation_follows_at_higher() -> None:
    low, high = (
        load(Config.build({"data.dataset": "decoy_mnist", "confounder.correlation": c}, NO_CRITIC)) for c in (0.3, 0.6)
    )
    assert low.train.masks is not None
    greys = [
        raw_bytes(dataset, dataset.train)[dataset.train.masks].reshape(-1, 16)[:, 0]  # type: ignore[index]
        for dataset in (low, high)
    ]
    label = 255 - 25 * low.train.labels
    follows = [grey == label for grey in greys]
    assert not (follows[0] & ~follows[1]).any() and follows[1].sum() > follows[0].sum()


def test_the_kind_in_the_settings_is_the_kind_of_any_dataset() -> None:
    def images(name: str, **more: object) -> torch.Tensor:
        return load(Config.build({"data.dataset": name, **more}, NO_CRITIC)).train.images

    assert torch.equal(images("mnist", **{"confounder.kind": "patch"}), images("decoy_mnist"))
    assert torch.equal(images("mnist", **{"confounder.kind": "hue"}), images("color_mnist"))
    for name in ("decoy_mnist", "color_mnist"):
        assert torch.equal(images(name, **{"confounder.kind": "none"}), images("mnist"))


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (
            pool(),
            {"size": 7},
            "confounder.size 7 is too large for images of 12x12 pixels; .* half their shorter side, 6",
        ),
        (pool(14), {"place": "by_class", "size": 4}, r"too large for 14 places side by side \(4 rows of 4\) .* 3 fits"),
        (pool(251), {}, "at most 250 classes apart, not 251; set confounder.place to by_class"),
        (pool(251, channels=3), {"intensity": "hue"}, "at most 250 classes apart"),
        (pool(channels=2), {}, "made up: a patch needs grey or RGB images, not 2 channels"),
        (pool(), {"intensity": "hue"}, "confounder.intensity 'hue' needs RGB images, these are grey"),
    ],
)
def test_what_a_patch_cannot_do_is_one_line(source: Pool, settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        stamped(source, **settings)
    assert "\n" not in str(caught.value)


def test_many_classes_can_still_be_told_by_their_place() -> None:
    found = stamped(pool(251, side=80), place="by_class", intensity="white")
    assert len({tuple(start) for start in starts(found).tolist()}) == 251


def test_hue_needs_grey_images() -> None:
    with pytest.raises(DataError, match="colours grey images, these have 3 channels; set confounder.kind to patch"):
        hued(pool(channels=3))


def test_the_object_is_not_where_a_patch_covers_it() -> None:
    settings = {"data.dataset": "decoy_mnist", "confounder.place": "center", "critic.images": "clean"}
    dataset = load(Config.build(settings))
    train = dataset.train
    assert train.masks is not None and train.foreground is not None and dataset.critic.foreground is not None
    assert not (train.masks & train.foreground).any()
    assert dataset.critic.foreground[:, :, 12:16, 12:16].any()


def own(source: Pool, tied: np.ndarray, seed: int) -> Confounded:
    """Images as bright as their class where tied, else black, in two channels."""
    bright = np.where(tied, source.labels * 20, 0).astype(np.uint8)
    images = np.zeros_like(source.images).repeat(2, axis=1) + bright[:, None, None, None]
    return Confounded(images, None, removable=False)


def test_a_confounder_of_ones_own_is_a_function(digits: Pool) -> None:
    settings = {"critic.images": "clean", "confounder.correlation": 0.5}
    dataset = assemble(Config.build(settings), digits, mean=(0, 0.5), std=1, confound=own)
    assert dataset.image_shape == (2, 28, 28)
    assert dataset.critic.images[:, 0].max() == 0 and dataset.critic.images[:, 1].max() == -0.5
    train = dataset.raw(dataset.train.images).mul(255).round()[:, 0, 0, 0]
    tied = train == 20 * dataset.train.labels
    assert 0.4 < tied[dataset.train.labels > 0].float().mean() < 0.6
    assert dataset.provenance["confounder"] == {"kind": "own", "correlation": 0.5}
    decoyed = assemble(Config.build({"confounder.kind": "patch"}), digits, mean=0, std=1, confound=own)
    assert decoyed.image_shape == (1, 28, 28) and decoyed.train.masks is not None


def test_provenance_says_which_confounder_and_which_masks() -> None:
    found = {name: load(Config.build({"data.dataset": name})).provenance for name in ("mnist", "decoy_mnist")}
    assert found["mnist"]["confounder"] == {"kind": "none"}
    assert found["mnist"]["masks"] == ["foreground"]
    assert found["decoy_mnist"]["masks"] == ["confounder", "foreground"]
    expected = {"kind": "patch", "place": "random_corner", "size": 4, "intensity": "descending", "correlation": 1.0}
    assert found["decoy_mnist"]["confounder"] == expected
