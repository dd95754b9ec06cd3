"""The loop around the three stages: epochs, reports, checkpoints, resumption."""

import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lsx import data, explainers, models
from lsx.config import STAGES, Config, Stage, StageConfig
from lsx.critic import CriticSet, require_gradient, require_shape
from lsx.data.types import Dataset
from lsx.errors import CheckpointError, ConfigError, DivergedError
from lsx.metrics.accuracy import accuracy
from lsx.optim import optimizer, trainable
from lsx.training import checkpoint
from lsx.training.course import Course, continue_from, set_learning_rate
from lsx.training.device import (
    computing,
    isolated_randomness,
    keep_freed_memory,
    randomness,
    resolve_device,
    seed_everything,
)
from lsx.training.report import Callback, Pulse, Report, Tick
from lsx.training.stages import (
    Step,
    classification_step,
    explain_split,
    finetune_step,
    joint_step,
    uses_explanations,
)

PROBE_IMAGES = 8


class Trainer:
    """Trains a learner through its stages, deterministically from ``config.seed``.

    The caller's random state is left as it was. On a CPU, a run resumed from any
    of its checkpoints ends bit for bit where the uninterrupted run ends, given
    the same torch, processor and number of threads.

    Args:
        config: everything that decides the run.
        dataset: as :func:`lsx.data.load` gives it; loaded when left out.
        callback: gets a :class:`Report` after every epoch.
        pulse: gets a :class:`Tick` before every step; may raise to stop there, and :meth:`state` is then that moment's.

    Attributes:
        learner: the network, on ``device``.
        device: where everything is.
        history: metrics of every epoch this object ran, as ``(stage, epoch, metrics)``.

    Raises:
        ConfigError: an unknown model or explainer, a device that is not there, or an
            explanation loss whose explainer gives the learner no gradient.
        CheckpointError: ``config.start`` is no checkpoint, or of another architecture.
        DataError: see :func:`lsx.data.load`.
        DivergedError: from :meth:`run`, when a loss is no longer finite at the end of an epoch.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset | None = None,
        callback: Callback | None = None,
        pulse: Pulse | None = None,
        *,
        _resumes: bool = False,
    ) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        keep_freed_memory()
        self.dataset = (data.load(config) if dataset is None else dataset).to(self.device)
        self.callback = callback
        self.pulse = pulse
        self.history: list[tuple[Stage, int, dict[str, float]]] = []
        self._explainer = explainers.build(config.explainer)
        self._teacher: nn.Module | None = None
        self._position = 0
        self._course: Course | None = None
        self._stopped_at: dict[str, Tensor] | None = None
        self._resume_from: dict[str, Any] | None = None
        with isolated_randomness(self.device):
            self.learner = self._fresh_learner("pretrain")
            if config.start is not None and not _resumes:
                self._start_from(checkpoint.load(config.start))
            self._check()

    @classmethod
    def resume(
        cls,
        source: Mapping[str, Any] | str | Path,
        dataset: Dataset | None = None,
        callback: Callback | None = None,
        pulse: Pulse | None = None,
    ) -> "Trainer":
        """A trainer that continues from a checkpoint.

        Args:
            source: a state (:meth:`Report.checkpoint`, :meth:`state`) or the path of a saved one.
            dataset, callback, pulse: as for the constructor.

        Raises:
            CheckpointError: unreadable, or of other data or another architecture than its configuration says.
        """
        state = checkpoint.load(source) if isinstance(source, str | Path) else dict(source)
        try:
            config = Config.build(state["config"])
        except ConfigError as error:
            raise CheckpointError(f"the checkpoint's configuration is not valid here: {error}") from None
        trainer = cls(config, dataset, callback, pulse, _resumes=True)
        with isolated_randomness(trainer.device):
            trainer._adopt(state)
        return trainer

    @property
    def total(self) -> int:
        """Epochs planned over all stages."""
        return sum(self._settings(stage).epochs for stage in self.config.stages)

    def run(self) -> nn.Module:
        """Train what is left of the stages, also after an earlier call was stopped, and return the learner."""
        if self._resume_from is None and self._course is not None:  # it was stopped, and is run again
            self._resume_from = self.state()
        state, self._resume_from = self._resume_from, None
        self._stopped_at = None
        with isolated_randomness(self.device):
            try:
                for stage in self.config.stages:
                    if state and STAGES.index(stage) < STAGES.index(state["stage"]):
                        continue
                    self._run_stage(stage, state if state and state["stage"] == stage else None)
            finally:  # the state of a run that was stopped is taken when the caller's randomness is back
                self._stopped_at = randomness(self.device)
        return self.learner

    def state(self) -> dict[str, Any]:
        """Tensors and plain data from which training resumes, also in the middle of an epoch; see :meth:`resume`.

        Raises:
            CheckpointError: no step has begun.
        """
        course = self._course
        if course is None:
            raise CheckpointError("training has not begun; there is nothing to continue from")
        return {
            "format": checkpoint.FORMAT,
            "config": self.config.plain(),
            "data": dict(self.dataset.provenance),
            "stage": course.stage,
            "epoch": course.epoch,
            "step": course.step,
            "totals": {name: value.detach().clone() for name, value in course.totals.items()},
            "position": self._position,
            "learner": _copy(self.learner),
            "teacher": None if self._teacher is None else _copy(self._teacher),
            "optimizer": copy.deepcopy(course.optimizer.state_dict()),
            "random": {
                "batches": course.batches.get_state() if course.shuffle is None else course.shuffle,
                **(randomness(self.device) if self._stopped_at is None else self._stopped_at),
            },
        }

    def _run_stage(self, stage: Stage, state: dict[str, Any] | None) -> None:
        settings = self._settings(stage)
        if settings.epochs == 0:
            return
        if state is None:
            self._enter(stage)
        step = self._step(stage)
        optim = optimizer(settings.optimizer, trainable(self.learner), settings.learning_rate)
        course = Course(stage, optim, torch.Generator().manual_seed(self._seed(stage) + 1))
        if state is not None:
            continue_from(course, state, self.device)
        self._course = course
        while course.epoch < settings.epochs:
            self._run_epoch(course, settings, step)

    def _run_epoch(self, course: Course, settings: StageConfig, step: Step) -> None:
        start = time.perf_counter()
        self.learner.train()
        course.shuffle = course.batches.get_state()
        rows = torch.randperm(len(self.dataset.train), generator=course.batches).to(self.device)
        chunks = rows.split(settings.batch_size)
        for index in range(course.step, len(chunks)):
            course.step = index
            if self.pulse is not None:
                self.pulse(self._tick(course, settings, len(chunks)))
            set_learning_rate(course.optimizer, settings, course.epoch, index / len(chunks))
            course.optimizer.zero_grad()
            with computing(self.config.precision, self.device):
                losses = step(chunks[index])
            for name, value in losses.items():
                course.totals[name] = course.totals[name] + value if name in course.totals else value
            course.optimizer.step()
        self._position += 1
        metrics = self._summary(course.totals, len(chunks))
        metrics["learning_rate"] = course.optimizer.param_groups[0]["lr"]
        course.epoch, course.step, course.shuffle, course.totals = course.epoch + 1, 0, None, {}
        self.history.append((course.stage, course.epoch, metrics))
        if self.callback is not None:
            self.callback(self._report(course, settings, metrics, time.perf_counter() - start))

    def _tick(self, course: Course, settings: StageConfig, steps: int) -> Tick:
        return Tick(course.stage, course.epoch, settings.epochs, course.step, steps, self._position, self.total)

    def _summary(self, totals: Mapping[str, Tensor], steps: int) -> dict[str, float]:
        """Means over the epoch's steps (the one synchronisation of an epoch) and validation accuracy."""
        means = torch.stack(list(totals.values())).div(steps).tolist()
        metrics = dict(zip(totals, means, strict=True))
        if not all(math.isfinite(value) for value in metrics.values()):
            lost = ", ".join(f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value))
            raise DivergedError(f"training diverged: {lost}; lower the loss weights or learning rates")
        chance = math.log(self.dataset.num_classes)
        for name in ("critic_loss_mean", "critic_loss_last"):
            if name in metrics:
                metrics[f"{name}_to_chance"] = metrics[name] / chance
        metrics["validation_accuracy"] = accuracy(
            self.learner, self.dataset.validation, self.config.evaluation.batch_size
        )
        return metrics

    def _report(self, course: Course, settings: StageConfig, metrics: dict[str, float], seconds: float) -> Report:
        return Report(
            stage=course.stage,
            epoch=course.epoch,
            epochs=settings.epochs,
            position=self._position,
            total=self.total,
            metrics=metrics,
            seconds=seconds,
            learner=self.learner,
            checkpoint=self.state,
        )

    def _enter(self, stage: Stage) -> None:
        """Seed a stage; finetuning keeps the joint model as teacher and starts from a new learner."""
        seed_everything(self._seed(stage), self.device)
        if stage == "finetune":
            self._teacher = self.learner
            self.learner = self._fresh_learner(stage)

    def _step(self, stage: Stage) -> Step:
        if stage == "pretrain":
            return classification_step(self.learner, self.dataset)
        if stage == "joint":
            return joint_step(self.learner, self.dataset, self._explainer, self.config)
        weight = self.config.loss.lambda_ft
        target = torch.empty(0) if weight == 0 else self._targets()
        return finetune_step(self.learner, self.dataset, self._explainer, target, weight)

    def _targets(self) -> Tensor:
        """e*: the joint model's explanations of the training split."""
        if self._teacher is None:
            raise CheckpointError("finetuning needs the joint model, and this checkpoint has none")
        # Seeded by itself: an explainer may draw noise, and a resumed run must aim at the same explanations.
        with (
            isolated_randomness(self.device),
            models.evaluating(self._teacher) as teacher,
            computing(self.config.precision, self.device),
        ):
            seed_everything(self._seed("finetune"), self.device)
            return explain_split(teacher, self._explainer, self.dataset.train, self.config.finetune.batch_size)

    def _settings(self, stage: Stage) -> StageConfig:
        settings: StageConfig = getattr(self.config, stage)
        return settings

    def _seed(self, stage: Stage) -> int:
        """Distinct for every seed and stage; odd offsets are left for the batch order."""
        return self.config.seed * 8 + STAGES.index(stage) * 2

    def _fresh_learner(self, stage: Stage) -> nn.Module:
        seed_everything(self._seed(stage), self.device)
        return models.build(self.config.model.name, self.dataset.image_shape, self.dataset.num_classes, self.device)

    def _start_from(self, state: Mapping[str, Any]) -> None:
        """A checkpoint's learner; for finetuning, the joint model that it had, if it was in finetuning itself."""
        joint = state["teacher"] if self.config.stages == ("finetune",) else None
        load_weights(self.learner, state["learner"] if joint is None else joint)

    def _check(self) -> None:
        """Refuse now what would fail in a later stage."""
        if self.config.uses_critic:
            CriticSet.of(self.dataset.critic, self.config.critic)
        few = self.dataset.train.take(slice(0, PROBE_IMAGES))
        models.require_log_probabilities(self.learner, few.images, self.dataset.num_classes)
        if any(uses_explanations(self.config).values()):
            require_gradient(self._explainer, self.learner, few.images, few.labels)
        else:  # an explainer that cannot explain this network would be found out when all training is done
            with models.evaluating(self.learner):
                explanation = self._explainer(self.learner, few.images, few.labels)
            require_shape(self.config.explainer.method, explanation, few.images)

    def _adopt(self, state: dict[str, Any]) -> None:
        recorded, here = state["data"].get("sha256"), self.dataset.provenance.get("sha256")
        if recorded != here:
            raise CheckpointError(f"the checkpoint was trained on other data (checksum {recorded}, here {here})")
        if state["stage"] not in self.config.stages:
            raise CheckpointError(f"the checkpoint's stage {state['stage']!r} is not among {list(self.config.stages)}")
        load_weights(self.learner, state["learner"])
        if state["teacher"] is not None:
            self._teacher = self._fresh_learner("pretrain")
            load_weights(self._teacher, state["teacher"])
        self._position = state["position"]
        self._resume_from = state


def load_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Fill a network with saved weights.

    Raises:
        CheckpointError: they are of another architecture.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        own = {name: value.shape for name, value in model.state_dict().items()}
        shapes = {name: value.shape for name, value in weights.items()}
        first = next((name for name in {**own, **shapes} if own.get(name) != shapes.get(name)), "none")
        there, here = (str(list(one[first])) if first in one else "absent" for one in (shapes, own))
        raise CheckpointError(
            f"the checkpoint's weights do not fit {type(model).__name__}: {first} is {there} in the checkpoint and "
            f"{here} in the network; use the model and the dataset that it was trained with"
        ) from None


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
