"""Images of one's own in one folder per class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lsx.config import Config
from lsx.data import Dataset, folder_pool, load
from lsx.errors import DataError

RANDOM = np.random.default_rng(0)


def write(folder: Path, classes: str = "ab", count: int = 10, side: int = 8, mode: str = "L") -> None:
    """Random images ``000.png`` … in one folder per class."""
    shape = (side, side) if mode == "L" else (side, side, 3)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = RANDOM.integers(256, size=shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")


def loaded(root: Path, **more: object) -> Dataset:
    return load(Config.build({"data.dataset": "image_folder", "data.root": str(root), "stages": ["pretrain"]}, more))


def stored(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_sorted_folders_are_the_labels(tmp_path: Path) -> None:
    write(tmp_path, "ba")
    (tmp_path / "a" / "thumbs.db").write_bytes(b"\0")
    (tmp_path / ".git").mkdir()
    dataset = loaded(tmp_path)
    assert dataset.image_shape == (1, 8, 8) and dataset.num_classes == 2
    assert dataset.provenance["classes"] == ["a", "b"]
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [12, 4, 4]
    for part in (dataset.train, dataset.validation, dataset.test):
        pixels = (dataset.raw(part.images) * 255).round().byte().numpy()[:, 0]
        for row, label, image in zip(part.index.tolist(), part.labels.tolist(), pixels, strict=True):
            np.testing.assert_array_equal(image, stored(tmp_path / "ab"[label] / f"{row % 10:03}.png"))


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "VAL", "Test")])
def test_parts_are_found_however_they_are_spelt(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, count in zip(names, (5, 3, 4), strict=True):
        write(tmp_path / name, count=count)
    dataset = loaded(tmp_path)
    assert dataset.provenance["classes"] == ["a", "b"]
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [10, 6, 8]


@pytest.mark.parametrize("validation", ["validation", "val", None])
@pytest.mark.parametrize("test", ["test", None])
def test_parts_in_folders_of_their_own_are_used(tmp_path: Path, validation: str | None, test: str | None) -> None:
    write(tmp_path / "train")
    for name, count in ((validation, 3), (test, 4)):
        if name:
            write(tmp_path / name, count=count)
    dataset = loaded(tmp_path)
    free = 20
    expected = [6 if validation else round(0.2 * free), 8 if test else round(0.2 * free)]
    assert [len(dataset.validation), len(dataset.test)] == expected
    assert len(dataset.train) == free - (0 if validation else 4) - (0 if test else 4)
    if test:
        pixels = {image.tobytes() for image in (dataset.raw(dataset.test.images) * 255).round().byte().numpy()}
        assert pixels == {stored(path).tobytes() for path in (tmp_path / "test").rglob("*.png")}


def test_one_coloured_image_makes_all_rgb(tmp_path: Path) -> None:
    write(tmp_path, "a", 4)
    write(tmp_path, "b", 4, mode="RGB")
    pool = folder_pool(str(tmp_path))
    assert pool.images.shape == (8, 3, 8, 8)
    for channel in range(3):
        np.testing.assert_array_equal(pool.images[0, channel], stored(tmp_path / "a" / "000.png"))
    np.testing.assert_array_equal(pool.images[4].transpose(1, 2, 0), stored(tmp_path / "b" / "000.png"))


def test_other_formats_are_read(tmp_path: Path) -> None:
    write(tmp_path, "ab", 2)
    grey = stored(tmp_path / "a" / "000.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a" / "100.png")  # 16 bits
    Image.fromarray(np.dstack([grey, grey * 0 + 128])).save(tmp_path / "a" / "101.png")  # with transparency
    Image.fromarray(grey).save(tmp_path / "a" / "102.BMP")
    Image.fromarray(grey > 127).save(tmp_path / "a" / "103.tif")  # one bit
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    Image.fromarray(np.rot90(grey, 2)).save(tmp_path / "a" / "104.png", exif=turned)
    Image.fromarray(np.rot90(grey, 2).astype(np.uint16) * 257).save(tmp_path / "a" / "105.png", exif=turned)
    images = folder_pool(str(tmp_path)).images[:, 0]
    for row in (2, 3, 4, 6, 7):
        np.testing.assert_array_equal(images[row], grey)
    np.testing.assert_array_equal(images[5], np.where(grey > 127, 255, 0))


def test_image_size_resizes(tmp_path: Path) -> None:
    write(tmp_path, "a", 2, side=8)
    write(tmp_path, "b", 2, side=16)
    with pytest.raises(DataError, match="a/000.png' has 8x8 pixels, '.*b/000.png' 16x16; set data.image_size"):
        folder_pool(str(tmp_path))
    images = folder_pool(str(tmp_path), 8).images
    np.testing.assert_array_equal(images[0, 0], stored(tmp_path / "a" / "000.png"))
    halves = stored(tmp_path / "b" / "000.png").reshape(8, 2, 8, 2).mean(axis=(1, 3))
    assert np.corrcoef(images[2, 0].ravel(), halves.ravel())[0, 1] > 0.9


def test_coloured_images_can_have_a_patch_in_the_colour_of_their_class(tmp_path: Path) -> None:
    write(tmp_path, "abc", 10, mode="RGB")
    dataset = loaded(tmp_path, **{"confounder": {"kind": "patch", "intensity": "hue", "size": 2}})
    train = dataset.train
    assert train.masks is not None and len(dataset.mean) == 3
    colours = (dataset.raw(train.images) * 255).round() * train.masks
    expected = torch.tensor([[255.0, 0, 0], [240, 133, 0], [201, 226, 0]])[train.labels]
    torch.testing.assert_close(colours.amax((2, 3)), expected)


def text(path: Path) -> None:
    path.write_text("not an image")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def floating(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.float32)).save(path, format="tiff")


@pytest.mark.parametrize(("damage"), [text, half, floating])
def test_an_unreadable_image_is_named(tmp_path: Path, damage: object) -> None:
    write(tmp_path)
    damage(tmp_path / "b" / "003.png")  # type: ignore[operator]
    with pytest.raises(DataError, match="b/003.png' cannot be read: ") as caught:
        folder_pool(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_folders_that_are_not_as_described_are_one_line(tmp_path: Path) -> None:
    def fault(name: str) -> str:
        with pytest.raises(DataError) as caught:
            loaded(tmp_path / name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is not a folder; it must hold one sub-folder of images per class" in fault("nowhere")
    write(tmp_path / "one", "a")
    assert "must hold a sub-folder of images per class, at least two; it has ['a']" in fault("one")
    (tmp_path / "flat").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "flat" / "1.png")
    assert "at least two; it has []" in fault("flat")
    write(tmp_path / "hollow")
    (tmp_path / "hollow" / "c").mkdir()
    assert "hollow/c' holds no images (.bmp, .gif" in fault("hollow")
    write(tmp_path / "stray" / "train")
    write(tmp_path / "stray" / "test", "ac")
    assert "test/c' is a class without training images; valid: a, b" in fault("stray")
    (tmp_path / "bare" / "val").mkdir(parents=True)
    write(tmp_path / "bare" / "train")
    assert "bare/val' holds no sub-folder of images per class" in fault("bare")
    write(tmp_path / "beside" / "train")
    write(tmp_path / "beside" / "validate")
    assert "has 'validate' beside 'train'; valid: train, validation, val, valid, test; where" in fault("beside")
    for name in ("train", "val", "valid"):
        write(tmp_path / "twice" / name)
    assert "has both 'val' and 'valid' for one part; leave one" in fault("twice")
    with pytest.raises(DataError, match="'image_folder' needs data.root, a folder with one sub-folder"):
        load(Config.build({"data.dataset": "image_folder"}))
