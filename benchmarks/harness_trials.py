"""The trials of benchmarks/harness.py; a worker imports this, and with it what a real trial imports."""

import math
import os
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from ray import tune

from lsx.study.worker import trial as trial  # what a worker of a real trial has imported, torch above all

EPOCHS = 8


def outcome(number: int) -> dict[str, float]:
    """A trial's final metrics, by its number."""
    chance = random.Random(number)
    return {"accuracy": chance.uniform(0.8, 0.95), "reference_relevance_mass": chance.uniform(0.1, 0.6)}


def no_op(assignment: Mapping[str, Any]) -> None:
    """A trial that returns at once; ``began`` is when it had its worker."""
    _final(assignment, {"began": time.time()})


def reporting(assignment: Mapping[str, Any]) -> None:
    """As :func:`no_op`, after two reports of four epochs each, with a checkpoint."""
    _report(assignment, 4)
    _report(assignment, 8)
    no_op(assignment)


def computing(assignment: Mapping[str, Any]) -> None:
    """A trial of LSX_BENCHMARK_SECONDS on an idle core, that reports ten times; it measures itself."""
    work, matrix = 0, numpy.random.default_rng(0).random((64, 64))
    epochs = 10
    rounds = int(os.environ["LSX_BENCHMARK_ROUNDS"]) // epochs
    start, spent, told = time.perf_counter(), time.process_time(), 0.0
    for epoch in range(1, epochs + 1):
        for _ in range(rounds):
            work += int((matrix @ matrix)[0, 0] > 0)
        before = time.perf_counter()
        _report(assignment, epoch, rows=1, total=epochs)
        told += time.perf_counter() - before
    seconds, cpu = time.perf_counter() - start, time.process_time() - spent
    _final(assignment, {"trial_seconds": seconds, "trial_cpu": cpu, "told_seconds": told})


def rounds_of(seconds: float) -> int:
    """Multiplications of :func:`computing` that take so long, on an idle core."""
    matrix = numpy.random.default_rng(0).random((64, 64))
    fastest = math.inf
    for _ in range(5):
        start = time.process_time()
        for _ in range(2000):
            _ = int((matrix @ matrix)[0, 0] > 0)
        fastest = min(fastest, (time.process_time() - start) / 2000)
    return int(seconds / fastest)


def _final(assignment: Mapping[str, Any], more: Mapping[str, float]) -> None:
    metrics = {**outcome(assignment["number"]), **more}
    tune.report({"final": metrics, "seeds": {name: [value] for name, value in metrics.items()}})


def _report(assignment: Mapping[str, Any], position: int, rows: int = 4, total: int = EPOCHS) -> None:
    names = ("loss", "accuracy", "validation_accuracy", "explanation_loss", "critic_loss", "seconds")
    epochs = range(position - rows + 1, position + 1)
    metrics = dict.fromkeys(names, 1.0 / position)
    row = {"seed_index": 0, "stage": "joint", "metrics": metrics}
    with tempfile.TemporaryDirectory() as made:
        Path(made, "checkpoint.pt").write_bytes(b"0" * 1000)
        message = {
            "stage": "joint",
            "position": position,
            "total": total,
            "metrics": metrics,
            "history": [{**row, "step": epoch, "position": epoch} for epoch in epochs],
            "guard": None,
            "picture": False,
        }
        tune.report(message, checkpoint=tune.Checkpoint.from_directory(made))
