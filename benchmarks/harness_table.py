"""The tables of docs/scale.md, from what benchmarks/harness.py has measured."""

import math
from collections.abc import Callable, Mapping
from typing import Any

PARTS = ("no_op", "suggest", "tracking", "resume", "scale")
SLOTS, TRIALS = 64, 10_000
MINUTES = (1, 5, 20, 60)


def everything(found: Mapping[str, Any]) -> str:
    """What was measured and, where all parts are there that it takes, what follows for a large study."""
    known = found["parts"]
    return "\n\n".join([table(found), *([needs(known)] if {"no_op", "suggest", "scale"} <= known.keys() else [])])


def needs(known: Mapping[str, Any]) -> str:
    """10,000 trials on 64 GPUs, by the length of a trial: shares of one core, of the outbox's thread, and volumes."""
    scale, largest = known["scale"], known["suggest"]["sizes"][-1]
    bare = known["no_op"]["driver_cpu_seconds"]["median"] - known["suggest"]["sizes"][0]["cpu_seconds"]["median"]
    report = (scale["driver_cpu_seconds"] - bare) / 2  # the trials of scale are drawn at random
    row = scale["logging_a_row_seconds"]["median"]
    columns = []
    for minutes in MINUTES:
        a_second, each = SLOTS / (60 * minutes), reports(60 * minutes)
        columns.append(
            (
                f"{minutes} min",
                f"{TRIALS * minutes / SLOTS / 60:,.0f}",
                f"{60 * a_second:.1f}",
                f"{each:.0f}, {a_second * each:.0f}",
                _share(a_second * (bare + largest["cpu_seconds"]["median"] + each * report), report > 0),
                f"{100 * a_second * (scale['delivering_seconds'] + requests(60 * minutes) * row):.0f}",
                f"{a_second * each * scale['checkpoint_bytes'] / 1e6:,.0f}",
            )
        )
    names = (
        "a trial takes",
        "the study takes, hours",
        "trials end, a minute",
        "reports: of a trial, and a second",
        f"driver, % of a core (TPE at {largest['trials']:,} trials)",
        "tracking, % of the outbox's thread",
        "checkpoints written, MB/s",
    )
    lines = [f"| {' | '.join(cells)} |" for cells in zip(names, *columns, strict=True)]
    weights = TRIALS * scale["learner_bytes"] / 1e9
    journal = TRIALS * scale["journal_bytes"] / 1e6
    store = TRIALS * (scale["store_bytes"] + scale["artifact_bytes"]) / 1e9
    after = (
        f"At the end: {weights:,.0f} GB of weights in the study's folder and as much in the checkpoint storage, a "
        f"journal of {journal:,.0f} MB and {store:.1f} GB in MLflow (two reports a trial; more reports add to both)."
    )
    return "\n".join([lines[0], f"| {' | '.join(['---'] * (len(MINUTES) + 1))} |", *lines[1:], "", after])


def _share(load: float, known: bool) -> str:
    return f"{100 * load:.0f}" if known else "lost in noise"


def reports(seconds: float) -> float:
    """Of a trial so long whose epochs are short: one in 2 s, or in 1 % of its time when that is longer."""
    return seconds / 2 if seconds <= 200 else 100 * (1 + math.log(seconds / 200))


def requests(seconds: float) -> float:
    """That bring them to MLflow: the reports of 5 s (the outbox's ``GATHERING``) share one."""
    return seconds / 5 if seconds <= 500 else 100 * (1 + math.log(seconds / 500))


def table(found: Mapping[str, Any]) -> str:
    """All parts as one table in Markdown."""
    known, rows = found["parts"], [("measured", "n", "median (min – max)", "load")]
    for part in PARTS:
        if part in known:
            load = f"{known[part]['load_before']:.1f} → {known[part]['load_after']:.1f}"
            rows += [(*row, load) for row in ROWS[part](known[part])]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    about = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    return "\n".join([lines[0], "| --- | --- | --- | --- |", *lines[1:], "", f"Machine: {about}."])


Row = tuple[str, str, str]


def _no_op(found: Mapping[str, Any]) -> list[Row]:
    what = f"no-op trials a minute, two slots, {found['trials']} trials after {found['warm_up']}"
    return [
        _row(what, found["a_minute"]),
        _row("driver's CPU for one, ms", found["driver_cpu_seconds"], 1000),
    ]


def _suggest(found: Mapping[str, Any]) -> list[Row]:
    rows = []
    for one in found["sizes"]:
        at = f"{one['trials']:,} trials"
        rows += [
            _row(f"a suggestion at {at}, ms", one["seconds"], 1000),
            _row(f"CPU of a suggestion at {at}, ms", one["cpu_seconds"], 1000),
            (f"opening the journal of {at}, s", "1", f"{one['opening_seconds']:.2f}"),
            _row(f"entering a trial into the journal, up to {at}, ms", one["entering_a_trial_seconds"], 1000),
        ]
    return rows


def _tracking(found: Mapping[str, Any]) -> list[Row]:
    count = str(found["trials"])
    return [
        _row("a trial without delivery to the tracking server, s", found["seconds_without"]),
        _row("the same with delivery over HTTP, s", found["seconds_with"]),
        ("what delivery adds to a trial's time, %", count, f"{100 * found['added']:.1f}"),
        ("what it adds to a trial's own CPU time, %", count, f"{100 * found['added_cpu']:.1f}"),
        _row("a trial's time in its ten reports, with delivery, ms", found["in_reports_with"], 1000),
        _row("the same without, ms", found["in_reports_without"], 1000),
        _row("driver's CPU for a trial and its share of start and end, with delivery, s", found["driver_cpu_with"]),
        _row("the same without, s", found["driver_cpu_without"]),
        _row("tracking server's CPU for a trial, s", found["server_cpu"]),
    ]


def _resume(found: Mapping[str, Any]) -> list[Row]:
    at = f"{found['trials']:,} trials"
    quarters = ", ".join(f"{rate:.0f}" for rate in found["building_rates"])
    return [
        (f"no-op trials a minute, by quarters of {at}", "1", quarters),
        _row(f"resume of {at}: from the call to the first proposal, s", found["call_to_proposal"]),
        _row("the same to the start of a trial in its worker, s", found["call_to_start"]),
        _row("the same from the start of the process, imports included, s", found["process_to_start"]),
    ]


def _scale(found: Mapping[str, Any]) -> list[Row]:
    at = f"{found['trials']:,} trials"
    tenths = ", ".join(f"{rate:.0f}" for rate in found["a_minute_by_tenth"])
    single = {
        f"trials a minute with two reports and checkpoints each, by tenths of {at}": tenths,
        "driver's CPU for one, ms": f"{1000 * found['driver_cpu_seconds']:.0f}",
        "tracking server's CPU for one, ms": f"{1000 * found['server_cpu_seconds']:.0f}",
        "outbox's thread for one, seconds and deliveries": (
            f"{found['delivering_seconds']:.3f}, {found['deliveries']:.1f}"
        ),
        f"driver's memory after {at}, MB": f"{found['driver_resident_bytes'] / 1e6:.0f}",
        "journal for one, entries and kB": f"{found['journal_entries']:.1f}, {found['journal_bytes'] / 1e3:.1f}",
        "MLflow's SQLite file for one, kB": f"{found['store_bytes'] / 1e3:.1f}",
        "MLflow's artifacts for one, kB": f"{found['artifact_bytes'] / 1e3:.1f}",
        "most entries that waited for the tracking server": f"{found['most_entries_waiting']:.0f}",
        "seconds from the last trial to the end, backlog included": f"{found['seconds_after_them']:.0f}",
        "entries not delivered at the end": f"{found['undelivered']}",
        "a real trial's checkpoint while it trains, and its weights, MB": (
            f"{found['checkpoint_bytes'] / 1e6:.1f}, {found['learner_bytes'] / 1e6:.1f}"
        ),
    }
    return [
        *((name, "1", value) for name, value in single.items()),
        _row(f"opening a run over HTTP, beside {at}, ms", found["opening_a_run_seconds"], 1000),
        _row("logging six metrics over HTTP, there, ms", found["logging_a_row_seconds"], 1000),
    ]


ROWS: Mapping[str, Callable[[Mapping[str, Any]], list[Row]]] = {
    "no_op": _no_op,
    "suggest": _suggest,
    "tracking": _tracking,
    "resume": _resume,
    "scale": _scale,
}


def _row(what: str, found: Mapping[str, float], factor: float = 1.0) -> Row:
    middle, low, high = (f"{factor * found[name]:.3g}" for name in ("median", "min", "max"))
    return what, f"{found['n']:.0f}", f"{middle} ({low} – {high})"
