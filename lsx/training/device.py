"""Where a run computes, and the random generators that it draws from there."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lsx.errors import ConfigError


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
