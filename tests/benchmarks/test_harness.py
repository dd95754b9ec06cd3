"""The harness's benchmark works: every part at its smallest size, and the table. No times are judged."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "harness.py"
PARTS = {
    "no_op": {"a_minute", "driver_cpu_seconds", "trials", "warm_up"},
    "suggest": {"sizes"},
    "tracking": {"added", "added_cpu", "seconds_with", "seconds_without", "server_cpu", "driver_cpu_with"},
    "resume": {"call_to_proposal", "call_to_start", "process_to_start", "building_rates", "trials"},
    "scale": {"journal_bytes", "store_bytes", "checkpoint_bytes", "most_entries_waiting", "opening_a_run_seconds"},
}


def benchmark(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that has one part already."""
    file = tmp_path_factory.mktemp("benchmark") / "harness.json"
    benchmark("--smallest", "--part", "suggest", "--out", str(file))
    return file


@pytest.mark.parametrize(
    "part",
    [pytest.param(name, marks=pytest.mark.long) for name in PARTS if name != "suggest"],
)
def test_a_part_is_added(file: Path, part: str) -> None:
    said = benchmark("--smallest", "--part", part, "--out", str(file))
    found = json.loads(file.read_text())
    assert found["parts"].keys() >= {"suggest", part}
    known = found["parts"][part]
    assert known.keys() >= PARTS[part] | {"load_before", "load_after", "took_seconds"}
    for one in summaries(known):
        assert one["n"] >= 1 and one["min"] <= one["median"] <= one["max"]
    assert found["machine"].keys() >= {"processor", "cores", "memory_gib", "python", "ray", "optuna", "mlflow"}
    assert "| measured | n | median (min – max) | load |" in said
    assert benchmark("--table", str(file)) in said


def test_suggestions_are_measured_at_every_size(file: Path) -> None:
    sizes = json.loads(file.read_text())["parts"]["suggest"]["sizes"]
    assert [one["trials"] for one in sizes] == [12]
    assert sizes[0]["seconds"]["n"] == 2 and sizes[0]["entering_a_trial_seconds"]["n"] == 12
    assert sizes[0]["cpu_seconds"]["min"] > 0 and sizes[0]["journal_bytes"] > 12 * 100


def summaries(found: Any) -> Iterator[Mapping[str, float]]:
    if isinstance(found, dict):
        if "median" in found:
            yield found
        for one in found.values():
            yield from summaries(one)
