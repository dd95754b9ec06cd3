"""What benchmarks/harness.py measures: whole studies of trials that do nothing, through real Ray, Optuna and MLflow."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

from lsx.study.environment import quiet  # noqa: E402

quiet.prepare()

import psutil  # noqa: E402
import torch  # noqa: E402
from harness_trials import computing, no_op, reporting, rounds_of  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

import lsx  # noqa: E402
from lsx.study.declared.spec import StudySpec, load  # noqa: E402
from lsx.study.running.runner import StudyResult, run  # noqa: E402
from lsx.study.search import optunastore  # noqa: E402
from lsx.study.shown.display import Display  # noqa: E402
from lsx.study.shown.snapshot import Snapshot  # noqa: E402
from lsx.study.tracked import outbox  # noqa: E402
from lsx.study.tracked.tracking import Tracker  # noqa: E402
from lsx.study.worker.rehearsal import rehearse  # noqa: E402
from lsx.training import Trainer  # noqa: E402
from tests.study.servers import Server  # noqa: E402

Trainable = Callable[[Mapping[str, Any]], None]
SLOTS = 2


def declared(trials: int, **sections: Any) -> StudySpec:
    """The shipped study ``decoy_mnist`` (14 conditional parameters, 2 objectives, 1 constraint) on two slots."""
    plain = load("decoy_mnist").plain()
    changed = {"name": "benchmark", "scheduler": {"type": "none"}, "reference_trials": {}, "baseline": None, **sections}
    resources = {"cpus_per_trial": 1, "max_concurrent": SLOTS}
    return StudySpec.build({**plain, "budget": {"trials": trials, "attempts": 3}, "resources": resources, **changed})


class Meter(Display):
    """Draws nothing; keeps, four times a second, what the driver has used until then, and how far it is."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def update(self, snapshot: Snapshot) -> None:
        if snapshot.trials and not snapshot.message:
            finished = sum(one.status == "complete" for one in snapshot.trials)
            now = {"time": time.time(), "cpu": time.process_time()}
            self.rows.append({**now, "finished": finished, "waiting": snapshot.waiting})


def study(spec: StudySpec, trainable: Trainable, folder: Path, uri: str) -> tuple[StudyResult, Meter, list[Any]]:
    """Run it; the trials as its journal has them."""
    meter = Meter()
    result = run(spec, folder=folder, tracking_uri=uri, trainable=trainable, display=meter)
    found = optunastore.load_study(spec.study_name, result.folder / "journal.log").get_trials(deepcopy=False)
    assert all(one.state == TrialState.COMPLETE for one in found), "a trial of the benchmark failed"
    return result, meter, found


def rates(trials: Sequence[Any], parts: int, skip: int = 0) -> list[float]:
    """Trials a minute, over equal parts of a study, after its first ``skip`` trials."""
    ends = sorted(one.datetime_complete.timestamp() for one in trials)[skip:]
    edges = sorted({round(index * (len(ends) - 1) / parts) for index in range(parts + 1)})
    return [60 * (to - since) / (ends[to] - ends[since]) for since, to in itertools.pairwise(edges)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """n, median, smallest, largest."""
    return {"n": len(values), "median": statistics.median(values), "min": min(values), "max": max(values)}


def no_op_part(trials: int, repeats: int) -> dict[str, Any]:
    """Trials a minute on two slots, workers reused, journal and SQLite store written."""
    warm_up, rows = max(2, trials // 10), []
    for _ in range(repeats):
        with temporary() as folder:
            _, meter, found = study(declared(trials + warm_up), no_op, folder, f"sqlite:///{folder}/mlflow.db")
            first = min((row for row in meter.rows if row["finished"] >= warm_up), key=lambda row: row["finished"])
            last = meter.rows[-1]
            cpu = (last["cpu"] - first["cpu"]) / max(1.0, last["finished"] - first["finished"])
            rows.append((rates(found, 1, warm_up)[0], cpu))
    return {
        "trials": trials,
        "warm_up": warm_up,
        "a_minute": summary([row[0] for row in rows]),
        "driver_cpu_seconds": summary([row[1] for row in rows]),
    }


def tracking_part(trials: int, repeats: int, seconds: float) -> dict[str, Any]:
    """The same trials with their reports delivered to an HTTP server, and with the delivery left out, in turns."""
    os.environ["LSX_BENCHMARK_ROUNDS"] = str(rounds_of(seconds))
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    server_cpu, driver_cpu = [], []
    for _ in range(repeats):
        for delivered in (False, True):
            with temporary() as folder, Server(folder) as server, _delivering(delivered):
                before, own = cpu_of(server), time.process_time()
                _, _, done = study(declared(trials + SLOTS), computing, folder, server.uri)
                found[delivered] += [one.user_attrs["metrics"] for one in done[SLOTS:]]
                if delivered:
                    server_cpu.append((cpu_of(server) - before) / len(done))
                driver_cpu.append((delivered, (time.process_time() - own) / len(done)))
    plain = statistics.median(one["trial_seconds"] for one in found[False])
    tracked = statistics.median(one["trial_seconds"] for one in found[True])
    return {
        "trials": trials * repeats,
        "seconds_without": summary([one["trial_seconds"] for one in found[False]]),
        "seconds_with": summary([one["trial_seconds"] for one in found[True]]),
        "added": tracked / plain - 1,
        "added_cpu": statistics.median(one["trial_cpu"] for one in found[True])
        / statistics.median(one["trial_cpu"] for one in found[False])
        - 1,
        "in_reports_without": summary([one["told_seconds"] for one in found[False]]),
        "in_reports_with": summary([one["told_seconds"] for one in found[True]]),
        "driver_cpu_without": summary([cpu for delivered, cpu in driver_cpu if not delivered]),
        "driver_cpu_with": summary([cpu for delivered, cpu in driver_cpu if delivered]),
        "server_cpu": summary(server_cpu),
    }


@contextmanager
def _delivering(really: bool) -> Iterator[None]:
    """With the requests of the outbox to MLflow, or without them."""
    deliver = outbox.Courier.deliver
    if not really:
        outbox.Courier.deliver = lambda self, batch: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        outbox.Courier.deliver = deliver  # type: ignore[method-assign]


@contextmanager
def _timed_deliveries() -> Iterator[list[float]]:
    """Seconds of every delivery of the outbox."""
    deliver, spent = outbox.Courier.deliver, []

    def timed(self: Any, batch: Any) -> None:
        start = time.perf_counter()
        deliver(self, batch)
        spent.append(time.perf_counter() - start)

    outbox.Courier.deliver = timed  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        outbox.Courier.deliver = deliver  # type: ignore[method-assign]


def cpu_of(server: Server) -> float:
    """Seconds that the server's processes have used."""
    return sum(sum(one.cpu_times()[:2]) for one in server._processes())


def resume_part(trials: int, repeats: int) -> dict[str, Any]:
    """A study of that many trials, and fresh drivers that continue it with two more each."""
    with temporary() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        _, _, found = study(declared(trials), no_op, folder, uri)
        rows = []
        for index in range(1, repeats + 1):
            budget = trials + SLOTS * index
            command = [sys.executable, __file__, str(folder), uri, str(budget)]
            start = time.time()
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            assert done.returncode == 0, done.stderr[-3000:]
            known = json.loads(done.stdout.splitlines()[-1])
            rows.append({name: known[name] - start for name in ("called", "proposed", "started")})
    return {
        "trials": trials,
        "building_rates": rates(found, 4, trials // 10),
        "call_to_proposal": summary([row["proposed"] - row["called"] for row in rows]),
        "call_to_start": summary([row["started"] - row["called"] for row in rows]),
        "process_to_start": summary([row["started"] for row in rows]),
    }


def resumed(folder: Path, uri: str, budget: int) -> dict[str, float]:
    """Continue a study; when that was called, when its first trial was proposed and had its worker."""
    called = time.time()
    _, _, found = study(declared(budget), no_op, folder, uri)
    new = found[budget - SLOTS :]
    proposed = min(one.datetime_start.timestamp() for one in new)
    return {"called": called, "proposed": proposed, "started": min(one.user_attrs["metrics"]["began"] for one in new)}


def scale_part(trials: int) -> dict[str, Any]:
    """Many trials of two reports each, real journal, checkpoints and HTTP tracking; then what single writes cost."""
    spec = declared(trials, sampler={"type": "random"})
    with temporary() as folder, Server(folder) as server, _timed_deliveries() as deliveries:
        own, before, start = time.process_time(), cpu_of(server), time.time()
        result, meter, found = study(spec, reporting, folder, server.uri)
        driver, tracked = time.process_time() - own, cpu_of(server) - before
        ends = max(one.datetime_complete.timestamp() for one in found)
        return {
            "trials": trials,
            "a_minute_by_tenth": rates(found, min(10, trials - 1)),
            "driver_cpu_seconds": driver / trials,
            "server_cpu_seconds": tracked / trials,
            "delivering_seconds": sum(deliveries) / trials,
            "deliveries": len(deliveries) / trials,
            "driver_resident_bytes": psutil.Process().memory_info().rss,
            "journal_bytes": (result.folder / "journal.log").stat().st_size / trials,
            "journal_entries": (result.folder / "journal.log").read_bytes().count(b"\n") / trials,
            "outbox_bytes": (result.folder / "outbox.jsonl").stat().st_size,
            "store_bytes": server.database.stat().st_size / trials,
            "artifact_bytes": _bytes_below(folder / "artifacts") / trials,
            "most_entries_waiting": max((row["waiting"] for row in meter.rows), default=0),
            "seconds_of_trials": ends - start,
            "seconds_after_them": time.time() - ends,
            "undelivered": result.undelivered,
            **_requests(server.uri, spec, folder),
            **_checkpoint_bytes(spec, folder),
        }


def _requests(uri: str, spec: StudySpec, folder: Path) -> dict[str, Any]:
    """Single requests to a server whose store is as full as the study has left it."""
    tracker = Tracker(uri, spec.study_name, "another", folder)
    tracker.open_study("another", {}, set())
    opened, logged = [], []
    for number in range(10):
        start = time.perf_counter()
        run_id = tracker.open_trial(number, "one", None, {})
        opened.append(time.perf_counter() - start)
        for step in range(5):
            start = time.perf_counter()
            tracker.log(run_id, {f"metric-{index}": 1.0 for index in range(6)}, step)
            logged.append(time.perf_counter() - start)
    return {"opening_a_run_seconds": summary(opened), "logging_a_row_seconds": summary(logged)}


def _checkpoint_bytes(spec: StudySpec, folder: Path) -> dict[str, int]:
    """Of a running trial's checkpoint, after real steps of every stage, and of the weights that stay of it."""
    config = spec.configure({})
    dataset = lsx.load_data(config)
    torch.save(Trainer(config, dataset).learner.state_dict(), folder / "learner.pt")
    found = rehearse(config, dataset, steps=1).checkpoint_bytes
    return {"checkpoint_bytes": found, "learner_bytes": (folder / "learner.pt").stat().st_size}


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lsx-benchmark-", ignore_cleanup_errors=True) as made:
        yield Path(made)


if __name__ == "__main__":
    import harness_parts

    print(json.dumps(harness_parts.resumed(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
