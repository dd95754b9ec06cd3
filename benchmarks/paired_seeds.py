"""Configurations compared over paired seeds, on test images: mean, 95 % interval, and difference to the first one.

    python benchmarks/paired_seeds.py baseline=a.yaml best=b.yaml no_critic=b.yaml+loss.lambda_e=0 --seeds 5

Every configuration is trained anew with each seed (weights, batch order, critics; the data and their splits stay), so
differences are paired. Select configurations elsewhere, on validation images: this reads the test images.
"""

import argparse
import json
import math
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from scipy import stats

METRICS = ("accuracy", "reference_relevance_mass", "reference_ridge", "reference_comprehensiveness")


def measure(job: tuple[str, str, int]) -> dict[str, object]:
    """Train and test one configuration with one seed, on one thread."""
    import torch

    import lsx
    from lsx.yamlfile import load_plain

    torch.set_num_threads(1)
    name, path, seed = job
    file, *changes = path.split("+")
    changed = {key: load_plain(value) for key, value in (change.split("=", 1) for change in changes)}
    config = lsx.Config.load(file).replace(changed | {"seed": seed})
    dataset = lsx.load_data(config)
    start = time.perf_counter()
    learner = lsx.fit(config, dataset)
    seconds = time.perf_counter() - start
    scores = lsx.evaluate(learner, dataset.to(next(learner.parameters()).device), "test", config)
    return {"name": name, "seed": seed, "seconds": seconds, **{key: scores.get(key, math.nan) for key in METRICS}}


def interval(values: list[float]) -> str:
    """Mean ± half width of Student's 95 % interval."""
    mean, count = sum(values) / len(values), len(values)
    if count < 2:
        return f"{mean:.4f}"
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    return f"{mean:.4f} ± {stats.t.ppf(0.975, count - 1) * deviation / math.sqrt(count):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="NAME=FILE[+KEY=VALUE]")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1 on (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="trainings at once (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON of all single values")
    args = parser.parse_args()
    files = dict(text.split("=", 1) for text in args.configs)
    jobs = [(name, path, seed) for seed in range(1, args.seeds + 1) for name, path in files.items()]
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        for done, row in enumerate(pool.map(measure, jobs), 1):
            rows.append(row)
            print(f"{done}/{len(jobs)} {row}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))
    print(f"\n{platform.processor() or platform.machine()}, {args.workers} trainings at once, n = {args.seeds} seeds")
    first = next(iter(files))
    for metric in (*METRICS, "seconds"):
        print(f"\n{metric}")
        series = {name: [float(row[metric]) for row in rows if row["name"] == name] for name in files}
        for name, values in series.items():
            gaps = [value - base for value, base in zip(values, series[first], strict=True)]
            print(f"  {name:16} {interval(values)}" + ("" if name == first else f"   difference {interval(gaps)}"))


if __name__ == "__main__":
    main()
