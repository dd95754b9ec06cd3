"""What a study's trials range over in cost, and how many of them share a machine or a GPU.

The packing was tested without a GPU: that shares by the measured peak keep trials from running out of memory was not
seen.
"""

import functools
import itertools
import math
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lsx import data, explainers, models
from lsx.config import Config
from lsx.critic import GPU_IMAGES_PER_PASS
from lsx.data.types import Dataset
from lsx.errors import ConfigError, StudyError
from lsx.study.declared.checks import CORNERS, DECIDING
from lsx.study.declared.space import Parameter
from lsx.study.declared.spec import StudySpec
from lsx.study.worker.rehearsal import rehearse

USABLE = 0.9
"""Share of a card that trials may fill: its allocator, and other programs, take some."""

FALLING = ("pretrain.batch_size", "joint.batch_size", "finetune.batch_size")
"""Settings of which more is less work, though more memory."""

COSTLY = (*DECIDING, *FALLING, "pretrain.epochs", "explainer.steps", "explainer.samples", "critic.chunk")
"""Searched settings that decide what a trial costs."""

CONNECT_SECONDS = 5.0
MEASURE_SECONDS = 900.0


def extremes(spec: StudySpec, dataset: Dataset | None = None) -> tuple[Config, Config]:
    """The cheapest and the slowest configuration among the reference trials and the corners of the search.

    A corner is any combination of choices with every number at one end. What is cheap is counted, not measured:
    epochs × steps × multiplications of a step.

    Args:
        spec: the study; its networks can be built.
        dataset: as its settings load it; of MNIST's size by default.
    """
    sizes = _sizes(dataset)
    cheap = min(reach(spec, high=False, falling=FALLING), key=lambda config: work(config, *sizes))
    slow = max(reach(spec, high=True, falling=FALLING), key=lambda config: work(config, *sizes))
    return cheap, slow


def largest(spec: StudySpec) -> Config:
    """The configuration among reference trials and corners that needs most memory, counted in graphs at a time."""
    return max(reach(spec, high=True), key=footprint)


def reach(spec: StudySpec, *, high: bool, falling: Collection[str] = ()) -> Iterator[Config]:
    """The reference trials' configurations, then the corners of the search on one side.

    Args:
        spec: the study.
        high: which end numbers are at; those that others depend on are at each.
        falling: settings at the other end.
    """
    for own in spec.reference_trials.values():
        yield spec.configure(own)
    space, wanted = spec.search_space, set(COSTLY)
    for parameter in reversed(space.parameters):  # conditions stand before what depends on them
        if parameter.key in wanted:
            wanted |= set(parameter.dimension.when)
    options = {one.name: _options(spec, one, high != (one.key in falling), one.key in wanted) for one in space}
    for chosen in itertools.islice(itertools.product(*options.values()), CORNERS):
        named, values = dict(zip(options, chosen, strict=True)), dict[str, Any]()
        for parameter in space:
            if parameter.exists(values):
                values[parameter.key] = named[parameter.name]
        with suppress(ConfigError):  # a combination that Config refuses is a trial that fails by itself
            yield spec.configure(values)


def _options(spec: StudySpec, parameter: Parameter, high: bool, wanted: bool) -> tuple[Any, ...]:
    dimension = parameter.dimension
    if dimension.choices is not None:
        return dimension.choices if wanted else dimension.choices[:1]
    end = dimension.high if high else dimension.low
    conditions = [one.dimension.when.get(parameter.key, ()) for one in spec.search_space] if wanted else []
    return tuple(dict.fromkeys([end, *(value for values in conditions for value in values)]))


def work(config: Config, shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, images: int = 5000) -> float:
    """Multiplications of a trial, by a simple count: a gradient is twice its function.

    Args:
        config: of the trial.
        shape: (C, H, W) of its images.
        classes: K.
        images: training images, of which ``data.few_shot_fraction`` is taken.
    """
    learner = _flops(config.model.name, shape, classes)
    critic = _flops(config.critic.model or config.model.name, shape, classes)
    explanation = 3 * learner * explainers.build(config.explainer).evaluations
    held_out = config.critic.size if config.critic.set == "separate" else 0
    train = max(1.0, images * config.data.few_shot_fraction - held_out)
    total = float(config.evaluation.max_images * explanation)
    for stage in config.stages:
        settings = getattr(config, stage)
        epoch = 3 * learner * train
        if stage == "joint" and config.loss.lambda_e > 0:
            steps = math.ceil(train / settings.batch_size)
            epoch += steps * config.critic.size * (3 * explanation + 3 * critic)
        if stage == "finetune" and config.loss.lambda_ft > 0:
            epoch += 3 * train * explanation
        total += settings.epochs * epoch
    return total


def footprint(config: Config) -> float:
    """Multiplications of the largest graph that a trial holds at a time, as a measure of its memory."""
    evaluations, critic = explainers.build(config.explainer).evaluations, config.critic
    at_once = critic.chunk or max(1, GPU_IMAGES_PER_PASS // (critic.batch_size * evaluations))
    graphs = [config.evaluation.batch_size * evaluations]
    for stage in config.stages:
        settings = getattr(config, stage)
        graphs.append(settings.batch_size)
        if stage == "joint" and config.uses_critic:
            graphs.append(2 * min(at_once, critic.batches) * critic.batch_size * evaluations)
        if stage == "finetune" and settings.epochs and config.loss.lambda_ft > 0:
            graphs.append(2 * settings.batch_size * evaluations)
    return float(max(graphs) * _flops(config.model.name, (1, 28, 28), 10))


def _sizes(dataset: Dataset | None) -> tuple[Any, ...]:
    return () if dataset is None else (dataset.image_shape, dataset.num_classes, len(dataset.train))


@functools.lru_cache(maxsize=64)
def _flops(model: str, shape: tuple[int, int, int], classes: int) -> int:
    """Multiplications and additions of one image's forward pass; 1 for a network that does not take such images."""
    counter = FlopCounterMode(display=False)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), suppress(ConfigError, RuntimeError, ValueError), counter:
        models.build(model, shape, classes).eval()(torch.zeros(1, *shape))
    return max(1, int(counter.get_total_flops()))


def share(peak_bytes: int, total_bytes: int, *, reserve: float = 0.1, most: int = 16) -> float:
    """The share of a GPU that one trial gets, such that the shares of as many as fit add up to at most 1.

    Args:
        peak_bytes: most that one trial takes there, above 0.
        total_bytes: of the card; of the smallest, where they differ.
        reserve: kept for each trial beyond its peak, as a share of it.
        most: trials on one card.

    Returns:
        1 / trials, rounded down to Ray's four digits; 1 where no second trial fits.
    """
    trials = min(most, int(USABLE * total_bytes / (peak_bytes * (1 + reserve))))
    return math.floor(1e4 / trials) / 1e4 if trials > 1 else 1.0


@dataclass(frozen=True)
class Measured:
    """What the largest trial takes of a card.

    Attributes:
        peak_bytes: of the process on the card.
        total_bytes: of the card.
        device: the card's name.
        fault: why the peak is not the whole truth: it ran out of memory alone, or diverged.
    """

    peak_bytes: int
    total_bytes: int
    device: str = ""
    fault: str | None = None

    @property
    def share(self) -> float:
        """See :func:`share`; a whole GPU when something was wrong."""
        return 1.0 if self.fault else share(self.peak_bytes, self.total_bytes)


Measure = Callable[[Mapping[str, Any], int], Measured]


def measure_in_ray(
    spec: StudySpec, measure: Measure | None = None, *, shipped: Any = None, seconds: float = MEASURE_SECONDS
) -> Measured:
    """Rehearse the largest trial on one GPU of every node; Ray runs already.

    Nodes have cards of different sizes, so the one on which the fewest trials fit decides. A node that has no free
    GPU within the time is left out, and of a node with different cards only one is seen.

    Args:
        spec: the study.
        measure: a plain configuration and threads to what was measured, in a worker; the real rehearsal by default.
        shipped: the study's data, see :func:`lsx.study.worker.shipping.ship`.
        seconds: to wait for the nodes.

    Raises:
        StudyError: no node has a GPU, none answers in time, or the trial cannot be run.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from lsx.study.running import cluster

    nodes = [node["NodeID"] for node in cluster.nodes() if node["Resources"].get("GPU", 0) >= 1]
    if not nodes:
        raise StudyError("gpus_per_trial auto cannot be measured: no node of the cluster has a whole GPU")
    task = ray.remote(num_gpus=1, num_cpus=spec.resources.cpus_per_trial, max_retries=0)(_with_data)
    threads = max(1, int(spec.resources.cpus_per_trial))
    count = 1 if spec.resources.seeds_together is False else spec.repeats
    arguments = (measure or functools.partial(measure_here, together=count), shipped, largest(spec).plain(), threads)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*arguments)
        for node in nodes
    ]
    done, left = ray.wait(asked, num_returns=len(asked), timeout=seconds)
    for one in left:
        ray.cancel(one, force=True)
    if not done:
        raise StudyError(f"gpus_per_trial auto cannot be measured: no GPU of the cluster was free for {seconds:.0f} s")
    try:
        found: list[Measured] = ray.get(done)
    except Exception as error:  # the trial's own error, a worker that was killed, a node that was lost
        reason = " ".join(str(getattr(error, "cause", error)).split())[:300]
        raise StudyError(f"gpus_per_trial auto cannot be measured: {reason}") from error
    return max(found, key=lambda one: (one.share, -one.total_bytes))


def _with_data(measure: Measure, shipped: Any, plain: Mapping[str, Any], threads: int) -> Measured:
    from lsx.study.worker import shipping

    shipping.receive(shipped)
    return measure(plain, threads)


def measure_here(plain: Mapping[str, Any], threads: int, together: int = 1) -> Measured:
    """Rehearse a trial, with the seeds that it trains together, on this process's first GPU.

    Raises:
        StudyError: torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise StudyError(f"torch sees no GPU on node {socket.gethostname()}")
    torch.set_num_threads(threads)
    config = Config.build(plain).replace({"device": "cuda"})
    found = rehearse(config, data.load(config), together=together)
    total = torch.cuda.get_device_properties(0).total_memory
    return Measured(found.peak_bytes, total, found.device, found.fault)


@dataclass(frozen=True)
class Machines:
    """What trials can run on.

    Attributes:
        nodes: resources of each, ``CPU`` and ``GPU`` among them.
        card_bytes: of the smallest GPU; 0 where it is not known.
    """

    nodes: tuple[Mapping[str, float], ...]
    card_bytes: int = 0

    def total(self, name: str) -> float:
        """Of ``CPU`` or ``GPU``, over all nodes."""
        return sum(node.get(name, 0.0) for node in self.nodes)

    def slots(self, cpus: float, gpus: float) -> int:
        """How many trials that each need this run at once; 0 when no node holds one."""
        from lsx.study.running.cluster import fit

        return sum(fit(node, {"CPU": cpus, "GPU": gpus}) for node in self.nodes)


def machines(address: str | None = None) -> Machines:
    """A Ray cluster that runs, or this machine, for which Ray is not started.

    Args:
        address: of the cluster, such as ``host:6379``, ``ray://host:10001`` or ``auto``.

    Raises:
        StudyError: no cluster answers there.
    """
    if address is None:
        from ray._private.utils import get_num_cpus  # as Ray counts: a container's quota, not the machine's cores

        cards = [torch.cuda.get_device_properties(one).total_memory for one in range(torch.cuda.device_count())]
        here = {"CPU": max(1.0, float(get_num_cpus(True))), "GPU": float(len(cards))}
        return Machines((here,), min(cards, default=0))
    from lsx.study.running import cluster

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:  # Ray itself would try for half a minute
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise StudyError(
                f"the Ray cluster at {address!r} does not answer: {error}; valid: host:port of its head node, or auto"
            ) from None
    with cluster.started(address):
        return Machines(tuple(dict(node["Resources"]) for node in cluster.nodes()))
