"""``lsx explain``: explanations of checkpoints, as a picture and as arrays."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsx.cli.checkpoints import add_run_id, open_checkpoint, other_split, short_names, tracked
from lsx.cli.evaluate import SECTIONS
from lsx.cli.flags import Formatter, add_settings, given_settings
from lsx.cli.interrupts import Interrupts
from lsx.config import Config
from lsx.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lsx.data import Dataset, Split

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
DRAWN = 16
SPLITS = ("train", "validation", "test")
EPILOG = """\
The folder gets gallery.png (the first 16 images at most) and explanations.npz:
  images                          (N, C, H, W), 0-1, as the network's normalisation receives them
  labels, index                   (N,), class and row in the data's source; -1 for your own images
  predicted/<checkpoint>          (N,), the most probable class
  probabilities/<checkpoint>      (N, K)
  explained/<checkpoint>          (N,), the class that is explained
  explanations/<checkpoint>/<method>   (N, C, H, W), each image's scaled by itself: 0-1, but for
                                  methods that are multiplied by the input

examples:
  lsx explain run/checkpoint.pt
  lsx explain run/checkpoint.pt digit.png --methods input_x_gradient,gradcam --out digit
  lsx explain a/checkpoint.pt b/checkpoint.pt --class 7 --count 8
  lsx explain --run-id 32c0c13f22eb4c5c8a7d04bdcd8bcd1d --tracking-uri sqlite:///mlflow.db
"""


@dataclass(frozen=True)
class Subject:
    """One checkpoint and what it makes of the images.

    Attributes:
        name: short, and its own.
        examples: the images, normalised for this network, and their labels, on its device.
        maps: explanations (N, C, H, W) by method.
    """

    name: str
    learner: "nn.Module"
    dataset: "Dataset"
    config: Config
    examples: "Split"
    probabilities: "Tensor"
    maps: dict[str, "Tensor"] = field(default_factory=dict)


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand ``explain``; its ``run`` default takes the parsed arguments."""
    parser = subparsers.add_parser(
        "explain",
        usage="lsx explain CKPT|--run-id ID [CKPT ...] [IMAGE ...] [--methods A,B] [--out DIR] [settings]",
        help="explanations of checkpoints, as a picture and as arrays",
        description="Explanations of images by one or several checkpoints and methods, as a picture and as arrays.",
        epilog=EPILOG,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "inputs", nargs="*", metavar="CKPT|IMAGE", help="checkpoints or run folders; image files of your own after them"
    )
    add_run_id(parser)
    parser.add_argument("--images", nargs="+", default=[], metavar="FILE", help="image files of your own")
    parser.add_argument("--methods", metavar="A,B", help="explainers, side by side (default: each checkpoint's own)")
    parser.add_argument("--split", default="test", metavar="{train,validation,test}", help="default: %(default)s")
    parser.add_argument("--count", default="16", metavar="N", help="images of the split (default: %(default)s)")
    parser.add_argument("--class", dest="label", metavar="K", help="images of this class only")
    parser.add_argument("--out", default="lsx-explanations", metavar="DIR", help="default: %(default)s")
    add_settings(parser, SECTIONS, config=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status.

    Raises:
        LSXError: a checkpoint or image that cannot be read, an unknown explainer, images of different kinds.
    """
    own = [path for path in args.inputs if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    checkpoints = [path for path in args.inputs if path not in own]
    if not checkpoints and not args.run_id:
        raise ConfigError("explain needs a checkpoint before the images, or --run-id")
    label = None if args.label is None else _whole("--class", args.label, 0)
    methods = None if args.methods is None else [method.strip() for method in args.methods.split(",")]
    with Interrupts(), tracked(args.run_id, args.tracking_uri) as fetched:
        return explain(
            [*checkpoints, *fetched],
            Path(args.out),
            given_settings(args),
            own + args.images,
            methods=methods,
            split=args.split,
            count=_whole("--count", args.count, 1),
            label=label,
        )


def explain(
    paths: Sequence[str],
    out: Path,
    settings: Mapping[str, Any],
    own: Sequence[str] = (),
    *,
    methods: Sequence[str] | None = None,
    split: str = "test",
    count: int = DRAWN,
    label: int | None = None,
) -> int:
    """Explain images by checkpoints; write ``gallery.png`` and ``explanations.npz`` to ``out``.

    Args:
        paths: of the checkpoints, or folders of runs.
        out: a folder.
        settings: laid over each checkpoint's own.
        own: image files, instead of images of the split; their predicted class is explained.
        methods: explainers; each checkpoint's own when None.
        split: train, validation or test.
        count: images of the split, spread over the classes.
        label: of this class only.

    Raises:
        LSXError: see :func:`run`.
    """
    from lsx import explainers

    if split not in SPLITS:
        raise ConfigError(unknown("split", split, SPLITS))
    for method in methods or ():
        explainers.EXPLAINERS.get(method)
    if own:
        settings = {**settings, "evaluation.target": "predicted"}  # their true class is not known
    subjects = [
        _subject(path, name, settings, own, split, count, label)
        for path, name in zip(paths, short_names(paths), strict=True)
    ]
    _same_images(subjects)
    _explain(subjects, methods)
    _write(out, subjects, [Path(path).name for path in own])
    return 0


def _subject(
    path: str, name: str, settings: Mapping[str, Any], own: Sequence[str], split: str, count: int, label: int | None
) -> Subject:
    import torch

    from lsx import gallery
    from lsx.cli.images import load
    from lsx.models import evaluating

    opened = open_checkpoint(path, settings)
    learner, dataset, config, _ = opened
    if own:
        examples = load(own, dataset)
    else:
        examples = getattr(dataset, split)
        if warning := other_split(opened, name, split):
            print(f"lsx: {warning}", file=sys.stderr)
        if label is not None:
            rows = (examples.labels == label).nonzero().flatten()
            if not len(rows):
                raise DataError(f"--class {label}: none of the {split} images of {dataset.name} is of that class")
            examples = examples.take(rows)
        examples = examples.take(gallery.spread(examples.labels, count))
    with evaluating(learner), torch.no_grad():
        batches = examples.images.split(config.evaluation.batch_size)
        probabilities = torch.cat([learner(images).exp() for images in batches])
    return Subject(name, learner, dataset, config, examples, probabilities)


def _same_images(subjects: Sequence[Subject]) -> None:
    """Refuse checkpoints that would be shown different images.

    Raises:
        ConfigError: they were trained on different data.
    """
    import torch

    first = subjects[0]
    images = first.dataset.raw(first.examples.images).cpu()
    for other in subjects[1:]:
        shown = other.dataset.raw(other.examples.images).cpu()
        if shown.shape != images.shape or not torch.allclose(shown, images, atol=1e-4):
            raise ConfigError(
                f"{first.name} ({_kind(first)}) and {other.name} ({_kind(other)}) have different images; "
                "explain them one by one"
            )


def _kind(subject: Subject) -> str:
    shape = "x".join(str(side) for side in subject.dataset.image_shape)
    return f"{subject.dataset.name}, {shape}, data seed {subject.config.data.seed}"


def _explain(subjects: Sequence[Subject], methods: Sequence[str] | None) -> None:
    from lsx import gallery

    for subject in subjects:
        for method in methods or [subject.config.explainer.method]:
            maps = gallery.explain(subject.learner, subject.config, subject.examples, method)
            subject.maps[method] = maps.cpu()


def _write(out: Path, subjects: Sequence[Subject], files: Sequence[str]) -> None:
    from lsx import figures

    first = subjects[0]
    images = first.dataset.raw(first.examples.images).cpu()
    some = slice(0, DRAWN)
    masks = None if first.examples.masks is None else first.examples.masks[some].cpu()
    columns = {
        method if len(subjects) == 1 else f"{subject.name}\n{method}": maps[some]
        for subject in subjects
        for method, maps in subject.maps.items()
    }
    title = "explanations of the " + ("predicted class" if _predicted(subjects) else "true class")
    try:
        out.mkdir(parents=True, exist_ok=True)
        figures.explanations(out / "gallery.png", images[some], columns, masks, title, names=_captions(first, files))
        _save(out / "explanations.npz", _arrays(subjects, images))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--out {str(out)!r} cannot be written: {error}") from None
    print(f"in {out}/: gallery.png ({min(len(images), DRAWN)} images), explanations.npz ({len(images)} images)")


def _predicted(subjects: Sequence[Subject]) -> bool:
    return subjects[0].config.evaluation.target == "predicted"


def _captions(subject: Subject, files: Sequence[str]) -> list[str]:
    """Beside each drawn image: its file or class, and the first checkpoint's prediction."""
    captions = []
    tops, classes = (values.tolist() for values in subject.probabilities[:DRAWN].max(dim=1))
    for row, (top, predicted) in enumerate(zip(tops, classes, strict=True)):
        what = files[row] if files else f"class {int(subject.examples.labels[row])}"
        captions.append(f"{what}\n→ {predicted} ({top:.2f})")
    return captions


def _arrays(subjects: Sequence[Subject], images: "Tensor") -> dict[str, Any]:
    examples = subjects[0].examples
    found = {"images": images, "labels": examples.labels, "index": examples.index}
    for subject in subjects:
        predicted = subject.probabilities.argmax(dim=1)
        found[f"predicted/{subject.name}"] = predicted
        found[f"probabilities/{subject.name}"] = subject.probabilities
        found[f"explained/{subject.name}"] = predicted if _predicted([subject]) else subject.examples.labels
        found |= {f"explanations/{subject.name}/{method}": maps for method, maps in subject.maps.items()}
    return {name: values.cpu().numpy() for name, values in found.items()}


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an NPZ file whole or not at all."""
    import numpy as np

    part = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        np.savez_compressed(part, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _whole(flag: str, text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise ConfigError(f"{flag} {text!r} must be a whole number, at least {least}")
    return value
