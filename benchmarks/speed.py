"""Speed of training and of the metrics, as ratios to a spec-literal implementation in the same run.

    python benchmarks/speed.py --out speed.json              # everything, on this machine's GPU if it has one
    python benchmarks/speed.py --parts joint,pretrain --networks Net1 --rounds 5
    python benchmarks/speed.py --table speed.json            # the table of docs/performance.md
    python benchmarks/speed.py --profile profile.png         # one joint step, before and after

Every contender is a process of its own; they take turns within a round, so that a noisy machine is noisy for all of
them, and are started anew some times, since how fast a process gets its memory differs from one to the next. A ratio is
the yardstick's time over the contender's in the same round: its median over the rounds, with the lowest and highest.
The metrics' ratio is that of the bare passes through the networks that they need.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

PARTS = ("joint", "joint_full", "pretrain", "finetune", "trial", "metrics", "memory")
NETWORKS = ("Net1", "SimpleConvNet")
PEAK_SIZE = 2048


def main() -> None:
    arguments = parsed()
    if arguments.table:
        return print(table(json.loads(arguments.table.read_text())))
    if arguments.profile:
        from speed_profile import draw

        return draw(arguments.profile, arguments.device, arguments.threads)
    found: dict[str, Any] = {"machine": machine(arguments.device, arguments.threads), "results": []}
    for part in arguments.parts:
        for network in arguments.networks:
            names = contenders(part, arguments.precisions)
            start = time.monotonic()
            result = measure(part, network, names, arguments)
            found["results"].append(result)
            print(*rows(result), *metric_rows(result), sep="\n", flush=True)
            print(f"  {part} {network}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(found, indent=1))


def contenders(part: str, precisions: list[str]) -> list[str]:
    """The first one is what the others are compared with."""
    if part == "metrics":
        return ["bare passes", "float32"]
    if part == "memory":
        return ["float32/1", "float32/6", "float32/18"]
    return ["yardstick", *precisions]


def measure(part: str, network: str, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Rounds in which every contender does the part once, with fresh processes now and then."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    each: dict[str, list[float]] = {}
    flops: dict[str, float] = {}
    for _ in range(options.processes):
        rounds_of(part, network, options, seconds, peaks, flops, each)
    base = seconds[names[0]]
    found = {
        name: {
            "seconds": spread(times),
            "ratio": spread([one / other for one, other in zip(base, times, strict=True)]),
            "gflops": flops[name] / statistics.median(times) / 1e9,
            "peak_mib": max(peaks[name]),
        }
        for name, times in seconds.items()
    }
    n = f"{options.processes} x {options.rounds}"
    result = {"part": part, "network": network, "device": options.device, "n": n, "contenders": found}
    return {**result, "each": {name: spread(times) for name, times in each.items()}}


def rounds_of(
    part: str,
    network: str,
    options: argparse.Namespace,
    seconds: dict[str, list[float]],
    peaks: dict[str, list[float]],
    flops: dict[str, float],
    each: dict[str, list[float]],
) -> None:
    """Rounds of one set of processes, after one that does not count."""
    from contenders import Job

    context = get_context("spawn")
    workers: dict[str, tuple[Any, Connection]] = {}
    for name in seconds:
        mine, theirs = context.Pipe()
        job = Job(name, part, network, options.device, options.threads)
        process = context.Process(target=serve, args=(job, theirs), daemon=True)
        process.start()
        workers[name] = (process, mine)
    flops |= {name: pipe.recv() for name, (_, pipe) in workers.items()}
    for number in range(options.rounds + 1):
        for name, (_, pipe) in workers.items():
            pipe.send("go")
            took = pipe.recv()
            seconds[name] += [took] if number else []
    for name, (process, pipe) in workers.items():
        pipe.send("end")
        peak_mib, metrics = pipe.recv()
        peaks[name].append(peak_mib)
        for metric, times in metrics.items():
            each.setdefault(metric, []).extend(times[1:])
        process.join()


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def serve(job: Any, pipe: Connection) -> None:
    """A contender's process: prepare, then do the part whenever asked, and say how long it took."""
    import torch
    from contenders import prepare

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    act, flops = prepare(job)
    before = resident(now=True)
    pipe.send(flops)
    while pipe.recv() == "go":
        synchronise(job.device)
        start = time.perf_counter()
        act()
        synchronise(job.device)
        pipe.send(time.perf_counter() - start)
    on_gpu = job.device.startswith("cuda")
    taken = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident() - before
    pipe.send((taken, getattr(act, "each", {})))


def resident(*, now: bool = False) -> float:
    """MiB of the process: now, or at its peak so far."""
    if now:
        import psutil

        return psutil.Process().memory_info().rss / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def synchronise(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def machine(device: str, threads: int) -> dict[str, Any]:
    """Where this runs, and how fast its matrix products are."""
    import torch

    torch.set_num_threads(threads)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else processor()
    peaks = {str(kind).removeprefix("torch."): peak(kind, device) for kind in (torch.float32, torch.bfloat16)}
    return {
        "device": name,
        "threads": threads,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "matrix_product_gflops": peaks,
        "date": datetime.now(UTC).date().isoformat(),
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak(kind: Any, device: str) -> float:
    """GFLOP/s of a square matrix product, the best of ten."""
    import torch

    one, other = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronise(device)
        start = time.perf_counter()
        one @ other
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * PEAK_SIZE**3 / best / 1e9


def rows(result: dict[str, Any]) -> list[str]:
    """A line of Markdown per contender."""
    lines = []
    for name, one in result["contenders"].items():
        seconds, ratio = one["seconds"], one["ratio"]
        cells = [
            result["part"],
            result["network"],
            name,
            f"{seconds['median']:.3g} s ({seconds['low']:.3g}–{seconds['high']:.3g})",
            f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})",
            f"{one['gflops']:.0f}" if one["gflops"] else "",
            f"{max(0.0, one['peak_mib']):.0f}",
            str(result["n"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table(found: dict[str, Any]) -> str:
    """Markdown: the machine, and a row per contender."""
    here = found["machine"]
    peaks = ", ".join(f"{name} {value:.0f}" for name, value in here["matrix_product_gflops"].items())
    head = f"{here['device']}, {here['threads']} threads, torch {here['torch']}, {here['date']}; "
    head += f"matrix products of {PEAK_SIZE} x {PEAK_SIZE}, GFLOP/s: {peaks}\n"
    columns = ("part", "network", "contender", "time", "ratio", "GFLOP/s", "peak, MiB", "n")
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [line for result in found["results"] for line in rows(result)]
    return "\n".join([head, *lines, *(line for result in found["results"] for line in metric_rows(result))])


def metric_rows(result: dict[str, Any]) -> list[str]:
    """A table of the metrics that take 1 % of all or more, where metrics were timed."""
    each = result.get("each", {})
    if not each:
        return []
    total = sum(one["median"] for one in each.values())
    slow = [name for name, one in each.items() if one["median"] >= total / 100]
    rest = total - sum(each[name]["median"] for name in slow)
    lines = ["", f"| metric, of a {result['network']} | seconds |", "| --- | --- |"]
    for name in sorted(slow, key=lambda name: -each[name]["median"]):
        one = each[name]
        lines.append(f"| `{name}` | {one['median']:.2f} ({one['low']:.2f}–{one['high']:.2f}) |")
    return [*lines, f"| {len(each) - len(slow)} others together | {rest:.2f} |"]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--parts", type=among(PARTS), default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--networks", type=among(NETWORKS), default=list(NETWORKS), help="Net1, SimpleConvNet")
    precisions = ("float32", "tf32", "bfloat16")
    parser.add_argument("--precisions", type=among(precisions), default=["float32", "bfloat16"], help="of lsx")
    parser.add_argument("--device", default=None, help="cpu or cuda; the GPU if there is one")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, on a CPU")
    parser.add_argument("--rounds", type=int, default=3, help="for each set of processes, after one that warms up")
    parser.add_argument("--processes", type=int, default=3, help="how often the contenders' processes are started")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--table", type=Path, help="print the table of a JSON file")
    parser.add_argument("--profile", type=Path, help="draw a joint step into a PNG file")
    arguments = parser.parse_args()
    if arguments.device is None:
        import torch

        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    return arguments


def among(valid: tuple[str, ...]) -> Any:
    def split(text: str) -> list[str]:
        chosen = text.split(",")
        for one in chosen:
            if one not in valid:
                raise argparse.ArgumentTypeError(f"{one!r} is not among {', '.join(valid)}")
        return chosen

    return split


if __name__ == "__main__":
    main()
