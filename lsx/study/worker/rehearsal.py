"""What a trial costs, measured before a study starts: a few real steps of every stage, one evaluation, its memory.

Not measured: the worker's start, checkpoints and pictures, and how trials that run side by side slow each other down.
"""

import gc
import math
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any, Self

import psutil
import torch
from torch import nn

from lsx.config import Config, Stage
from lsx.data.types import Dataset
from lsx.errors import CheckpointError, DivergedError
from lsx.metrics import evaluate_with_reasons
from lsx.metrics.accuracy import accuracy
from lsx.training import Report, Tick, Trainer
from lsx.training.device import resolve_device
from lsx.training.together import Together, obstacle

PATIENCE = 20.0
"""Seconds after which a stage or an evaluation is not measured any longer, but scaled from what there is."""

FEW_IMAGES = 32
"""Evaluation images of the first look at what an evaluation costs."""

TARGET_IMAGES = 1024
"""Training images whose finetuning targets are made, at most; the time of the others is scaled."""

CONTEXT_BYTES = 3 * 2**29
"""Most that is taken for CUDA's context: what other processes have on the card cannot be told from it."""


@dataclass(frozen=True)
class StageCost:
    """One stage.

    Attributes:
        stage: its name.
        step: seconds of a step, the median without the first one; NaN when none could be made.
        steps, epochs: steps of an epoch, epochs of the stage.
        validation: seconds of the accuracy pass after an epoch.
        start: of finetuning, seconds for its targets.
    """

    stage: Stage
    step: float
    steps: int
    epochs: int
    validation: float
    start: float = 0.0

    @property
    def seconds(self) -> float:
        """The whole stage."""
        return self.start + self.epochs * (self.steps * self.step + self.validation)


@dataclass(frozen=True)
class Rehearsal:
    """What one trial costs.

    Attributes:
        stages: in order, those with epochs.
        evaluation: seconds of the final evaluation; NaN when it could not be made.
        once: seconds that a process's first evaluation takes longer, for networks that all others share.
        peak_bytes: on a GPU all that the process has there, CUDA's context included; else the growth of the resident
            set, which is less where the process had memory to reuse.
        resident_bytes: largest resident set of the process, data and libraries included.
        checkpoint_bytes: size of a saved state.
        device: what it was measured on, such as ``cpu`` or the card's name.
        threads: of torch on the CPU.
        notes: what was scaled.
        fault: where training diverged or ran out of memory.
    """

    stages: tuple[StageCost, ...]
    evaluation: float
    once: float
    peak_bytes: int
    resident_bytes: int
    checkpoint_bytes: int
    device: str
    threads: int
    notes: tuple[str, ...] = ()
    fault: str | None = None

    @property
    def seconds(self) -> float:
        """One seed, from its first step to the end of its evaluation, in a worker that has evaluated before."""
        return sum(one.seconds for one in self.stages) + self.evaluation


def rehearse(config: Config, dataset: Dataset, *, steps: int = 3, together: int = 1) -> Rehearsal:
    """Run a little of a trial, and scale it to the whole.

    The caller's random state and the dataset stay as they are.

    Args:
        config: of the trial; its device is used.
        dataset: loaded for it.
        steps: measured of each stage, at least 1; one more is made before.
        together: seeds that train as one program, where they can; :attr:`StageCost.step` is then a step of all.

    Raises:
        ConfigError, CheckpointError, DataError: see :class:`lsx.training.Trainer`.
    """
    device = resolve_device(config.device)
    with _Memory(device) as memory:
        count = together if together > 1 and obstacle(config, dataset) is None else 1
        found = _Measurement(config, dataset.to(device), max(1, steps), count)
        found.run()
    return Rehearsal(
        stages=tuple(found.stages),
        evaluation=found.evaluation,
        once=found.once,
        peak_bytes=memory.peak + found.unseen_bytes,
        resident_bytes=memory.resident + (found.unseen_bytes if device.type == "cpu" else 0),
        checkpoint_bytes=found.checkpoint_bytes,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        notes=tuple(dict.fromkeys(found.notes)),
        fault="; ".join(found.faults) or None,
    )


class _Measurement:
    """Collects what the parts of a trial take."""

    def __init__(self, config: Config, dataset: Dataset, steps: int, count: int = 1) -> None:
        self.config, self.dataset, self._steps, self._count = config, dataset, steps, count
        self._device = dataset.train.images.device
        self.stages: list[StageCost] = []
        self.evaluation, self.once = math.nan, 0.0
        self.checkpoint_bytes = self.unseen_bytes = 0
        self.notes: list[str] = []
        self.faults: list[str] = []

    def run(self) -> None:
        """All stages, then the evaluation of the last one's learner."""
        learner: nn.Module | None = None
        for stage in self.config.stages:
            if getattr(self.config, stage).epochs:
                learner = self._stage(stage)
        if learner is None:  # a trial without epochs evaluates its start
            learner = Trainer(self.config, self.dataset).learner
        self._attempt("evaluation", partial(self._evaluate, learner))

    def _stage(self, stage: Stage) -> nn.Module:
        settings, whole = getattr(self.config, stage), len(self.dataset.train)
        part = self._part(stage)
        watch = _Stopwatch(self._steps + 1, self._device)
        trainer = self._trainer(_alone(self.config, stage, self._steps + 2), part, watch)
        self._attempt(stage, partial(watch.time, trainer))
        with suppress(CheckpointError):  # no step was begun: out of memory in finetuning's targets
            self._look_at(stage, trainer.states() if isinstance(trainer, Together) else [trainer.state()])
        if stage == "finetune" and len(part.train) < whole and self.config.loss.lambda_ft > 0:
            self.notes.append(f"finetune: targets timed on {len(part.train)} of {whole} images, and scaled")
            self.unseen_bytes += self.dataset.train.images[len(part.train) :].nbytes
        start = watch.start * whole / len(part.train) if stage == "finetune" else 0.0
        steps = math.ceil(whole / settings.batch_size)
        learner = trainer.learners[0] if isinstance(trainer, Together) else trainer.learner
        validation = self._validation(learner)
        self.stages.append(StageCost(stage, watch.step, steps, settings.epochs, validation, start))
        return learner

    def _trainer(self, config: Config, part: Dataset, watch: "_Stopwatch") -> Trainer | Together:
        if self._count == 1:
            return Trainer(config, part, watch.ends_epoch, watch.begins_step)
        seeds = [config.seed + index for index in range(self._count)]
        return Together(config, seeds, part, watch.ends_epoch, watch.begins_step)

    def _part(self, stage: Stage) -> Dataset:
        """Data of one stage; one validation image, so that an epoch's last step is timed without the pass over all."""
        most = max(TARGET_IMAGES, self.config.finetune.batch_size) if stage == "finetune" else len(self.dataset.train)
        train, validation = self.dataset.train, self.dataset.validation.take(slice(0, 1))
        return replace(self.dataset, train=train.take(slice(0, most)), validation=validation)

    def _look_at(self, stage: Stage, states: Sequence[dict[str, Any]]) -> None:
        """The states in the middle of training: their size, and whether their losses are still finite."""
        file = BytesIO()
        torch.save(states, file)
        self.checkpoint_bytes = max(self.checkpoint_bytes, file.tell())
        totals = [item for state in states for item in state["totals"].items()]
        if lost := dict.fromkeys(name for name, value in totals if not bool(torch.isfinite(value))):
            self.faults.append(f"{stage}: training diverged: {', '.join(lost)}")

    def _validation(self, learner: nn.Module) -> float:
        split, batch_size = self.dataset.validation, self.config.evaluation.batch_size
        accuracy(learner, split.take(slice(0, batch_size)), batch_size)  # warms up
        return _timed(self._device, lambda: accuracy(learner, split, batch_size))

    def _evaluate(self, learner: nn.Module) -> None:
        """The evaluation at full size, or one at the size that patience allows, extended as a straight line."""
        settings = self.config.evaluation
        whole = min(settings.max_images, len(self.dataset.validation))

        def seconds(images: int) -> float:
            few = max(1, round(settings.faithfulness_images * images / whole))
            config = self.config.replace({"evaluation": {"max_images": images, "faithfulness_images": few}})
            return _timed(self._device, lambda: evaluate_with_reasons(learner, self.dataset, "validation", config))

        small = min(FEW_IMAGES, whole)
        first, again = seconds(small), seconds(small)
        self.once, self.evaluation = max(0.0, first - again), again
        measured = min(whole, max(small, int(small * PATIENCE / max(again, 1e-9))))
        if measured > small:
            larger = seconds(measured)
            self.evaluation = larger + max(0.0, larger - again) / (measured - small) * (whole - measured)
        elif small < whole:
            self.evaluation = again * whole / small
        if measured < whole:
            self.notes.append(f"evaluation: timed on {measured} of {whole} images, and scaled")

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        """Do something; that it diverges or runs out of memory is noted."""
        try:
            action()
        except DivergedError as error:
            self.faults.append(f"{name}: {error}")
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            self.faults.append(f"{name}: out of memory")


def _alone(config: Config, stage: Stage, epochs: int) -> Config:
    """A configuration of that stage only; finetuning keeps a joint stage without epochs, whose learner it explains."""
    if stage == "finetune":
        return config.replace({"stages": ["joint", stage], "joint.epochs": 0, "finetune.epochs": epochs})
    return config.replace({"stages": [stage], f"{stage}.epochs": epochs})


class _Enough(Exception):
    """Ends a stage that is measured."""


class _Stopwatch:
    """Times the steps between a trainer's ticks.

    Attributes:
        start: seconds before the first step.
    """

    def __init__(self, most: int, device: torch.device) -> None:
        self.start = 0.0
        self._most, self._device = most, device
        self._began = 0.0
        self._last: float | None = None
        self._steps: list[float] = []

    @property
    def step(self) -> float:
        """Median seconds of a step; the first counts only when it is alone."""
        return statistics.median(self._steps[1:] or self._steps or [math.nan])

    def time(self, trainer: Trainer | Together) -> None:
        """Let it train until there are enough steps."""
        self._began = self._now()
        with suppress(_Enough):
            trainer.run()

    def begins_step(self, _: Tick) -> None:
        """The trainer's pulse."""
        if self._last is not None:
            self._close(self._last)
        elif not self._steps:
            self.start = self._now() - self._began
        self._last = self._now()

    def ends_epoch(self, _: Report | Sequence[Report]) -> None:
        """The trainer's callback."""
        if self._last is not None:
            self._close(self._last)
        self._last = None

    def _close(self, began: float) -> None:
        self._steps.append(self._now() - began)
        if len(self._steps) >= self._most or sum(self._steps) > PATIENCE:
            raise _Enough

    def _now(self) -> float:
        _synchronize(self._device)
        return time.perf_counter()


class _Memory:
    """The most memory that is taken within."""

    def __init__(self, device: torch.device) -> None:
        self.peak = self.resident = 0
        self._device, self._process, self._over = device, psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lsx-memory", daemon=True)

    def __enter__(self) -> Self:
        gc.collect()
        self._lifetime = _lifetime_peak()
        self.resident = self._before = self._process.memory_info().rss
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if (lifetime := _lifetime_peak()) > self._lifetime:  # exact, but silent below an earlier peak
            self.resident = max(self.resident, lifetime)
        self.peak = self.resident - self._before
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            context = min(total - free - torch.cuda.memory_reserved(self._device), CONTEXT_BYTES)
            self.peak = torch.cuda.max_memory_reserved(self._device) + max(0, context)
            torch.cuda.empty_cache()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.resident = max(self.resident, self._process.memory_info().rss)


def _lifetime_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _timed(device: torch.device, action: Callable[[], object]) -> float:
    _synchronize(device)
    start = time.perf_counter()
    action()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
