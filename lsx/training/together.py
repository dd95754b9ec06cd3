"""Several seeds of one configuration, trained as one program."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from lsx import data, explainers, models
from lsx.config import STAGES, Config, Stage, StageConfig
from lsx.data.types import Dataset
from lsx.errors import CheckpointError, ConfigError, DivergedError
from lsx.metrics.accuracy import at_a_time
from lsx.optim import optimizer
from lsx.training import shares, stacked
from lsx.training.course import Course, set_learning_rate
from lsx.training.device import computing, isolated_randomness, resolve_device
from lsx.training.lane import Lane
from lsx.training.report import Pulse, Report
from lsx.training.shares import Share
from lsx.training.stacked import Stack
from lsx.training.stackedsteps import classification_step, finetune_step, joint_step
from lsx.training.stages import Step, uses_explanations

Drawn = TypeVar("Drawn")
Reports = Callable[[Sequence[Report]], None]
"""What seeds that train together report to: their reports of one epoch, in order. It may raise to stop training."""

INPUT_GRADIENTS = (
    explainers.InputXGradientExplainer,
    explainers.SaliencyExplainer,
    explainers.IntegratedGradientExplainer,
    explainers.InputXIntegratedGradientExplainer,
)
"""Explainers whose attribution of an image depends on nothing but that image and the gradients at it."""


def obstacle(config: Config, dataset: Dataset) -> str | None:
    """Why seeds of a configuration cannot be trained together, one line; None: they can.

    Raises:
        ConfigError: an unknown model or explainer.
    """
    explainer = explainers.build(config.explainer)
    if any(uses_explanations(config).values()) and type(explainer) not in INPUT_GRADIENTS:
        return f"explainer {config.explainer.method!r} is more than an input gradient"
    names = [config.model.name, *([config.critic.model or config.model.name] if config.uses_critic else [])]
    with isolated_randomness(torch.device("cpu")):
        networks = [models.build(name, dataset.image_shape, dataset.num_classes) for name in dict.fromkeys(names)]
    return next((reason for network in networks if (reason := stacked.obstacle(network))), None)


class Together:
    """Trains the seeds of a configuration at once; each as its own :class:`lsx.training.Trainer` does, to rounding.

    Every seed has the batch orders, critics and orders of critic batches that its own trainer would draw, and a state
    that its own trainer would continue from. The networks are one :class:`~lsx.training.stacked.Stack`, so that a step
    of all seeds has about as many launches as one of a single seed; the host waits for the device once an epoch.

    Args:
        config: of all seeds; its own seed does not count.
        seeds: one or more.
        dataset: as for a trainer.
        callback: gets the reports of all seeds after every epoch; their ``seconds`` are those of the common epoch.
        pulse: as for a trainer.

    Attributes:
        learners: the networks, one for each seed.

    Raises:
        ConfigError: there is an :func:`obstacle`; or as for a trainer.
        CheckpointError, DataError: as for a trainer.
        DivergedError: from :meth:`run`, when a loss of any seed is no longer finite at the end of an epoch.
    """

    def __init__(
        self,
        config: Config,
        seeds: Sequence[int],
        dataset: Dataset | None = None,
        callback: Reports | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        dataset = _there(config, dataset)
        self._begin([Lane(config.replace({"seed": seed}), dataset) for seed in seeds], callback, pulse)

    @classmethod
    def resume(
        cls,
        sources: Sequence[Mapping[str, Any] | str | Path],
        dataset: Dataset | None = None,
        callback: Reports | None = None,
        pulse: Pulse | None = None,
    ) -> "Together":
        """Continue from one checkpoint for each seed, by this class or by trainers, all of the same step.

        Raises:
            CheckpointError: as for a trainer; or they are of different configurations or steps.
        """
        lanes: list[Lane] = []
        for source in sources:
            lane = cast(Lane, Lane.resume(source, dataset))
            dataset = lane.dataset
            lanes.append(lane)
        if any(lane.place != lanes[0].place for lane in lanes):
            raise CheckpointError("the checkpoints of seeds that train together must be of one configuration and step")
        made = cls.__new__(cls)
        made._begin(lanes, callback, pulse)
        return made

    def _begin(self, lanes: list["Lane"], callback: Reports | None, pulse: Pulse | None) -> None:
        self._lanes, self._callback, self._pulse = lanes, callback, pulse
        first = lanes[0]
        self._config, self._dataset, self._device = first.config, first.dataset, first.device
        reason = obstacle(self._config, self._dataset)
        if reason:
            raise ConfigError(f"seeds cannot be trained together: {reason}")
        self._explainer = explainers.build(self._config.explainer)
        self._totals: dict[str, Tensor] = {}  # losses (S,) of the running epoch so far

    @property
    def learners(self) -> list[nn.Module]:
        """See the class."""
        return [lane.learner for lane in self._lanes]

    def run(self) -> list[nn.Module]:
        """Train what is left of the stages, also after an earlier call was stopped, and return the learners."""
        if any(lane.course for lane in self._lanes):  # it was stopped, and is run again
            for lane, state in zip(self._lanes, self.states(), strict=True):
                lane.resumes = state
        states = [lane.resumes for lane in self._lanes]
        begun = states[0]["stage"] if states[0] else None
        for lane in self._lanes:
            lane.resumes = None
        with isolated_randomness(self._device):
            for stage in self._config.stages:
                if begun is None or STAGES.index(stage) >= STAGES.index(begun):
                    self._run_stage(stage, [state for state in states if state] if stage == begun else [])
        return self.learners

    def states(self) -> list[dict[str, Any]]:
        """A state for each seed, also in the middle of an epoch, as :meth:`lsx.training.Trainer.state` gives it.

        Raises:
            CheckpointError: no step has begun.
        """
        for index, lane in enumerate(self._lanes):
            if lane.course is not None:
                lane.course.totals = {name: values[index] for name, values in self._totals.items()}
        return [lane.state() for lane in self._lanes]

    def _run_stage(self, stage: Stage, states: Sequence[Mapping[str, Any]]) -> None:
        settings: StageConfig = getattr(self._config, stage)
        if settings.epochs == 0:
            return
        if not states:
            for lane in self._lanes:
                lane.enter(stage)
        stack = Stack(self.learners)
        stack.lend(self.learners)
        step = self._step(stage, stack)
        optim = optimizer(settings.optimizer, stack.weights, settings.learning_rate)
        parts = [Share(optim, stack, index) for index in range(stack.count)]
        courses = [lane.start(stage, part) for lane, part in zip(self._lanes, parts, strict=True)]
        if states:
            for lane, state in zip(self._lanes, states, strict=True):
                lane.proceed(state)
            shares.load(optim, stack, parts)
            names = courses[0].totals
            self._totals = {name: torch.stack([course.totals[name] for course in courses]) for name in names}
        while courses[0].epoch < settings.epochs:
            self._run_epoch(courses, settings, step, stack, optim)

    def _step(self, stage: Stage, stack: Stack) -> Step:
        if stage == "pretrain":
            return classification_step(stack, self._dataset)
        if stage == "joint":
            return joint_step(stack, self._dataset, self._explainer, self._config, self._each)
        weight = self._config.loss.lambda_ft
        targets = torch.empty(0) if weight == 0 else torch.stack([lane.targets() for lane in self._lanes])
        return finetune_step(stack, self._dataset, self._explainer, targets, weight)

    def _each(self, draw: Callable[[], Drawn]) -> list[Drawn]:
        """See :class:`lsx.training.stackedsteps.Each`."""
        found = []
        for lane in self._lanes:
            with lane.drawing():
                found.append(draw())
        return found

    def _run_epoch(
        self,
        courses: Sequence[Course],
        settings: StageConfig,
        step: Step,
        stack: Stack,
        optim: torch.optim.Optimizer,
    ) -> None:
        start = time.perf_counter()
        orders = []
        for course in courses:
            course.shuffle = course.batches.get_state()
            orders.append(torch.randperm(len(self._dataset.train), generator=course.batches))
        chunks = torch.stack(orders).to(self._device).split(settings.batch_size, dim=1)
        for index in range(courses[0].step, len(chunks)):
            for course in courses:
                course.step = index
            if self._pulse is not None:
                self._pulse(self._lanes[0].tick(settings, len(chunks)))
            set_learning_rate(optim, settings, courses[0].epoch, index / len(chunks))
            optim.zero_grad()
            with computing(self._config.precision, self._device):
                losses = step(chunks[index])
            self._totals = {name: value + self._totals.get(name, 0) for name, value in losses.items()}
            optim.step()
        metrics = self._summaries(stack, len(chunks))
        self._totals = {}
        seconds = time.perf_counter() - start
        rate = optim.param_groups[0]["lr"]
        reports = [
            lane.close_epoch(settings, {**own, "learning_rate": rate}, seconds)
            for lane, own in zip(self._lanes, metrics, strict=True)
        ]
        if self._callback is not None:
            self._callback(reports)

    def _summaries(self, stack: Stack, steps: int) -> list[dict[str, float]]:
        """Each seed's means over the epoch's steps and validation accuracy: the one synchronisation of an epoch."""
        sums = torch.stack([*self._totals.values(), self._hits(stack).float()], dim=1)
        chance, found = math.log(self._dataset.num_classes), []
        for lane, (*losses, hits) in zip(self._lanes, sums.tolist(), strict=True):
            metrics = {name: value / steps for name, value in zip(self._totals, losses, strict=True)}
            if lost := [f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value)]:
                raise DivergedError(
                    f"training diverged with seed {lane.config.seed}: {', '.join(lost)}; "
                    "lower the loss weights or learning rates"
                )
            for name in ("critic_loss_mean", "critic_loss_last"):
                if name in metrics:
                    metrics[f"{name}_to_chance"] = metrics[name] / chance
            found.append({**metrics, "validation_accuracy": hits / len(self._dataset.validation)})
        return found

    @torch.no_grad()
    def _hits(self, stack: Stack) -> Tensor:
        """Validation images that each learner gets right, (S,)."""
        split = self._dataset.validation
        size = at_a_time(split.images, self._config.evaluation.batch_size)
        hits = [
            (stack(images.repeat_interleave(stack.count, dim=0)).argmax(dim=1).view(-1, stack.count) == labels).sum(0)
            for images, labels in zip(split.images.split(size), split.labels.unsqueeze(1).split(size), strict=True)
        ]
        return torch.stack(hits).sum(dim=0)


def _there(config: Config, dataset: Dataset | None) -> Dataset:
    """On the device, so that the seeds share it."""
    return (data.load(config) if dataset is None else dataset).to(resolve_device(config.device))
