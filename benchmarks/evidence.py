"""Does learning by self-explaining help? Classification only against LSX, and against LSX with a random critic.

    python benchmarks/evidence.py                                     # the 5,000 images that come along
    python benchmarks/evidence.py --set data.source=folder --set data.root=PATH_OF_FULL_MNIST

Hyperparameters are chosen on validation images with seeds of their own; what is reported is trained anew with other
seeds and measured on test images, once. Writes docs/evidence.md and docs/evidence.png. Finished trainings are kept in
--work, so that the same command continues an interrupted one. What is compared stands in benchmarks/evidence.yaml, or
evidence_gpu.yaml where there is a GPU.
"""

import argparse
import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import evidence_report as report
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import lsx
from lsx.errors import DivergedError, LSXError
from lsx.yamlfile import load_plain

HERE = Path(__file__).parent
SOURCES = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(Path(lsx.__file__).parent.rglob("*.py"))))


@dataclass(frozen=True)
class Job:
    """One training and its evaluation on one split."""

    condition: str
    method: str
    candidate: int
    seed: int
    split: str
    settings: Mapping[str, Any] = field(hash=False)

    @property
    def key(self) -> str:
        """Of the result in the work folder: everything that decides it."""
        text = json.dumps([self.split, self.settings, self.method == "with_critic_images", SOURCES.hexdigest()])
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def measure(job: Job) -> dict[str, Any]:
    """Train and evaluate, on one CPU thread or the GPU."""
    torch.set_num_threads(1)
    config = lsx.Config.build(job.settings)
    dataset = lsx.load_data(config)
    if job.method == "with_critic_images":
        config, dataset = classification(config), joined(dataset)
    last: dict[str, float] = {}
    start = time.perf_counter()
    try:
        learner = lsx.fit(config, dataset, lambda epoch: last.update(epoch.metrics))
    except DivergedError as error:
        return {
            "scores": dict.fromkeys(report.METRICS, math.nan),
            "failed": str(error),
            "seconds": 0.0,
            "device": "cpu",
        }
    seconds = time.perf_counter() - start
    scores = lsx.evaluate(learner, dataset, job.split, config)  # type: ignore[arg-type]
    scores |= {key: last[key] for key in report.TRAINING if key in last}
    device = str(next(learner.parameters()).device)
    return {"scores": scores, "seconds": seconds, "device": device, "images": len(dataset.train)}


def classification(config: lsx.Config) -> lsx.Config:
    """Stage 1 alone."""
    return config.replace({"stages": ["pretrain"]})


def joined(dataset: lsx.Dataset) -> lsx.Dataset:
    """The critic's images among the training images."""
    train, critic = dataset.train, dataset.critic
    parts = {name: torch.cat([getattr(train, name), getattr(critic, name)]) for name in ("images", "labels", "index")}
    return replace(dataset, train=lsx.Split(masks=None, **parts))


def run(jobs: Sequence[Job], work: Path, workers: int, title: str) -> dict[Job, dict[str, Any]]:
    """The jobs' results, from the work folder or computed and put there."""
    results: dict[Job, dict[str, Any]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, TimeRemainingColumn()) as progress,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
    ):
        task = progress.add_task(title, total=len(jobs))
        same: dict[str, list[Job]] = {}
        for job in jobs:
            same.setdefault(job.key, []).append(job)
        running = {}
        for key, alike in same.items():
            file = work / f"{key}.json"
            if file.is_file():
                results |= dict.fromkeys(alike, json.loads(file.read_text()))
                progress.advance(task, len(alike))
            else:
                running[pool.submit(measure, alike[0])] = alike
        for future in as_completed(running):
            alike, result = running[future], future.result()
            results |= dict.fromkeys(alike, result)
            part = work / f"{alike[0].key}.part"
            part.write_text(json.dumps(asdict(alike[0]) | result, indent=1))
            part.replace(work / f"{alike[0].key}.json")
            progress.advance(task, len(alike))
            if not progress.console.is_terminal:
                names = ", ".join(f"{job.condition} {job.method} {job.seed}" for job in alike)
                progress.console.print(f"{title}: {len(results)}/{len(jobs)} {names}")
    return results


class Comparison:
    """The plan, and what was found so far."""

    def __init__(self, plan: Mapping[str, Any], over: Mapping[str, Any]) -> None:
        self.plan = plan
        self.over = over
        self._sizes: dict[str, int] = {}

    def job(self, condition: str, method: str, candidate: int, seed: int, split: str) -> Job:
        """A job with all of its settings; see evidence.yaml for who overrides whom."""
        described = self.plan["conditions"][condition]
        layers: list[Mapping[str, Any]] = [self.plan["settings"], described["settings"], self.over]
        group = report.group(method)
        layers += [self.plan[group].get("settings", {}), report.candidates(self.plan, condition, method)[candidate]]
        if method == "random_critic":
            layers.append({"critic.labels": "permuted"})
        if method == "classification":  # one training for all conditions that differ in the critic alone
            layers.append({"critic": self.plan["settings"]["critic"] | {"images": "confounded"}})
            layers.append({f"{stage}.epochs": 0 for stage in ("joint", "finetune")})
        if method == "with_critic_images":  # the critic's set is loaded where a critic is used
            layers.append({"stages": ["pretrain", "joint"], "finetune.epochs": 0})
        layers.append({"seed": seed, "evaluation.metrics": list(report.METRICS)})
        config = lsx.Config.build(*layers)
        share = described["images"] / self._training_images(config)
        if share > 1.0001:
            raise SystemExit(f"evidence: {condition} needs {described['images']} training images; the source has fewer")
        settings = config.replace({"data.few_shot_fraction": min(1.0, share)}).plain()
        return Job(condition, method, candidate, seed, split, settings)

    def selection(self) -> list[Job]:
        """Every candidate, on validation images."""
        return [
            self.job(condition, method, candidate, seed, "validation")
            for seed in self.plan["selection_seeds"]
            for condition in self.plan["conditions"]
            for method in ("classification", "lsx")
            for candidate in range(len(report.candidates(self.plan, condition, method)))
        ]

    def choose(self, results: Mapping[Job, dict[str, Any]]) -> dict[tuple[str, str], int]:
        """The candidate of each condition and method, by the rule that stands in the plan."""
        chosen: dict[tuple[str, str], int] = {}
        for condition, described in self.plan["conditions"].items():
            plain, found = (_means(results, condition, method) for method in ("classification", "lsx"))
            accuracy = max(scores["accuracy"] for scores in plain.values())
            index = _pick(plain, accuracy, **described["choose"])
            chosen[condition, "classification"] = chosen[condition, "with_critic_images"] = index
            index = _pick(found, accuracy, **described["choose"])
            chosen[condition, "lsx"] = chosen[condition, "random_critic"] = index
        return chosen

    def final(self, chosen: Mapping[tuple[str, str], int]) -> list[Job]:
        """The chosen candidates with the test seeds, on test images."""
        return [
            self.job(condition, method, chosen[condition, method], seed, "test")
            for seed in self.plan["test_seeds"]
            for condition in self.plan["conditions"]
            for method in report.methods(self.plan, condition)
        ]

    def _training_images(self, config: lsx.Config) -> int:
        key = repr((config.data, config.critic.set, config.critic.size))
        if key not in self._sizes:
            whole = config.replace({"data.few_shot_fraction": 1.0})
            self._sizes[key] = len(lsx.load_data(whole).train)
        return self._sizes[key]


def _means(results: Mapping[Job, dict[str, Any]], condition: str, method: str) -> dict[int, dict[str, float]]:
    """Mean validation scores over the selection seeds, by candidate."""
    rows: dict[int, list[dict[str, float]]] = {}
    for job, result in results.items():
        if (job.condition, job.method) == (condition, method):
            rows.setdefault(job.candidate, []).append(result["scores"])
    return {
        index: {name: sum(scores[name] for scores in found) / len(found) for name in found[0]}
        for index, found in sorted(rows.items())
    }


def _pick(found: Mapping[int, dict[str, float]], baseline: float, best: str, margin: float = math.inf) -> int:
    good = [index for index, scores in found.items() if scores["accuracy"] >= baseline - margin]
    name = best if good else "accuracy"
    sign = 1 if lsx.metrics.METRICS[name].direction == "maximize" else -1

    def value(index: int) -> float:
        number = sign * found[index][name]
        return -math.inf if math.isnan(number) else number

    return max(good or found, key=value)


def main(argv: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, help="default: evidence.yaml, or evidence_gpu.yaml with a GPU")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting for all trainings")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at once (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("lsx-evidence"), help="finished trainings (%(default)s)")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs", help="folder of evidence.md and .png")
    args = parser.parse_args(list(argv) if argv is not None else None)
    over = {key: load_plain(value) for key, _, value in (text.partition("=") for text in args.set)}
    plan = args.plan or HERE / ("evidence_gpu.yaml" if torch.cuda.is_available() else "evidence.yaml")
    comparison = Comparison(load_plain(plan.read_text(encoding="utf-8")), over)
    args.work.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    tried = run(comparison.selection(), args.work, args.workers, "selection")
    chosen = comparison.choose(tried)
    results = run(comparison.final(chosen), args.work, args.workers, "test")
    # The job last: a kept result says which job it was computed for, and others may share it.
    rows = [{**result, **asdict(job)} for job, result in results.items()]
    trials = [{**result, **asdict(job)} for job, result in tried.items()]
    command = ["python benchmarks/evidence.py"] + ([f"--plan {args.plan}"] if args.plan else [])
    command += [f"--set {change}" for change in args.set]
    report.write(args.out, comparison.plan, chosen, trials, rows, " ".join(command), args.workers)
    print(f"{args.out / 'evidence.md'}, after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except LSXError as error:
        raise SystemExit(f"evidence: {error}") from None
