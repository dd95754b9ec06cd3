"""``python -m lsx data``: fetch MNIST when asked, and show what a run would be given."""

import argparse
from pathlib import Path
from typing import Any

import torch

from lsx.config import Config, DataConfig
from lsx.data import Dataset, load, mnist_pool
from lsx.data.mnist import DOWNLOAD_ROOT
from lsx.errors import DataError

_SHOWN = ("dataset", "source", "root", "seed", "validation_fraction", "test_fraction", "few_shot_fraction")


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand ``data``; its ``run`` default takes the parsed arguments."""
    parser = subparsers.add_parser("data", help="download MNIST, or show a dataset's splits")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="{download,show}")

    download = actions.add_parser("download", help="fetch the complete MNIST with torchvision")
    download.add_argument("--root", default=DOWNLOAD_ROOT, help="folder to put it in (default: %(default)s)")

    show = actions.add_parser("show", help="show where the images come from and how they are split")
    for name in _SHOWN:
        field = DataConfig.model_fields[name]
        text = str(field.description).replace("%", "%%")
        show.add_argument(
            f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=f"{text} (default: {field.default})"
        )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status.

    Raises:
        ConfigError: a setting is not valid.
        DataError: the download fails, or the source is missing, damaged or too small.
    """
    if args.action == "download":
        print(download(args.root))
        return 0
    given = {f"data.{name}": getattr(args, name) for name in _SHOWN if hasattr(args, name)}
    for key, value in given.items():
        given[key] = _number(value) if key.endswith(("seed", "fraction")) else value
    # Without a critic: the data shown need not be enough for the default critic set.
    config = Config.build(given, {"stages": ["pretrain"]})
    print(describe(load(config)))
    return 0


def download(root: str) -> str:
    """Fetch MNIST into ``root/MNIST/raw``, unless it is there, and check it.

    Returns:
        What is there now, and the settings that use it.

    Raises:
        DataError: no network, a mirror that fails, an unwritable folder, or damaged files.
    """
    from torchvision.datasets import MNIST

    try:
        raw = Path(root).expanduser() / "MNIST" / "raw"
    except RuntimeError as error:
        raise DataError(f"--root {root!r} cannot be used: {error}") from None
    # Not left to torchvision, which would fail on a damaged file that is there without naming it.
    if not all((raw / name.removesuffix(".gz")).is_file() for name, _ in MNIST.resources):
        try:
            MNIST(root, download=True)
        except (OSError, RuntimeError, EOFError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"MNIST could not be downloaded into {root!r}: {reason}; "
                "try again, or use data.source embedded or folder"
            ) from None
    pool = mnist_pool(DataConfig(source="torchvision", root=root))
    place = "" if root == DOWNLOAD_ROOT else f" data.root={root}"
    return f"{pool.description}\nto use it, set data.source=torchvision{place}"


def describe(dataset: Dataset) -> str:
    """Source, checksum, and images per split and class."""
    provenance = dataset.provenance
    shape = " x ".join(str(side) for side in dataset.image_shape)
    lines = [
        f"dataset  {dataset.name} (seed {provenance.get('seed')})",
        f"source   {provenance.get('description')}",
        f"sha256   {provenance.get('sha256')}",
        f"images   {shape}, p/255 normalised with mean {dataset.mean}, std {dataset.std}",
        "",
        f"{'split':<12}{'images':>8}  class" + "".join(f"{label:>7}" for label in range(dataset.num_classes)),
    ]
    for name in ("train", "validation", "test"):
        labels = getattr(dataset, name).labels
        counts = torch.bincount(labels, minlength=dataset.num_classes).tolist()
        lines.append(f"{name:<12}{len(labels):>8}       " + "".join(f"{count:>7}" for count in counts))
    return "\n".join(lines)


def _number(text: str) -> int | float | str:
    """The number that ``text`` spells; other text is left for the configuration to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
