"""Finished learners in MLflow's own format, for ``mlflow.pytorch.load_model`` and ``mlflow models serve``.

The format is PyTorch's exported graph (``pt2``): tensors and a program of tensor operations, no pickled objects, so
that whoever loads it runs no code that came with it. It needs PyTorch and not lsx.
"""

import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lsx.models import evaluating

FOLDER = "model"
NOISY = ("mlflow", "torch.export", "torch._export", "torch._dynamo", "torch.fx")


def folder_of(index: int) -> str:
    """Of the learner of a trial's seed, the first being 0, among the run's artifacts: ``model``, ``model-1``, …"""
    return FOLDER if index == 0 else f"{FOLDER}-{index}"


def write(learner: nn.Module, shape: tuple[int, int, int], path: Path, facts: Mapping[str, Any]) -> dict[str, Path]:
    """Write a learner as an MLflow model.

    Args:
        learner: of images (B, C, H, W) normalised as those it was trained on, giving log-probabilities (B, K).
        shape: (C, H, W).
        path: a folder, replaced.
        facts: plain data that MLflow shows with the model.

    Returns:
        The files, by their path below ``path``.

    Raises:
        Exception: PyTorch cannot export the network; it raises dozens of types for what it does not trace.
    """
    import mlflow.pytorch

    part = path.with_name(f"{path.name}.part")
    for old in (part, path):
        shutil.rmtree(old, ignore_errors=True)
    example = torch.zeros(2, *shape).numpy()  # two, for a batch of one would be taken for the only size
    with evaluating(learner.cpu()), _silent():
        mlflow.pytorch.save_model(
            learner,
            str(part),
            input_example=example,
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"mlflow=={mlflow.__version__}"],
            metadata=dict(facts),
        )
    part.replace(path)
    return {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's advice, in the middle of a study's display."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
