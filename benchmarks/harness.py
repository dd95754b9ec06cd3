"""What the study harness itself costs: trials that do nothing, through real Ray, Optuna and MLflow.

    python benchmarks/harness.py --out harness.json                  # everything
    python benchmarks/harness.py --part suggest --out harness.json   # one part; the others in the file are kept
    python benchmarks/harness.py --table harness.json                # as Markdown, for docs/scale.md

Parts: no_op (trials a minute), suggest (a suggestion), tracking (what an HTTP tracking server adds to a trial), resume
(until a continued study starts), scale (10,000 trials with real journal and tracking writes; more than
half an hour). Run it on a quiet machine: the load average is noted, and CPU time is given next to wall time.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import harness_parts as parts
import harness_table
import psutil
from harness_search import suggest_part


def measure(part: str, smallest: bool, trials: int | None) -> dict[str, Any]:
    """One part, at its usual size or the smallest one; ``trials`` is another size of scale."""
    run: Mapping[str, Callable[[], dict[str, Any]]] = {
        "no_op": lambda: parts.no_op_part(*((4, 1) if smallest else (300, 3))),
        "suggest": lambda: suggest_part(*(((12,), 2) if smallest else ((100, 1000, 10_000), 30))),
        "tracking": lambda: parts.tracking_part(*((2, 1, 0.2) if smallest else (6, 3, 20.0))),
        "resume": lambda: parts.resume_part(*((4, 1) if smallest else (1000, 3))),
        "scale": lambda: parts.scale_part(trials or (4 if smallest else 10_000)),
    }
    before, start = os.getloadavg()[0], time.time()
    found = run[part]()
    return {**found, "load_before": before, "load_after": os.getloadavg()[0], "took_seconds": time.time() - start}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    import mlflow
    import optuna
    import ray

    versions = {one.__name__: one.__version__ for one in (ray, optuna, mlflow)}
    memory = round(psutil.virtual_memory().total / 2**30)
    found = {"processor": _processor(), "cores": os.cpu_count(), "memory_gib": memory}
    return {**found, "python": platform.python_version(), **versions}


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", choices=harness_table.PARTS, action="append", help="may be given several times; all by default"
    )
    parser.add_argument("--out", type=Path, help="JSON; parts that it has already and that are not run are kept")
    parser.add_argument("--trials", type=int, help="of scale (default: 10,000)")
    parser.add_argument("--smallest", action="store_true", help="show that everything works; numbers mean nothing")
    parser.add_argument("--table", type=Path, metavar="JSON", help="measure nothing; print what is in this file")
    args = parser.parse_args()
    if args.table:
        print(harness_table.everything(json.loads(args.table.read_text())))
        return
    known = json.loads(args.out.read_text())["parts"] if args.out and args.out.exists() else {}
    found = {"machine": machine(), "parts": known}
    for part in args.part or harness_table.PARTS:
        known[part] = measure(part, args.smallest, args.trials)
        print(json.dumps({part: known[part]}, indent=1), flush=True)
        if args.out:
            args.out.write_text(json.dumps(found, indent=1))
    print(harness_table.everything(found))


if __name__ == "__main__":
    main()
