"""``lsx evaluate``: metrics of checkpoints, side by side."""

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lsx.cli.checkpoints import Opened, fingerprint, open_checkpoint, other_split, short_names
from lsx.cli.flags import Formatter, add_settings, given_settings
from lsx.cli.folder import plain, replace_text
from lsx.cli.interrupts import Interrupts
from lsx.config import Config
from lsx.errors import ConfigError

if TYPE_CHECKING:
    from lsx.data import Dataset
    from lsx.metrics import Evaluation

SplitName = Literal["train", "validation", "test"]
SECTIONS = ("device", "data", "confounder", "explainer", "critic", "evaluation")
ROOM = 150  # columns of a terminal for the meanings, too
EPILOG = """\
groups of metrics: standard, all, accuracy, faithfulness, separability, localization, robustness, sanity, critic.
Each checkpoint's own settings decide its data and its explainer, where no flag says otherwise. Choose on validation
images, and keep the test images for the end.

examples:
  lsx evaluate runs/a/checkpoint.pt runs/b/checkpoint.pt
  lsx evaluate runs/a --metrics faithfulness,robustness --max-images 200 --out a.json
  lsx evaluate --list
"""


@dataclass(frozen=True)
class Column:
    """One checkpoint's metrics.

    Attributes:
        name: short, and its own.
        values: metrics by name; NaN where they are not defined.
        reasons: why, by metric.
        path: of the checkpoint.
        data: the images it was scored on, in words.
        fingerprint: of these images and labels; equal for the same ones.
        warning: what to know about these images; empty where there is nothing.
    """

    name: str
    values: Mapping[str, float]
    reasons: Mapping[str, str]
    path: str = ""
    data: str = ""
    fingerprint: str = ""
    warning: str = ""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand ``evaluate``; its ``run`` default takes the parsed arguments."""
    parser = subparsers.add_parser(
        "evaluate",
        usage="lsx evaluate CKPT [CKPT ...] [--metrics A,B] [--split SPLIT] [--out FILE] [settings]\n"
        "       lsx evaluate --list",
        help="metrics of checkpoints, side by side",
        description="Metrics of checkpoints, side by side: rows are metrics, columns checkpoints, * the best.",
        epilog=EPILOG,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoints", nargs="*", metavar="CKPT", help="a checkpoint, or the folder of a run")
    parser.add_argument("--split", default="validation", metavar="{train,validation,test}", help="default: %(default)s")
    parser.add_argument("--out", metavar="FILE", help="also keep the numbers, as .json or .csv")
    parser.add_argument("--list", action="store_true", help="list all metrics and groups: direction, range, meaning")
    add_settings(parser, SECTIONS, config=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status.

    Raises:
        LSXError: a checkpoint that cannot be read, an unknown metric, a file name of another kind.
    """
    settings = given_settings(args)
    names = settings.get("evaluation.metrics")
    if args.list or names == ("help",):
        return _list()
    if not args.checkpoints:
        raise ConfigError("evaluate needs a checkpoint; `lsx evaluate --help` says more")
    with Interrupts():
        return evaluate(args.checkpoints, settings, args.split, names, args.out)


def evaluate(
    paths: Sequence[str],
    settings: Mapping[str, Any],
    split: str,
    names: Sequence[str] | None,
    out: str | Path | None,
) -> int:
    """Score checkpoints, show the table, and keep it in ``out`` where that is given.

    Args:
        paths: of the checkpoints, or folders of runs.
        settings: laid over each checkpoint's own.
        split: train, validation or test.
        names: metrics and groups; each checkpoint's ``evaluation.metrics`` when None.
        out: a .json or .csv file.

    Raises:
        LSXError: see :func:`run`.
    """
    from lsx import metrics
    from lsx.errors import unknown

    if split not in metrics.SPLITS:
        raise ConfigError(unknown("split", split, metrics.SPLITS))
    if out is not None and Path(out).suffix not in (".json", ".csv"):
        raise ConfigError(f"--out {str(out)!r} must end in .json or .csv")
    metrics.select(names or ())
    shown = short_names(paths)
    opened = [open_checkpoint(path, settings) for path in paths]
    columns = []
    for path, name, one in zip(paths, shown, opened, strict=True):
        if len(paths) > 1:
            print(f"lsx: scoring {name}", file=sys.stderr)
        found = metrics.evaluate_with_reasons(one.learner, one.dataset, split, one.config, metrics=names)
        columns.append(_column(path, name, one, split, found))
    print(_head(columns))
    show(columns)
    if out is not None:
        replace_text(Path(out), _text(columns, split, Path(out).suffix))
        print(f"lsx: numbers in {out}", file=sys.stderr)
    return 0


def _column(path: str, name: str, opened: Opened, split: str, found: "Evaluation") -> Column:
    dataset, part = opened.dataset, getattr(opened.dataset, split)
    return Column(
        name,
        found.values,
        found.reasons,
        path,
        _describe(dataset, split, len(part), opened.config),
        fingerprint(dataset, part),
        other_split(opened, name, split),
    )


def show(columns: Sequence[Column]) -> None:
    """Print metrics as rows and checkpoints as columns, then why some are NaN; their meanings where there is room."""
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console = Console(width=200)
    console.print(table(columns, meaning=len(columns) == 1 and console.width >= ROOM))
    for column in columns:
        for name, reason in column.reasons.items():
            whose = "" if len(columns) == 1 else f" ({column.name})"
            console.print(f"{name}{whose}: {reason}", markup=False, highlight=False, soft_wrap=True)


def table(columns: Sequence[Column], *, meaning: bool) -> Table:
    """Metrics as rows, checkpoints as columns; the best of several is marked, – is what is not defined."""
    from lsx.metrics import METRICS

    shown = Table(box=None, pad_edge=False)
    shown.add_column("metric", no_wrap=True)
    for title in [*(column.name for column in columns), "better", *(["meaning"] if meaning else [])]:
        shown.add_column(title, overflow="fold")
    for name in dict.fromkeys(name for column in columns for name in column.values):
        metric = METRICS[name]
        values = [column.values.get(name, math.nan) for column in columns]
        best = _best(values, metric.direction)
        told_apart = len(set(values)) > 1
        cells = [_cell(value, value == best and told_apart) for value in values]
        shown.add_row(name, *cells, metric.arrow, *([metric.meaning] if meaning else []))
    return shown


def _best(values: Sequence[float], direction: str) -> float:
    defined = [value for value in values if not math.isnan(value)]
    if not defined:
        return math.nan
    return max(defined) if direction == "maximize" else min(defined)


def _cell(value: float, best: bool) -> Text:
    if math.isnan(value):
        return Text("–", style="dim")
    return Text(f"{value:.4f}" + (" *" if best else ""), style="bold" if best else "")


def _head(columns: Sequence[Column]) -> str:
    """What was scored on which images."""
    lines = [f"on {columns[0].data}"]
    if len({column.fingerprint for column in columns}) > 1:
        lines = ["on different images, so that the columns cannot be compared:"]
        lines += [f"  {column.name}: {column.data}" for column in columns]
    return "\n".join([*lines, *(column.warning for column in columns if column.warning)])


def _describe(dataset: "Dataset", split: str, size: int, config: Config) -> str:
    source = dataset.provenance.get("description", "")
    explained = min(size, config.evaluation.max_images)
    return f"{size} {split} images of {dataset.name} ({source}), {explained} of them explained"


def _text(columns: Sequence[Column], split: str, suffix: str) -> str:
    from lsx.metrics import METRICS

    names = list(dict.fromkeys(name for column in columns for name in column.values))
    if suffix == ".json":
        scored = [
            {
                "name": column.name,
                "checkpoint": column.path,
                "data": column.data,
                "images_sha256": column.fingerprint,
                "metrics": plain(column.values),
                "reasons": dict(column.reasons),
            }
            for column in columns
        ]
        directions = {name: METRICS[name].direction for name in names}
        return json.dumps({"split": split, "directions": directions, "checkpoints": scored}, indent=1) + "\n"
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["metric", "direction", *(column.name for column in columns)])
    for name in names:
        values = [column.values.get(name, math.nan) for column in columns]
        writer.writerow([name, METRICS[name].direction, *("" if math.isnan(value) else value for value in values)])
    return file.getvalue()


def _list() -> int:
    from lsx.metrics import METRICS

    print(METRICS)
    print("\ngroups:")
    for group in METRICS.groups:
        members = METRICS.group(group)
        print(f"  {group}: " + ("all of them" if len(members) == len(METRICS) else ", ".join(members)))
    return 0
