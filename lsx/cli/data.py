"""``python -m lsx data``: fetch a dataset when asked, and show what a run would be given."""

from __future__ import annotations  # help needs no torch, so types are names only

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsx.cli.flags import Formatter, add_settings, flag, layered
from lsx.cli.spellings import SPELLINGS
from lsx.config import DOWNLOAD_ROOT, DataConfig
from lsx.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from lsx.data import Dataset, Split

_SPLITS = ("train", "validation", "test")
_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
_EXAMPLES = 10  # columns of a picture
_OUTLINE = "#35c2b0"


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand ``data``; its ``run`` default takes the parsed arguments."""
    parser = subparsers.add_parser("data", help="download a dataset, or show one and its splits")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="{download,show}")

    download = actions.add_parser("download", help="fetch a dataset with torchvision or medmnist")
    download.add_argument(
        "--dataset", default="mnist", choices=[*_TORCHVISION, "chest_mnist"], help="which (default: %(default)s)"
    )
    download.add_argument("--root", default=DOWNLOAD_ROOT, help="folder to put it in (default: %(default)s)")

    show = actions.add_parser(
        "show",
        help="show where the images come from and how they are split",
        description="The settings of data may also be given without their prefix, such as --root for --data-root.",
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    show.add_argument("--picture", metavar="FILE", help="PNG to draw some images of every split into")
    add_settings(show, ("data", "confounder"))
    for key in DataConfig.model_fields:
        if f"--{key}" not in SPELLINGS.get(f"data.{key}", ()):
            short = f"--{key.replace('_', '-')}"
            show.add_argument(short, dest=key, action="append", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status.

    Raises:
        ConfigError: a setting is not valid.
        DataError: the download fails, or the source is missing, damaged or too small.
    """
    from lsx.data import load

    if args.action == "download":
        print(download(args.root, args.dataset))
        return 0
    short = [(flag(f"data.{key}"), text) for key in DataConfig.model_fields for text in getattr(args, key, [])]
    args.given = [*args.given, *short]
    # Without a critic: the data shown need not be enough for the default critic set.
    dataset = load(layered(args, {}, None).replace({"stages": ("pretrain",)}))
    print(describe(dataset))
    if args.picture is not None:
        _save(dataset, Path(args.picture))
        print(f"picture  {args.picture}")
    return 0


def download(root: str, dataset: str = "mnist") -> str:
    """Fetch a dataset into ``root``, unless it is there, and check it.

    Args:
        root: folder; torchvision's go to ``root/MNIST/raw`` or ``root/FashionMNIST/raw``.
        dataset: mnist, fashion_mnist or chest_mnist.

    Returns:
        What is there now, and the settings that use it.

    Raises:
        DataError: no network, a mirror that fails, an unwritable folder, damaged files, or medmnist is not installed.
    """
    from lsx.data import chest, chest_pool, fashion_pool, mnist_pool

    place = "" if root == DOWNLOAD_ROOT else f" data.root={root}"
    if dataset == "chest_mnist":
        chest.download(root)
        return f"{chest_pool(root).description}\nto use it, set data.dataset=chest_mnist{place}"
    _fetch(root, _TORCHVISION[dataset])
    read = mnist_pool if dataset == "mnist" else fashion_pool
    pool = read(DataConfig(source="torchvision", root=root))
    use = "" if dataset == "mnist" else f"data.dataset={dataset} "
    return f"{pool.description}\nto use it, set {use}data.source=torchvision{place}"


def describe(dataset: Dataset) -> str:
    """Source, checksum, confounder, and images per split and class."""
    provenance = dataset.provenance
    shape = " x ".join(str(side) for side in dataset.image_shape)
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (dataset.mean, dataset.std))
    kind, *details = provenance.get("confounder", {"kind": "unknown"}).items()
    confounder = [str(kind[1]), *(f"{name} {value}".replace("_", " ") for name, value in details)]
    names = [str(name) for name in provenance.get("classes", range(dataset.num_classes))]
    lines = [
        f"dataset     {dataset.name} (seed {provenance.get('seed')})",
        f"source      {provenance.get('description')}",
        f"sha256      {provenance.get('sha256')}",
        f"images      {shape}, 0-1 normalised with mean {mean}, std {std}",
        f"confounder  {', '.join(confounder)}",
        f"masks       {', '.join(provenance.get('masks', [])) or 'none'}",
        "",
    ]
    return "\n".join(lines + _counts(dataset, names))


def _counts(dataset: Dataset, names: list[str]) -> list[str]:
    """A row per class, for there may be many, and their sum."""
    import torch

    splits = [getattr(dataset, name).labels for name in _SPLITS]
    counts = [torch.bincount(labels, minlength=dataset.num_classes).tolist() for labels in splits]
    width = max(8, *(len(name) for name in names))
    rows = [("class", *_SPLITS), *zip(names, *counts, strict=True), ("all", *(len(labels) for labels in splits))]
    return [f"{row[0]:<{width}}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows]


def _fetch(root: str, name: str) -> None:
    """Torchvision's download of its dataset of that name."""
    from torchvision import datasets

    source = getattr(datasets, name)
    try:
        raw = Path(root).expanduser() / name / "raw"
    except RuntimeError as error:
        raise DataError(f"--root {root!r} cannot be used: {error}") from None
    # Not left to torchvision, which would fail on a damaged file that is there without naming it.
    if all((raw / resource.removesuffix(".gz")).is_file() for resource, _ in source.resources):
        return
    try:
        source(root, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())
        other = "data.source embedded or folder" if name == "MNIST" else "data.source folder"
        raise DataError(f"{name} could not be downloaded into {root!r}: {reason}; try again, or use {other}") from None


def _save(dataset: Dataset, path: Path) -> None:
    """A row of images per split, one per class as far as there is room; confounders' places are outlined."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = {name: _examples(getattr(dataset, name)) for name in _SPLITS}
    columns = max(len(part) for part in chosen.values())
    figure = Figure(figsize=(0.9 * columns + 0.9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(_SPLITS), columns, squeeze=False)
    for row, (name, part) in zip(axes, chosen.items(), strict=True):
        images = dataset.raw(part.images)
        for column, panel in enumerate(row):
            panel.axis("off")
            if column < len(part):
                _panel(panel, images[column], None if part.masks is None else part.masks[column, 0])
                panel.set_title(str(int(part.labels[column])), fontsize=8)
        row[0].text(-0.15, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=9)
    figure.suptitle(f"{dataset.name}: images and their classes", fontsize=10)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(unfinished, format="png", dpi=130)
        unfinished.replace(path)
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise ConfigError(f"--picture {str(path)!r} cannot be written: {error}") from None
    finally:
        with suppress(OSError):  # NotADirectoryError, where it could not be made
            unfinished.unlink()


def _examples(split: Split) -> Split:
    """One image each of some classes, and further ones where there are few classes."""
    import torch

    order = torch.argsort(split.labels, stable=True)
    counts = torch.bincount(split.labels)
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[split.labels[order]]
    chosen = order[torch.argsort(rank, stable=True)][:_EXAMPLES]
    return split.take(chosen[torch.argsort(split.labels[chosen], stable=True)])


def _panel(panel: Any, image: Tensor, mask: Tensor | None) -> None:
    """An image (C, H, W) in 0–1, of other than three channels as their mean, and its mask (H, W)."""
    import torch

    height, width = image.shape[1:]
    extent = (0, width, height, 0)
    shown = image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)
    panel.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent)
    if mask is not None and mask.any():
        # Finer than the image, so that the outline follows the pixels' edges; padded, so that it closes at the rim.
        fine = torch.nn.functional.pad(mask.float().kron(torch.ones(8, 8)), (1, 1, 1, 1))
        rim = (-1 / 16, width + 1 / 16, -1 / 16, height + 1 / 16)
        panel.contour(fine.numpy(), levels=[0.5], colors=_OUTLINE, linewidths=1.3, extent=rim)
