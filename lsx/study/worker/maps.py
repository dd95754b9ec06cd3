"""Explanations of a few fixed validation images after every stage of a trial: what the study's report shows."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lsx import gallery
from lsx.config import Config
from lsx.data import Dataset
from lsx.explainers.base import predicted
from lsx.metrics.maps import explain, own_config, reference_config
from lsx.models import evaluating
from lsx.study.environment.places import MAPS

EXAMPLES = 8

Arrays = dict[str, NDArray[Any]]


def keep(learner: nn.Module, stage: str, config: Config, dataset: Dataset, folder: Path) -> None:
    """Add a stage to the folder's :data:`MAPS`, an NPZ file without pickles.

    It has ``images`` (uint8 (8, C, H, W)), ``labels``, ``index`` (rows in the source) and, where the data has them,
    ``masks`` (bool (8, 1, H, W)). Of every stage it has ``own/<stage>`` and ``reference/<stage>``, explanations by the
    trial's own and by the reference explainer (float16 (8, C, H, W), each scaled by itself), and ``predicted/<stage>``.
    """
    examples = dataset.validation.take(gallery.spread(dataset.validation.labels, EXAMPLES))
    known = read(folder / MAPS)
    with evaluating(learner):
        classes = predicted(learner, examples.images)
    arrays: Arrays = {
        **{name: values for name, values in known.items() if "/" in name},
        "images": (255 * dataset.raw(examples.images)).round().to(torch.uint8).cpu().numpy(),
        "labels": examples.labels.cpu().numpy(),
        "index": examples.index.cpu().numpy(),
        f"predicted/{stage}": classes.cpu().numpy(),
    }
    for name, settings in (("own", own_config(config)), ("reference", reference_config(config))):
        maps = explain(learner, examples, settings, config.evaluation.batch_size).sample
        arrays[f"{name}/{stage}"] = maps.half().cpu().numpy()
    if examples.masks is not None:
        arrays["masks"] = examples.masks.cpu().numpy()
    part = folder / f"{MAPS}.{os.getpid()}.part"
    with part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    part.replace(folder / MAPS)


def read(path: Path) -> Arrays:
    """What :func:`keep` has written; empty where there is no such file, or half of one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception:  # zipfile, zlib and NumPy raise many types for what a lost worker leaves
        return {}
