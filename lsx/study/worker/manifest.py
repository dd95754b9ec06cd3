"""What a trial was made of, so that it can be made again: code, settings, data, packages, machine.

Made in the worker that trains. Nothing here names a host, a person or a place.
"""

import functools
import hashlib
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import lsx
from lsx.config import Config, flatten
from lsx.study.environment.credentials import redacted

PACKAGE = Path(lsx.__file__).parent
DEPENDENCIES = (
    *("captum", "matplotlib", "mlflow", "mlxtend", "numpy", "optuna", "plotly", "psutil", "pyarrow"),
    *("pydantic", "pyyaml", "ray", "rich", "scikit-learn", "scipy", "sqlalchemy"),
    *("tensorboard", "torch", "torchvision"),
)
"""What lsx needs, for when it runs without being installed."""

HARMLESS = ("matplotlib", "mlflow", "optuna", "plotly", "psutil", "pyarrow", "ray", "rich", "sqlalchemy", "tensorboard")
"""Dependencies that propose, track or draw, and take no part in training or evaluation."""

GPU_TOLERANCE = 0.02
"""Relative difference of a metric that a GPU is allowed, whose kernels may add in another order; an assumption."""

TOGETHER, ONE_BY_ONE = "together", "one after the other"
"""How a trial's seeds trained. Without a word they trained one after the other, as in older manifests."""

SECONDS = 10.0  # for a program that is asked something
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE")
"""What names another repository than the one asked for; a Git hook sets it."""


def manifest(
    config: Config,
    provenance: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    threads: int,
    device: str,
    apart: str | None = "",
) -> dict[str, Any]:
    """Everything that a trial's numbers depend on, as far as it can be found out here.

    Args:
        config: the trial's.
        provenance: :attr:`lsx.data.Dataset.provenance`.
        seeds: one for each repetition.
        threads: that torch was given.
        device: that the trial computes on, such as ``cpu`` or ``cuda:0``.
        apart: why the seeds trained one after the other; None: they trained together.

    Returns:
        Plain data (JSON) without credentials: ``code``, ``config`` (dotted keys), ``seeds``, ``training`` (of them),
        ``data``, ``packages``, ``hardware``, ``device``, ``threads``, ``deterministic``. What is unknown is None.
    """
    content = {
        "code": code(),
        "config": config.flat(),
        "seeds": list(seeds),
        "training": {"seeds": TOGETHER if apart is None else ONE_BY_ONE, "reason": apart or None},
        "data": provenance,
        "packages": packages(),
        "hardware": hardware(device),
        "device": device,
        "threads": threads,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    plain: dict[str, Any] = _plain(content)
    return plain


@functools.cache
def code(package: Path = PACKAGE) -> dict[str, Any]:
    """Version, checksum and commit of lsx, as they are when they are first asked for: a worker has imported them then.

    Returns:
        ``version``; ``sha256`` over the package's .py files; ``commit`` and ``dirty`` of the Git repository that
        tracks them, None without one. Dirty is a changed tracked file anywhere, or a new file in the package.
    """
    commit, changed, new = None, None, None
    if _output("git", "ls-files", "--error-unmatch", "--", "__init__.py", folder=package) is not None:
        commit = _output("git", "rev-parse", "HEAD", folder=package)
        changed = _output("git", "status", "--porcelain", "--untracked-files=no", folder=package)
        new = _output("git", "ls-files", "--others", "--exclude-standard", "--", ".", folder=package)
    dirty = None if commit is None or changed is None or new is None else bool(changed or new)
    return {"version": lsx.__version__, "sha256": _checksum(package), "commit": commit, "dirty": dirty}


def _checksum(package: Path) -> str:
    """SHA-256 over names and contents of all .py files, in the order of their names."""
    digest = hashlib.sha256()
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def packages() -> dict[str, str | None]:
    """Versions of Python and of what lsx needs; None for what is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _needed()}


def _needed() -> tuple[str, ...]:
    try:
        requirements = metadata.requires("lsx") or []
    except metadata.PackageNotFoundError:
        return DEPENDENCIES
    names = (re.match(r"[\w.-]+", text) for text in requirements if "extra ==" not in text)
    return tuple(name[0] for name in names if name) or DEPENDENCIES


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def hardware(device: str) -> dict[str, Any]:
    """The machine: ``processor`` and its ``instructions`` (what torch uses of them), ``cores`` (logical), ``memory``
    (bytes), torch's ``threads``, ``platform`` (system, machine, libc), and ``gpu`` (name, driver, cuda, cudnn).
    """
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory": _memory(),
        "threads": torch.get_num_threads(),
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()).strip() or None,
        },
        "gpu": _gpu(device),
    }


def _processor() -> str | None:
    """Its model, from where the system keeps it."""
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    try:
        models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        models = []
    return str(models[0]).strip() if models else platform.processor() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _gpu(device: str) -> dict[str, Any] | None:
    """The GPU that ``device`` names; where it names none, the first one that is there."""
    if not torch.cuda.is_available():
        return {"name": "mps", "driver": None, "cuda": None, "cudnn": None} if device == "mps" else None
    index = torch.device(device).index if device.startswith("cuda:") else 0
    drivers = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "name": torch.cuda.get_device_name(index),
        "driver": drivers.split()[0] if drivers else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _output(*command: str, folder: Path | None = None) -> str | None:
    """What a program writes; None where it is missing, fails or hangs."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    if command[0] == "git":
        # fsmonitor would start a program of the repository's choice.
        command = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false", *command[1:])
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def _plain(value: Any) -> Any:
    """Plain data that strict JSON can hold, its texts without credentials."""
    if isinstance(value, Mapping):
        return {redacted(str(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy and torch
        return _plain(value.tolist())
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return redacted(str(value))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two manifests and may change results, one readable line each; empty when nothing does.

    Left out are paths, commits whose files are the same, memory, and the packages of :data:`HARMLESS`; what says how
    a GPU computes counts only where one of both trials used it.
    """
    before, after = _deciding(old), _deciding(new)
    gpu = any(str(one.get("device", "cpu")).split(":")[0] != "cpu" for one in (old, new))
    keys = [key for key in dict.fromkeys((*before, *after)) if gpu or not key.startswith("gpu")]
    lines = [f"{key}: {_shown(before.get(key))} became {_shown(after.get(key))}" for key in keys]
    return [line for key, line in zip(keys, lines, strict=True) if before.get(key) != after.get(key)]


def _deciding(one: Mapping[str, Any]) -> dict[str, Any]:
    """What may change results, with the names that people read."""
    machine = one.get("hardware") or {}
    versions = {name: version for name, version in (one.get("packages") or {}).items() if name not in HARMLESS}
    settings = {key: value for key, value in (one.get("config") or {}).items() if key not in ("device", "data.root")}
    facts = {
        "code": (one.get("code") or {}).get("sha256"),
        "settings": settings,
        "seeds": one.get("seeds"),
        "training": {"seeds": (one.get("training") or {}).get("seeds", ONE_BY_ONE)},
        "data": {"sha256": (one.get("data") or {}).get("sha256")},
        "packages": versions,
        "processor": machine.get("processor"),
        "instructions": machine.get("instructions"),
        "platform": machine.get("platform") or {},
        "gpu": machine.get("gpu") or {},
        **{name: one.get(name) for name in ("device", "threads", "deterministic")},
    }
    return {_readable(key): value for key, value in flatten(facts).items()}


def _readable(key: str) -> str:
    section, _, name = key.partition(".")
    return name if section in ("settings", "packages") else key.replace(".", " ")


def _shown(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:12]
    return "nothing" if value is None else str(value)


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of what should be one trial.

    Attributes:
        equal: all metrics are there twice and equal, within the tolerance.
        worst: name, old and new value of the metric that differs most, None for a value that is missing; None where
            none differs at all.
        tolerance: largest relative difference that counts as equal; 0 asks for the same floats.
    """

    equal: bool
    worst: tuple[str, float | None, float | None] | None
    tolerance: float


def compare(old: Mapping[str, float], new: Mapping[str, float], device: str) -> Comparison:
    """Whether a rerun gave the same metrics: the same floats on a CPU, else within :data:`GPU_TOLERANCE`.

    Args:
        old, new: metric to value; NaN equals NaN.
        device: that the rerun computed on.
    """
    tolerance = 0.0 if device.split(":")[0] == "cpu" else GPU_TOLERANCE
    gaps = {name: _gap(old.get(name), new.get(name)) for name in (*old, *(name for name in new if name not in old))}
    name = max(gaps, key=gaps.__getitem__, default=None)
    if name is None or gaps[name] == 0:
        return Comparison(True, None, tolerance)
    return Comparison(gaps[name] <= tolerance, (name, old.get(name), new.get(name)), tolerance)


def _gap(old: float | None, new: float | None) -> float:
    """Relative difference, 0 to 2, and 0 only where both are equal; infinite where one alone is NaN or missing."""
    if old is None or new is None:
        return math.inf
    # A database does not keep the sign of zero.
    if old == new or (math.isnan(old) and math.isnan(new)):
        return 0.0
    if not (math.isfinite(old) and math.isfinite(new)):
        return math.inf
    larger = max(abs(old), abs(new))
    return max(abs(old / larger - new / larger), sys.float_info.min)
