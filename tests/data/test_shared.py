"""Pools that are read once in a study, and always anew outside of one."""

import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lsx
from lsx.config import DataConfig
from lsx.data import Pool, chest_pool, fashion_pool, folder_pool, mnist_pool, npz_pool, remembered, shared
from lsx.errors import DataError


@pytest.fixture(autouse=True)
def nothing_installed() -> Iterator[None]:
    yield
    shared.install({})


def write_npz(path: Path, value: int) -> str:
    labels = np.arange(20) % 2
    np.savez(path, x=np.full((20, 4, 4), value, dtype=np.uint8), y=labels, mask=np.zeros((20, 4, 4), dtype=bool))
    return str(path)


def write_folder(path: Path) -> str:
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(np.full((6, 6), 40 * index, dtype=np.uint8)).save(path / name / f"{index}.png")
    return str(path)


def write_chest(path: Path) -> str:
    path.mkdir()
    images, findings = np.zeros((4, 6, 6), dtype=np.uint8), np.zeros((4, 14), dtype=np.uint8)
    findings[::2, 3] = 1
    parts = {f"{part}_{kind}": array for part in ("train", "val", "test") for kind, array in
             (("images", images), ("labels", findings))}  # fmt: skip
    np.savez(path / "chestmnist.npz", **parts)
    return str(path)


def test_outside_of_a_study_a_changed_file_gives_its_new_images(tmp_path: Path) -> None:
    root = write_npz(tmp_path / "own.npz", 1)
    with shared.remembering():
        assert npz_pool(root).images.max() == 1
        write_npz(tmp_path / "own.npz", 2)
        assert npz_pool(root).images.max() == 1  # a study goes on with what it began with
    assert npz_pool(root).images.max() == 2
    write_npz(tmp_path / "own.npz", 3)
    assert npz_pool(root).images.max() == 3
    assert shared.loaded() == {}
    with shared.remembering():
        assert npz_pool(root).images.max() == 3


def test_remembering_ends_with_the_outermost_and_after_an_error(tmp_path: Path) -> None:
    root = write_npz(tmp_path / "own.npz", 1)
    with pytest.raises(KeyError), shared.remembering():
        with shared.remembering():
            first = npz_pool(root)
        assert npz_pool(root) is first
        raise KeyError
    assert npz_pool(root) is not first


def test_what_decides_the_pool_tells_pools_apart(tmp_path: Path, write_part: Callable[..., Any]) -> None:
    write_part(tmp_path / "idx")
    idx = DataConfig(source="folder", root=str(tmp_path / "idx"))
    own, pictures = write_npz(tmp_path / "own.npz", 1), write_folder(tmp_path / "pictures")
    with shared.remembering():
        digits = mnist_pool(idx)
        for same in ({"seed": 5}, {"few_shot_fraction": 0.5}, {"dataset": "color_mnist"}, {"validation_fraction": 0.1}):
            assert mnist_pool(idx.model_copy(update=same)) is digits
        assert mnist_pool(DataConfig()) is not digits
        assert fashion_pool(idx) is not digits
    with shared.remembering():
        assert npz_pool(own) is npz_pool(own, "foreground") is npz_pool(root=own, mask_kind="foreground")
        assert npz_pool(own, "confounder").masks is not None
        assert folder_pool(pictures).images.shape[2:] == (6, 6)
        assert folder_pool(pictures, image_size=3).images.shape[2:] == (3, 3)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    roots = [write_npz(tmp_path / f"{index}.npz", index) for index in range(shared.MOST + 1)]
    with shared.remembering():
        pools = [npz_pool(root) for root in roots]
        assert list(shared.loaded().values()) == pools[1:]
        assert npz_pool(roots[-1]) is pools[-1]
        assert npz_pool(roots[0]) is not pools[0]


def test_what_cannot_be_read_is_tried_again(tmp_path: Path) -> None:
    with shared.remembering():
        with pytest.raises(DataError):
            npz_pool(str(tmp_path / "own.npz"))
        assert npz_pool(write_npz(tmp_path / "own.npz", 1)).images.max() == 1


def test_installed_pools_need_no_files(tmp_path: Path, write_part: Callable[..., Any]) -> None:
    write_part(tmp_path / "idx")
    write_part(tmp_path / "fashion" / "FashionMNIST" / "raw")
    idx, fashion = (DataConfig(source="folder", root=str(tmp_path / name)) for name in ("idx", "fashion"))
    own, pictures = write_npz(tmp_path / "own.npz", 1), write_folder(tmp_path / "pictures")
    chest = write_chest(tmp_path / "chest")

    def everything() -> Iterator[Pool]:
        yield from (mnist_pool(idx), fashion_pool(fashion), npz_pool(own))
        yield from (folder_pool(pictures), chest_pool(chest))

    sent: dict[shared.Key, Pool] = {}
    with shared.remembering():
        for pool in everything():
            sent |= shared.loaded()
            _ = pool.sha256
    shutil.rmtree(tmp_path)
    with pytest.raises(DataError):
        npz_pool(own)
    shared.install(pickle.loads(pickle.dumps(sent)))
    found = list(everything())
    assert [pool.description for pool in found] == [pool.description for pool in sent.values()]
    for pool, original in zip(found, sent.values(), strict=True):
        np.testing.assert_array_equal(pool.images, original.images)
        assert vars(pool)["sha256"] == original.sha256  # not hashed again
    shared.install({})
    with pytest.raises(DataError):
        npz_pool(own)


def test_installed_pools_stay_when_others_are_read(tmp_path: Path) -> None:
    own = write_npz(tmp_path / "own.npz", 9)
    with shared.remembering():
        npz_pool(own)
        shared.install(shared.loaded())
    (tmp_path / "own.npz").unlink()
    for index in range(shared.MOST + 1):
        root = write_npz(tmp_path / f"{index}.npz", index)
        assert npz_pool(root) is npz_pool(root)
    assert npz_pool(own).images.max() == 9


@pytest.mark.parametrize("dataset", ["mnist", "decoy_mnist", "color_mnist"])
def test_datasets_of_installed_pools_are_the_same_and_write_to_none(dataset: str) -> None:
    config = lsx.Config.build({"data.dataset": dataset, "critic.set": "inside", "critic.batches": 2})
    before = lsx.load_data(config)
    with shared.remembering():
        mnist_pool(config.data)
        shared.install(pickle.loads(pickle.dumps(shared.loaded())))
    pool = mnist_pool(config.data)
    assert not any(array.flags.writeable for array in shared.arrays(pool)) and len(shared.arrays(pool)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of tensors over read-only memory
        after = lsx.load_data(config)
    assert after.provenance == before.provenance
    assert after.train.images.equal(before.train.images)
    after.train.images.zero_()
    after.train.labels.zero_()
    assert lsx.load_data(config).train.images.equal(before.train.images)


def test_own_makers_can_be_remembered() -> None:
    made = []

    @remembered
    def maker(size: int, *, shade: int = 0) -> Pool:
        made.append(size)
        return Pool(np.full((size, 1, 2, 2), shade, dtype=np.uint8), np.arange(size) % 2, "own", classes=2)

    assert maker(4).images.flags.writeable is False  # as in a study: writing to a pool fails here already
    with shared.remembering():
        assert maker(4) is maker(4, shade=0) is maker(size=4)
        assert maker(4) is not maker(5) and maker(4) is not maker(4, shade=1)
    assert made == [4, 4, 5, 4]
