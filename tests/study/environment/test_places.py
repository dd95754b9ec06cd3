"""Where checkpoints lie: folders and URIs alike."""

import os
from pathlib import Path

import pytest
from pyarrow import fs

from lsx.errors import StudyError
from lsx.study.environment import places
from lsx.study.environment.places import CHECKPOINT, MARKER, Storage, download


def stored(storage: Storage, base: Path, relative: str, **files: str) -> str:
    """A stored folder with these files; its path as Tune has it."""
    folder = base / relative
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_pt", ".pt")).write_text(text)
    return str(folder)


@pytest.fixture(params=["folder", "uri"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    path = tmp_path / "all-checkpoints"
    return str(path) if request.param == "folder" else f"file://{path}"


def test_a_checkpoint_is_named_by_its_place_below_the_root(tmp_path: Path, root: str) -> None:
    storage = Storage(f"{root}/")
    assert storage.remote == root.startswith("file:")
    path = stored(storage, tmp_path / "all-checkpoints", "run/0001-t/checkpoint_0", checkpoint_pt="5")
    relative = storage.relative(path)
    assert relative == "run/0001-t/checkpoint_0"
    assert storage.has(relative) and not storage.has("run/0002-t")
    (tmp_path / "here").mkdir()
    download(storage.uri(relative), tmp_path / "here")
    assert (tmp_path / "here" / CHECKPOINT).read_text() == "5"
    with pytest.raises(OSError, match="0002-t"):
        download(storage.uri("run/0002-t"), tmp_path / "here")


def test_a_folder_without_a_leading_slash_is_below_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage("here").root == str(tmp_path / "here")


def test_a_buckets_address_keeps_its_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_opened", lambda _: (fs.LocalFileSystem(), "bucket/studies/fake"))
    storage = Storage("s3://bucket/studies/fake?endpoint_override=host:9000")
    assert storage.uri("run/c") == "s3://bucket/studies/fake/run/c?endpoint_override=host:9000"
    assert storage.relative("bucket/studies/fake/run/c") == "run/c"


def test_files_are_fetched_whole_and_those_that_are_missing_left_out(tmp_path: Path, root: str) -> None:
    storage = Storage(root)
    stored(storage, tmp_path / "all-checkpoints", "run/c", learner_pt="weights")
    here = tmp_path / "here"
    here.mkdir()
    (here / "learner.pt").write_text("old")
    assert storage.fetch("run/c", ["learner.pt", "picture.png"], here) == [here / "learner.pt"]
    assert (here / "learner.pt").read_text() == "weights"
    assert os.listdir(here) == ["learner.pt"]


def test_sweeping_spares_the_runs_that_are_gone_on_from(tmp_path: Path, root: str) -> None:
    storage, base = Storage(root), tmp_path / "all-checkpoints"
    storage.sweep()  # there is nothing yet
    storage.check()
    for run in ("one", "two", "three"):
        stored(storage, base, f"{run}/t/checkpoint_0", checkpoint_pt=run)
    storage.sweep(["two/t/checkpoint_0", "four/t/checkpoint_9"])
    assert sorted(os.listdir(base)) == sorted([MARKER, "two"])
    assert storage.has("two/t/checkpoint_0")
    storage.sweep()
    assert os.listdir(base) == [MARKER]


def test_a_storage_that_cannot_be_written_is_one_line(tmp_path: Path, root: str) -> None:
    storage = Storage(f"{root}/fake")
    (tmp_path / "all-checkpoints").write_text("a file")
    with pytest.raises(StudyError, match=r"^storage '[^']*/fake' cannot be written: [^\n]+$"):
        storage.check()


def test_an_unknown_scheme_is_one_line_without_credentials() -> None:
    with pytest.raises(StudyError) as caught:
        Storage("s4://key:secret@bucket/folder")
    assert "s4://***@bucket/folder" in str(caught.value) and "s3://bucket/folder" in str(caught.value)
    assert "secret" not in str(caught.value)
