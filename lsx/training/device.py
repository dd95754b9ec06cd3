"""Where a run computes, and the random generators that it draws from there."""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lsx.config import Precision
from lsx.errors import ConfigError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""
KEPT_BLOCK, KEPT_MEMORY = 64 << 20, 512 << 20
"""Bytes: blocks up to this size are taken from memory that the process keeps, and how much of it may be unused."""


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first CUDA GPU, else the CPU.

    Raises:
        ConfigError: the named device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device = {name!r} is no device that torch knows") from None
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= there:
        raise ConfigError(f"device = {name!r} is not on this machine; it has {torch.cuda.device_count()} CUDA GPUs")
    return device


def isolated_randomness(device: torch.device) -> Any:
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed the generators that a run on ``device`` draws from, and no other GPU's."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def randomness(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_randomness(state: Mapping[str, Tensor | None], device: torch.device) -> None:
    """The reverse of :func:`randomness`."""
    cpu, cuda = state["cpu"], state.get("cuda")
    assert cpu is not None
    torch.set_rng_state(cpu)
    if device.type == "cuda" and cuda is not None:
        torch.cuda.set_rng_state(cuda, device)


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Products in a precision; torch's settings before are restored."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"  # cuDNN's default is to shorten
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@cache
def keep_freed_memory() -> bool:
    """Let the process keep the memory of freed activations for the next ones, once for all; whether it is possible.

    glibc gives blocks of megabytes back to the system, which clears them anew, page by page, for every activation.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
        return all(library.mallopt(*one) for one in ((M_MMAP_THRESHOLD, KEPT_BLOCK), (M_TRIM_THRESHOLD, KEPT_MEMORY)))
    except (OSError, AttributeError):  # another C library
        return False
