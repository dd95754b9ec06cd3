"""Networks beside the learner: IIES's encoder, an untrained learner as control, and how small ones are trained."""

import hashlib
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsx.data.types import Dataset
from lsx.models import build

T = TypeVar("T")

BATCH_SIZE = 64
LEARNING_RATE = 1e-3
SMALLEST_SIDE = 16  # of the images that SimpleConvNet takes

_cache: dict[Hashable, object] = {}
CACHE_SIZE = 8


def fingerprint(*tensors: Tensor) -> str:
    """Checksum of what tensors hold, whatever device they are on."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def cached(key: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` made for this key earlier in this process, else anew; the oldest entry makes room.

    The key must hold everything that the result depends on.
    """
    if key not in _cache:
        made = make()
        while len(_cache) >= CACHE_SIZE:
            _cache.pop(next(iter(_cache)))
        _cache[key] = made
    found: T = _cache[key]  # type: ignore[assignment]
    return found


def fresh(name: str, image_shape: tuple[int, int, int], classes: int, seed: int, device: torch.device) -> nn.Module:
    """A registered model with weights drawn from ``seed``, equal on every device; global random state is kept."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would reseed the accelerators too, whose state is not forked here.
        torch.default_generator.manual_seed(seed)
        return build(name, image_shape, classes).to(device)


def encoder(dataset: Dataset, epochs: int, seed: int) -> nn.Module:
    """A classification-only ``SimpleConvNet`` trained on the training split, for :func:`lsx.metrics.iies`.

    The same for every learner that a study scores: it depends on the training images, ``epochs`` and ``seed`` alone,
    and is trained once per process. Images below 16 × 16 get ``Net1``. Global random state is kept.

    Returns:
        The frozen network in evaluation mode, on the device of the images; share it, do not change it.
    """
    train = dataset.train
    key = ("encoder", fingerprint(train.images, train.labels), str(train.images.device), epochs, seed)
    return cached(key, lambda: _train(dataset, epochs, seed))


def _train(dataset: Dataset, epochs: int, seed: int) -> nn.Module:
    train = dataset.train
    name = small_network(dataset.image_shape)
    model = fresh(name, dataset.image_shape, dataset.num_classes, seed, train.images.device)
    fit(model, train.images, train.labels, epochs, seed)
    return model.eval().requires_grad_(False)


def small_network(image_shape: tuple[int, int, int]) -> str:
    """The registered model that suits images (C, H, W) and is cheap."""
    return "SimpleConvNet" if min(image_shape[1:]) >= SMALLEST_SIDE else "Net1"


def fit(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    """Minimise the cross entropy by Adam (learning rate 1e-3, batches of 64), in place.

    Args:
        model: images (B, C, H, W) to log-probabilities (B, K), in training mode.
        images, labels: (N, C, H, W), and int64 (N,).
        epochs: passes over them.
        seed: of the order of the images.
    """
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.randperm(len(labels), generator=order).to(labels.device).split(BATCH_SIZE):
                optimizer.zero_grad()
                F.nll_loss(model(images[rows]), labels[rows]).backward()
                optimizer.step()
