"""Arrays of one's own in an NPZ file, and what can be wrong with them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lsx.config import Config
from lsx.data import Dataset, load, npz_pool
from lsx.errors import DataError

N = 30
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(256, size=(N, 8, 6), dtype=np.uint8)
RGB = RANDOM.integers(256, size=(N, 3, 8, 6), dtype=np.uint8)
LABELS = np.arange(N) % 3
MASK = RANDOM.random((N, 8, 6)) < 0.3
SPLIT = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2] * 3)[np.argsort(RANDOM.random(N))]


def saved(folder: Path, **arrays: object) -> str:
    path = folder / "own.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def loaded(folder: Path, more: dict[str, object] | None = None, **arrays: object) -> Dataset:
    settings = {"data.dataset": "npz", "data.root": saved(folder, **arrays), "stages": ["pretrain"]}
    return load(Config.build(settings, more or {}))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (RGB, RGB),
        (RGB.transpose(0, 2, 3, 1), RGB),
        (RGB[:, :2], RGB[:, :2]),
        (RGB[:, :, :, :3], RGB[:, :, :, :3]),  # (N, 3, 8, 3) could be either: the channel is second
        (RGB[:, :1, :, :4], RGB[:, :1, :, :4]),
    ],
)
def test_channels_are_found(tmp_path: Path, x: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(npz_pool(saved(tmp_path, x=x, y=LABELS)).images, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are_and_standardised(tmp_path: Path, dtype: type) -> None:
    x = (RGB / 255).astype(dtype)
    x[:, 1] = 0.1  # a constant channel
    dataset = loaded(tmp_path, x=x, y=LABELS)
    assert dataset.train.images.dtype == torch.float32
    rows = dataset.train.index.numpy()
    expected = x[rows].astype(np.float32)
    np.testing.assert_allclose(dataset.raw(dataset.train.images).numpy(), expected, atol=1e-6)
    assert dataset.std[1] == 1
    assert dataset.mean == pytest.approx(tuple(expected.astype(float).mean((0, 2, 3))))
    assert float(dataset.train.images[:, 1].abs().max()) < 1e-6


@pytest.mark.parametrize(
    "spelt", [SPLIT, np.array(["train", "val", "test"])[SPLIT], np.array(["train", "validation", "test"])[SPLIT]]
)
def test_the_files_own_splits_are_used(tmp_path: Path, spelt: np.ndarray) -> None:
    dataset = loaded(tmp_path, x=GREY, y=LABELS, split=spelt)
    for number, part in enumerate((dataset.train, dataset.validation, dataset.test)):
        pixels = (dataset.raw(part.images) * 255).round().byte().numpy()[:, 0]
        expected = {
            (image.tobytes(), label)
            for image, label in zip(GREY[number == SPLIT], LABELS[number == SPLIT], strict=True)
        }
        assert {(image.tobytes(), label) for image, label in zip(pixels, part.labels.tolist(), strict=True)} == expected
        assert len(part) == len(expected)
        np.testing.assert_array_equal(pixels, GREY[part.index.numpy()])  # rows of the file, not of the pool
        assert (number == SPLIT[part.index.numpy()]).all()


def test_the_order_of_files_with_splits_is_as_ever(tmp_path: Path) -> None:
    """The seeded splits belong to the pool's order, whatever rows the file has them in."""
    order = np.argsort(SPLIT, kind="stable")
    mixed = loaded(tmp_path, x=GREY, y=LABELS, split=SPLIT)
    tidy = loaded(tmp_path, x=GREY[order], y=LABELS[order], split=SPLIT[order])
    assert mixed.provenance["sha256"] == tidy.provenance["sha256"]
    for part, same in ((mixed.train, tidy.train), (mixed.validation, tidy.validation), (mixed.test, tidy.test)):
        assert torch.equal(part.images, same.images)
        assert torch.equal(part.index, torch.from_numpy(order)[same.index])


def test_a_bad_pixel_is_named_by_the_files_own_row(tmp_path: Path) -> None:
    row = int(np.argmax(SPLIT == 2))
    assert np.argsort(np.argsort(SPLIT, kind="stable"))[row] != row
    with pytest.raises(DataError, match=f"pixel nan in row {row} is outside 0-1"):
        loaded(tmp_path, x=with_value(GREY / 255, row, np.nan), y=LABELS, split=SPLIT)


@pytest.mark.parametrize("shape", [(20, 20, 2), (28, 20, 2), (20, 28, 5)])
def test_channels_that_may_be_last_are_refused(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    x = RANDOM.integers(256, size=(N, *shape), dtype=np.uint8)
    with pytest.raises(DataError, match=rf"would be {shape[0]} channels .*save x.transpose\(0, 3, 1, 2\)") as caught:
        npz_pool(saved(tmp_path, x=x, y=LABELS))
    assert "\n" not in str(caught.value)
    second = x.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(npz_pool(saved(tmp_path, x=second, y=LABELS)).images, second)
    turned = x.transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(npz_pool(saved(tmp_path, x=turned, y=LABELS)).images, turned)


def test_what_the_file_does_not_hold_out_is_split_off(tmp_path: Path) -> None:
    dataset = loaded(tmp_path, x=GREY, y=LABELS, split=np.minimum(SPLIT, 1))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [14, 12, 4]


@pytest.mark.parametrize("mask", [MASK, MASK[:, None], MASK.astype(np.uint8), MASK.astype(float)])
@pytest.mark.parametrize("kind", ["foreground", "confounder"])
def test_masks_mark_what_the_setting_says(tmp_path: Path, mask: np.ndarray, kind: str) -> None:
    train = loaded(tmp_path, {"data.mask_kind": kind}, x=GREY, y=LABELS, mask=mask, split=SPLIT).train
    found, other = (train.foreground, train.masks) if kind == "foreground" else (train.masks, train.foreground)
    assert other is None and found is not None
    np.testing.assert_array_equal(found.numpy()[:, 0], MASK[train.index.numpy()])


def test_a_patch_beside_a_confounder_of_the_file_is_marked_with_it(tmp_path: Path) -> None:
    settings = {"data.mask_kind": "confounder", "confounder.kind": "patch", "confounder.size": 2}
    dataset = loaded(tmp_path, settings, x=GREY, y=LABELS, mask=MASK)
    alone = loaded(tmp_path, {"confounder.kind": "patch", "confounder.size": 2}, x=GREY, y=LABELS)
    assert dataset.train.masks is not None and alone.train.masks is not None
    file = torch.from_numpy(MASK[dataset.train.index.numpy()])[:, None]
    assert torch.equal(dataset.train.masks, alone.train.masks | file)


def test_a_confounder_of_the_file_cannot_be_taken_off_for_the_critic(tmp_path: Path) -> None:
    root = saved(tmp_path, x=GREY, y=LABELS, mask=MASK)
    settings = {"data.dataset": "npz", "data.root": root, "data.mask_kind": "confounder", "critic.images": "clean"}
    few = {"critic.batches": 1, "critic.batch_size": 3}
    with pytest.raises(DataError, match="critic.images 'clean' needs images without their confounder"):
        load(Config.build(settings, few))
    assert len(load(Config.build(settings, few, {"critic.images": "confounded"})).critic) == 3


def with_value(array: np.ndarray, row: int, value: float) -> np.ndarray:
    changed = array.copy()
    changed[row] = value
    return changed


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": None}, "has no 'y'; needed: x, y; there is x"),
        ({"x": None}, "has no 'x'"),
        ({"x": GREY.astype(np.int64)}, "x must be uint8 or float .*not int64"),
        ({"x": GREY[0]}, r"x must be .*not uint8 \(8, 6\)"),
        ({"x": GREY[:0], "y": LABELS[:0]}, "x is empty"),
        ({"x": with_value(GREY / 255, 7, np.nan)}, "pixel nan in row 7 is outside 0-1"),
        ({"x": GREY.astype(float)}, "is outside 0-1, the range of float images"),
        ({"y": LABELS[:-1]}, r"y must be \(30,\), one label per image in x, not \(29,\)"),
        ({"y": LABELS[:, None]}, r"y must be \(30,\)"),
        ({"y": LABELS.astype(float)}, "y must be integers, 0 to K - 1, not float64"),
        ({"y": with_value(LABELS, 4, -1)}, "label -1 in row 4 is negative"),
        ({"y": LABELS + 1}, "no image has label 0, but there is label 3"),
        ({"y": with_value(LABELS, 4, 70000)}, "no image has label 3, but there is label 70000"),
        ({"y": LABELS * 0}, "all images are of 1 class; a classifier needs two"),
        ({"mask": MASK[:, :5]}, r"mask must be \(30, 8, 6\) or \(30, 1, 8, 6\) as x is, not \(30, 5, 6\)"),
        ({"mask": MASK * 2}, "mask must be bool, or 0 and 1 only"),
        ({"split": SPLIT[:-1]}, r"split must be \(30,\)"),
        (
            {"split": np.array(["train", "tset"])[np.arange(N) % 2]},
            "split has 'tset' in row 1; valid: 0, 1, 2 or train",
        ),
        ({"split": with_value(SPLIT, 3, 3)}, "split has 3 in row 3"),
        ({"split": SPLIT * 0 + 2}, "split has no training images"),
        ({"split": (LABELS > 0).astype(int)}, "all training images are of one class"),
        ({"x": np.array([None] * N)}, "x holds Python objects, which are not loaded"),
        ({"split": np.array(["train", 1] * 15, dtype=object)}, "split holds Python objects"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    made = {"x": GREY, "y": LABELS} | arrays
    with pytest.raises(DataError, match=message) as caught:
        loaded(tmp_path, **{key: value for key, value in made.items() if value is not None})
    assert "\n" not in str(caught.value) and "own.npz" in str(caught.value)


def test_a_file_that_is_no_npz_is_one_line(tmp_path: Path) -> None:
    path = Path(saved(tmp_path, x=GREY, y=LABELS))
    content = path.read_bytes()
    middle = len(content) // 2
    faults = {
        "not an NPZ file": b"hello",
        "cannot be read": content[:middle],
        "is damaged": content[:400] + bytes(byte ^ 255 for byte in content[400:440]) + content[440:],
    }
    for message, damaged in faults.items():
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=message) as caught:
            npz_pool(str(path))
        assert "\n" not in str(caught.value)
    np.save(tmp_path / "one.npy", GREY)
    with pytest.raises(DataError, match="is a single array; an NPZ file with x, y is needed"):
        npz_pool(str(tmp_path / "one.npy"))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        npz_pool(str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        npz_pool(str(tmp_path))


def test_a_root_is_needed() -> None:
    with pytest.raises(DataError, match="'npz' needs data.root, an NPZ file with the arrays x"):
        load(Config.build({"data.dataset": "npz"}))


def test_fewer_images_than_the_critic_needs_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="critic set needs 18 x 64 = 1152 images, the training set has 18"):
        loaded(tmp_path, {"stages": ["pretrain", "joint"]}, x=GREY, y=LABELS)
