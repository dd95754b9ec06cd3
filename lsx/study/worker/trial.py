"""One trial, in a Ray worker: train its seeds, one after the other or together, report, evaluate.

Nothing here knows Optuna or MLflow. Everything that leaves the worker is a report or lies in the checkpoint that goes
with it, so that a worker needs no folder in common with the driver.
"""

import errno
from collections.abc import Mapping
from typing import Any

import ray
import torch
from ray import tune
from torch import nn

from lsx import data, metrics
from lsx.config import Config
from lsx.data import Dataset
from lsx.errors import LSXError
from lsx.study.worker.luggage import Luggage, Seeded
from lsx.study.worker.manifest import manifest
from lsx.study.worker.reporter import Reporter, Stopped
from lsx.training import Trainer
from lsx.training.together import Together, obstacle

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_loaded: dict[str, Dataset] = {}


def run_trial(assignment: Mapping[str, Any]) -> None:
    """Tune's trainable.

    Reports (see :class:`lsx.study.worker.reporter.Reporter`) while it trains. Its last report is one of: ``final``, the
    means of the validation metrics over the seeds, with ``seeds``, ``reasons``, ``curves`` and ``manifest``;
    ``stopped``, when the driver asked for it; ``failed``, a reason that no repetition mends; ``out_of_memory``, of the
    GPU; ``no_room``, on the disk.

    Args:
        assignment: ``number``, ``role``, ``config`` (plain), ``repeats``, ``guard`` (the scheduler's metric), ``rungs``
            (positions at which it decides), ``checkpoint`` (see :class:`lsx.study.worker.luggage.Luggage`), ``cpus``,
            ``together`` (whether seeds train as one program: True, False, or ``auto``: on a CUDA GPU), ``pulse``
            (seconds between signs of life) and ``stop`` (key of the stop word).
    """
    torch.set_num_threads(max(1, int(assignment["cpus"])))
    try:
        _run(assignment)
    except Stopped:
        tune.report({"stopped": True})
    except torch.OutOfMemoryError as error:
        _release()
        tune.report({"out_of_memory": " ".join(str(error).split())[:300]})
    except LSXError as error:
        tune.report({"no_room" if _no_room(error.__context__) else "failed": str(error)})
    except OSError as error:
        if not _no_room(error):
            raise
        tune.report({"no_room": str(error)})


def _run(assignment: Mapping[str, Any]) -> None:
    config = Config.build(assignment["config"]).replace({"device": _device(assignment["config"]["device"])})
    dataset = _load(config)
    with Luggage.unpacked(assignment["checkpoint"]) as luggage:
        reason = _apart(config, dataset, luggage, assignment)
        if reason is None:
            _train_together(config, dataset, luggage, assignment)
        while len(luggage.done) < assignment["repeats"]:
            _train_seed(config, dataset, luggage, assignment)
        found = luggage.summary()
        seeds = [config.seed + index for index in range(assignment["repeats"])]
        record = manifest(
            config,
            dataset.provenance,
            seeds=seeds,
            threads=torch.get_num_threads(),
            device=config.device,
            apart=reason,
        )
        tune.report({**found, "manifest": record}, checkpoint=luggage.packed())


def _apart(config: Config, dataset: Dataset, luggage: Luggage, assignment: Mapping[str, Any]) -> str | None:
    """Why the seeds train one after the other; None: they train together."""
    wanted = assignment.get("together", False)
    if luggage.states:
        return None
    if luggage.done or luggage.state is not None:
        return "the trial began so"
    if assignment["repeats"] == 1:
        return "there is one seed"
    if wanted is False:
        return "resources.seeds_together is false"
    if wanted == "auto" and not config.device.startswith("cuda"):
        return f"resources.seeds_together is auto, and the device {config.device}"
    return obstacle(config, dataset)


def _train_together(config: Config, dataset: Dataset, luggage: Luggage, assignment: Mapping[str, Any]) -> None:
    reporter = Reporter(config, dataset, assignment, luggage, together=True)
    states = [_here(state, config) for state in luggage.states]
    if states:
        trained = Together.resume(states, dataset, reporter.epoch, reporter.pulse)
    else:
        seeds = [config.seed + index for index in range(assignment["repeats"])]
        trained = Together(config, seeds, dataset, reporter.epoch, reporter.pulse)
    reporter.states = trained.states
    learners = trained.run()
    for index, state in enumerate(trained.states()):
        if index >= len(luggage.done):
            own = config.replace({"seed": config.seed + index})
            reporter.evaluating()
            luggage.finish(_evaluated(learners[index], dataset, own, reporter.curves[index]), state)
            reporter.evaluated()


def _train_seed(config: Config, dataset: Dataset, luggage: Luggage, assignment: Mapping[str, Any]) -> None:
    index = len(luggage.done)
    config = config.replace({"seed": config.seed + index})
    reporter = Reporter(config, dataset, assignment, luggage)
    trainer = _trainer(config, dataset, reporter, luggage)
    reporter.states = lambda: [trainer.state()]
    learner = trainer.run()
    reporter.evaluating()
    luggage.finish(_evaluated(learner, dataset, config, reporter.curves[0]), trainer.state())


def _evaluated(learner: nn.Module, dataset: Dataset, config: Config, curves: list[dict[str, Any]]) -> Seeded:
    found = metrics.evaluate_with_reasons(learner, dataset, "validation", config)
    values = {name: float(value) for name, value in found.values.items()}
    return Seeded(config.seed, values, dict(found.reasons), curves)


def _trainer(config: Config, dataset: Dataset, reporter: Reporter, luggage: Luggage) -> Trainer:
    """A trainer from the newest checkpoint; a damaged one costs time only, since training is deterministic."""
    state = luggage.state
    if state is None:
        return Trainer(config, dataset, reporter, reporter.pulse)
    return Trainer.resume(_here(state, config), dataset, reporter, reporter.pulse)


def _here(state: dict[str, Any], config: Config) -> dict[str, Any]:
    """A state on this device, which may be another one than before; all other settings are sealed."""
    return {**state, "config": {**state["config"], "device": config.device}}


def _no_room(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _release() -> None:
    """Give back what a trial that ran out of memory holds: its worker is used again."""
    _loaded.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu"


def _load(config: Config) -> Dataset:
    """The dataset, kept by the worker from trial to trial; training does not write to it."""
    critic = config.critic
    parts = (
        config.data,
        config.confounder,
        config.uses_critic,
        critic.batches,
        critic.batch_size,
        critic.images,
        critic.set,
        config.device,
    )
    key = repr(parts)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = data.load(config).to(config.device)
    return _loaded[key]
