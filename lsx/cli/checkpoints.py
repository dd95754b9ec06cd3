"""Checkpoints that are looked at: their learners, with the images that these are shown now."""

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lsx.cli.folder import absolute_uri, checkpoint_of
from lsx.config import Config, flatten
from lsx.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from lsx.data import Dataset, Split


NAMELESS = ("checkpoint.pt", "learner-0.pt")
"""What the checkpoint of a run, and of a trial, is called: its folder has the name."""


class Opened(NamedTuple):
    """A checkpoint that is looked at.

    Attributes:
        learner: its network.
        dataset: on the learner's device, normalised as the images that it was trained on.
        config: the checkpoint's, with the settings of the command line over it.
        state: of the checkpoint.
    """

    learner: "nn.Module"
    dataset: "Dataset"
    config: Config
    state: Mapping[str, Any]


def add_run_id(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name checkpoints in MLflow, for :func:`tracked`."""
    parser.add_argument(
        "--run-id", action="append", default=[], metavar="ID", help="a run on a study's front, in MLflow (repeatable)"
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="of MLflow (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )


@contextmanager
def tracked(run_ids: Sequence[str], uri: str | None) -> Iterator[list[str]]:
    """Paths of the checkpoints of runs in MLflow, downloaded for as long as the context lasts.

    Raises:
        LSXError: a run, its checkpoint or MLflow itself is not there, or a URI is given and no run.
    """
    if not run_ids:
        if uri is not None:
            raise ConfigError(f"--tracking-uri {uri!r} says where the runs of --run-id are; it needs --run-id")
        yield []
        return
    if sys.stderr.isatty():
        print("lsx: asking MLflow", file=sys.stderr)  # its import takes seconds
    from lsx.study.environment import quiet

    quiet.prepare()
    from lsx.study.tracked import fetched

    place = absolute_uri(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    with tempfile.TemporaryDirectory(prefix="lsx-") as folder:
        yield [str(fetched.learner(one, place, Path(folder, str(index)))) for index, one in enumerate(run_ids)]


def open_checkpoint(path: str, settings: Mapping[str, Any]) -> Opened:
    """A checkpoint's learner, and the images that its settings name with ``settings`` over them.

    Args:
        path: of the checkpoint, or the folder of a run.
        settings: nested or dotted.

    Raises:
        LSXError: unreadable, settings that are not valid, data that is not there, or weights of another architecture.
    """
    from lsx import load_data, load_learner
    from lsx.training import checkpoint
    from lsx.training.device import resolve_device

    file = checkpoint_of(path)
    state = checkpoint.load(file)
    config = Config.build(state["config"], settings)
    dataset = load_data(config)
    mean, std = (tuple(state["data"].get(name, getattr(dataset, name))) for name in ("mean", "std"))
    if len(mean) == len(dataset.mean):  # else it is of other channels, and its weights do not fit
        dataset = dataset.normalised(mean, std)
    dataset = dataset.to(resolve_device(config.device))
    return Opened(load_learner(file, dataset)[0], dataset, config, state)


def other_split(opened: Opened, name: str, split: str) -> str:
    """A warning where the images are split otherwise than they were for training; else empty.

    Args:
        opened: the checkpoint.
        name: of the checkpoint in the warning.
        split: train, validation or test, from which images are shown.
    """
    origin = opened.dataset.provenance
    then, now = flatten(opened.state["config"]), opened.config.flat()
    differences = [
        f"{key} {then[key]}, here {now[key]}"
        for key in _splitting(origin, split)
        if then.get(key, now[key]) != now[key]
    ]
    sums = [str(one.get("sha256", ""))[:12] for one in (opened.state["data"], origin)]
    if all(sums) and sums[0] != sums[1]:
        differences.append(f"checksum of the source {sums[0]}…, here {sums[1]}…")
    if not differences:
        return ""
    reasons = "; ".join(differences)
    return f"{name} was trained on another split ({reasons}): these images may be among its training images"


def _splitting(origin: Mapping[str, Any], split: str) -> list[str]:
    """The settings that decide which images a split has; a source's own validation or test set is always the same."""
    if origin.get(f"official_{split}"):
        return []
    fractions = [f"data.{part}_fraction" for part in ("validation", "test") if not origin.get(f"official_{part}")]
    return ["data.seed", *fractions]


def fingerprint(dataset: "Dataset", part: "Split") -> str:
    """A checksum of images, in 8 bits a pixel whatever their normalisation, and labels."""
    pixels = dataset.raw(part.images).mul(255).round().byte()
    digest = hashlib.sha256(str(tuple(pixels.shape)).encode() + pixels.cpu().numpy().tobytes())
    digest.update(part.labels.cpu().numpy().tobytes())
    return digest.hexdigest()


def short_names(paths: Sequence[str]) -> list[str]:
    """A title for each checkpoint: its run's folder or its file, the whole path where these are the same."""
    files = [Path(path) for path in paths]
    folders = [file.parent.absolute().name if file.name in NAMELESS else file.name for file in files]
    names = folders if len(set(folders)) == len(folders) else [str(path) for path in paths]
    return names if len(set(names)) == len(names) else [f"{name} ({i})" for i, name in enumerate(names, start=1)]
