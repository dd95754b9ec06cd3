"""``tune.py --dry-run``: everything that a study needs is tried, what it takes is measured, and nothing is started."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lsx import data
from lsx.config import Config, flatten, nest
from lsx.errors import LSXError
from lsx.study.declared.space import Dimension
from lsx.study.declared.spec import StudySpec
from lsx.study.environment import reachable
from lsx.study.environment.folder import StudyFolder
from lsx.study.environment.reachable import size
from lsx.study.running import packing
from lsx.study.running.packing import Machines
from lsx.study.tracked import stores
from lsx.study.worker.rehearsal import Rehearsal, rehearse

ARROWS = {"maximize": "↑", "minimize": "↓"}
SUGGESTIONS = 3
DATABASE_BYTES, PICTURE_BYTES = 2**20, 2**18
"""Of one trial, roughly: what its curves take in MLflow and its journal, and its pictures."""


@dataclass(frozen=True)
class DryRun:
    """What a dry run found.

    Attributes:
        renderable: all of it, for a person.
        faults: one line each: what would keep the study from running; none when it can start.
    """

    renderable: RenderableType
    faults: tuple[str, ...]


def dry_run(
    spec: StudySpec,
    *,
    tracking_uri: str | None = None,
    storage: str | Path | None = None,
    folder: str | Path = "lsx-studies",
    optuna_storage: str | None = None,
    address: str | None = None,
    slots: int | None = None,
) -> DryRun:
    """Try what a study needs, and measure what it takes; nothing is made or changed anywhere.

    Args:
        spec: the study; with other repeats or resources, a copy that has them.
        tracking_uri: of MLflow; MLFLOW_TRACKING_URI or a SQLite file in the working folder by default.
        storage: folder or URI of the checkpoints; the study's folder by default.
        folder: of all studies.
        optuna_storage: URL of a database; a journal in the study's folder by default.
        address: of a Ray cluster; this machine by default.
        slots: trials at once, instead of as many as fit.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or stores.default_uri()
    place = StudyFolder(folder, spec.study_name)
    checks = _Checks()
    sound = checks.make("study", lambda: reachable.study(spec))
    checks.make("tracking", lambda: reachable.tracking(uri))
    checks.make("storage", lambda: reachable.storage(str(storage or place.path)))
    trials: list[Any] = []
    checks.make("optuna", lambda: reachable.optuna_storage(spec, place.journal, optuna_storage, trials))
    there: list[Machines] = []
    checks.make("machines", lambda: reachable.machines(spec, address, there))
    parts: list[RenderableType] = [checks.table(), _space(spec), _aims(spec)]
    if sound:
        parts.append(_suggestions(spec, trials))
        costs = _rehearsals(spec, checks)
        at_once = slots or _slots(spec, there, costs)
        done = sum(one.state.is_finished() for one in trials)
        free = shutil.disk_usage(reachable.standing(place.path)).free
        parts += [_rehearsal_table(spec, costs), _estimate(spec, costs, at_once, done, free)]
    return DryRun(Group(*_spaced(parts)), tuple(checks.faults))


class _Checks:
    """Lines with what was found."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._rows: list[tuple[str, str, str]] = []

    def make(self, name: str, check: Callable[[], str]) -> bool:
        """Whether it is as it must be."""
        try:
            self._rows.append(("✓", name, check()))
        except LSXError as error:
            self.fail(name, str(error))
            return False
        return True

    def fail(self, name: str, reason: str) -> None:
        """Enter what is wrong."""
        self.faults.append(reason)
        self._rows.append(("✗", name, reason))

    def table(self) -> RenderableType:
        """All lines."""
        return _Rows(self._rows)


class _Rows:
    """Drawn when it is shown: a check may be entered after the table was asked for."""

    def __init__(self, rows: Sequence[tuple[str, ...]]) -> None:
        self._rows = rows

    def __rich_console__(self, *_: Any) -> Iterator[RenderableType]:
        table = _grid()
        for mark, name, found in self._rows:
            table.add_row(Text(mark, style="green" if mark == "✓" else "bold red"), Text(name), Text(found))
        yield table


def _slots(spec: StudySpec, there: Sequence[Machines], costs: Mapping[str, "_Cost"]) -> int:
    """Trials that fit at once; a GPU of which nothing was measured takes one."""
    gpus = spec.resources.gpus_per_trial
    if gpus == "auto":
        peak = max((one.rehearsal.peak_bytes for one in costs.values()), default=0)
        card = there[0].card_bytes if there else 0
        gpus = packing.share(peak, card) if card and peak else float(bool(there and there[0].total("GPU")))
    fit = there[0].slots(spec.resources.cpus_per_trial, gpus) if there else 1
    return max(1, min(fit, spec.resources.max_concurrent or fit))


@dataclass(frozen=True)
class _Cost:
    config: Config
    rehearsal: Rehearsal


def _rehearsals(spec: StudySpec, checks: _Checks) -> dict[str, _Cost]:
    """The cheapest and the slowest trial and the baseline, those that are the same once, by what they are called."""
    cheapest, slowest = packing.extremes(spec, data.load(spec.configure({})))
    wanted = {"cheapest": cheapest, "slowest": slowest}
    if spec.baseline is not None:
        wanted["baseline"] = spec.configure(spec.reference_trials[spec.baseline])
    names: dict[str, list[str]] = {}
    for name, config in wanted.items():
        same = next((one for one in names if wanted[one] == config), name)
        names.setdefault(same, []).append(name)
    costs = {}
    with _threads(max(1, int(spec.resources.cpus_per_trial))):
        for first, all_names in names.items():
            config = wanted[first]
            if config.device == "auto" and spec.resources.gpus_per_trial == 0:
                config = config.replace({"device": "cpu"})
            try:
                costs[" = ".join(all_names)] = _Cost(config, rehearse(config, data.load(config)))
            except LSXError as error:
                checks.fail("rehearsal", f"the {first} trial cannot be run: {error}")
    return costs


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads as a trial's worker has."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _space(spec: StudySpec) -> RenderableType:
    table = _grid("setting", "kind", "values", "if")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for one in spec.search_space:
        conditions = [f"{key} = {' or '.join(map(str, values))}" for key, values in one.dimension.when.items()]
        table.add_row(one.key, _kind(one.dimension), _values(one.dimension), ", ".join(conditions))
    return Group(_title("search space"), table)


def _kind(dimension: Dimension) -> str:
    scale = "log" if dimension.log else f"step {dimension.step:g}" if dimension.step else ""
    return f"{dimension.type}, {scale}" if scale else dimension.type


def _values(dimension: Dimension) -> str:
    if dimension.choices is not None:
        return ", ".join(map(str, dimension.choices))
    points = f", {dimension.points} points" if dimension.points else ""
    return f"{dimension.low:g} to {dimension.high:g}{points}"


def _aims(spec: StudySpec) -> RenderableType:
    sampler, scheduler, budget = spec.sampler, spec.scheduler, spec.budget
    first = {"tpe": f", {sampler.startup_trials} random trials first"}
    stops = f": {scheduler.metric} {ARROWS[scheduler.direction]}, after {scheduler.grace_epochs} epochs"
    limit = "" if budget.time is None else f", at most {_time(budget.time)}"
    table = _grid()
    table.add_row("objectives", ", ".join(f"{one.metric} {ARROWS[one.direction]}" for one in spec.objectives))
    for one in spec.constraints:
        bounds = [f"at least {one.low:g}"] if one.low is not None else []
        bounds += [f"at most {one.high:g}"] if one.high is not None else []
        table.add_row("constraint", f"{one.metric} {' and '.join(bounds)}")
    table.add_row("sampler", f"{sampler.type}{first.get(sampler.type, '')}")
    table.add_row("scheduler", scheduler.type + ("" if scheduler.type == "none" else stops))
    table.add_row("repeats", f"{spec.repeats} seeds of every trial" if spec.repeats > 1 else "one seed of every trial")
    table.add_row("budget", f"{budget.trials} trials, {len(spec.reference_trials)} of them reference trials{limit}")
    return Group(_title("aims"), table)


def _suggestions(spec: StudySpec, trials: Sequence[Any]) -> RenderableType:
    """Reference trials that were not run, and what the sampler proposes next, as long as nothing new is known."""
    from lsx.study.search.proposer import Proposer

    table = _grid("trial", "settings")
    known = {trial.user_attrs.get("role") for trial in trials}
    waiting = {name: own for name, own in spec.reference_trials.items() if name not in known}
    for name, own in waiting.items():
        table.add_row(name, _pairs(flatten(nest(own))) or "as all trials")
    first = len(trials) + len(waiting)
    proposer = Proposer(spec, trials)
    for number in range(first, min(first + SUGGESTIONS, spec.budget.trials)):
        if (proposal := proposer.propose(number)) is None:
            break
        table.add_row(f"#{number}", _pairs(proposal.values))
    return Group(_title("first suggestions"), table)


def _settings(spec: StudySpec, config: Config) -> str:
    """Which configuration this is: a reference trial, or a corner of what decides the cost."""
    for name, own in spec.reference_trials.items():
        if spec.configure(own).replace({"device": config.device}) == config:
            return f"the reference trial {name}"
    flat = config.flat()
    keys = [one.key for one in spec.search_space.active(flat) if one.key in packing.COSTLY]
    return _pairs({key: flat[key] for key in keys}) or "as all trials"


def _rehearsal_table(spec: StudySpec, costs: Mapping[str, _Cost]) -> RenderableType:
    table = _grid("", *costs)
    found = [one.rehearsal for one in costs.values()]
    for stage in ("pretrain", "joint", "finetune"):
        cells = []
        for one in found:
            cost = next((cost for cost in one.stages if cost.stage == stage), None)
            parts = "" if cost is None else f"\n{cost.epochs} × {cost.steps} × {_time(cost.step)}"
            cells.append("" if cost is None else _time(cost.seconds) + parts)
        table.add_row(stage, *cells)
    table.add_row("evaluation", *(_time(one.evaluation) for one in found))
    table.add_row("one seed", *(_time(one.seconds) for one in found))
    if spec.repeats > 1:
        table.add_row(f"{spec.repeats} seeds", *(_time(spec.repeats * one.seconds) for one in found))
    table.add_row("memory", *(size(one.resident_bytes) for one in found))
    if any(one.device != "cpu" for one in found):
        table.add_row("on the GPU", *(size(one.peak_bytes) for one in found))
    table.add_row("checkpoint", *(size(one.checkpoint_bytes) for one in found))
    lines = [f"{name}: {_settings(spec, one.config)}" for name, one in costs.items()]
    lines += [f"{name}: {note}" for name, one in costs.items() for note in one.rehearsal.notes]
    faults = [f"{name}: {one.rehearsal.fault}" for name, one in costs.items() if one.rehearsal.fault]
    where = f" (epochs × steps × a step, on this machine's {found[0].device})" if found else ""
    return Group(
        _title(f"rehearsal{where}"), table, *map(Text, lines), *(Text(one, style="bold red") for one in faults)
    )


def _estimate(spec: StudySpec, costs: Mapping[str, _Cost], slots: int, done: int, free: int) -> RenderableType:
    """Time, memory and disk of what is left of the study."""
    found = [one.rehearsal for one in costs.values()]
    if not found:
        return Text("estimate: none, since no trial could be rehearsed")
    left = max(0, spec.budget.trials - done)
    at_once = max(1, min(slots, left))
    once = max(one.once for one in found)
    low, high = (one * spec.repeats * left / at_once + once for one in _ends(found))
    checkpoint = max(one.checkpoint_bytes for one in found)
    memory, own = at_once * max(one.resident_bytes for one in found), psutil.Process().memory_info().rss
    disk = checkpoint * (2 * at_once + left * spec.repeats) + left * (DATABASE_BYTES + PICTURE_BYTES)
    total = psutil.virtual_memory().total
    table = _grid()
    table.add_row("trials", f"{left}, {at_once} at once")
    table.add_row("time", f"{_time(low)} (all as the cheapest) to {_time(high)} (all as the slowest)")
    table.add_row("", f"{_time((low + high) / 2)} is the mean of the two; trials that are stopped early shorten it")
    table.add_row("memory", f"{size(memory)} for trials, {size(own)} for the driver; this machine has {size(total)}")
    table.add_row("disk", f"about {size(disk)} of checkpoints, pictures and figures; {size(free)} are free")
    return Group(_title("estimate"), table)


def _ends(found: Sequence[Rehearsal]) -> tuple[float, float]:
    """Shortest and longest; NaN stays, for a trial whose time is not known."""
    seconds = [one.seconds for one in found]
    unknown = [one for one in seconds if one != one]
    return (unknown[0], unknown[0]) if unknown else (min(seconds), max(seconds))


def _grid(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(headings), header_style="dim", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _title(text: str) -> Text:
    return Text(text, style="bold")


def _spaced(parts: Sequence[RenderableType]) -> Iterator[RenderableType]:
    for index, part in enumerate(parts):
        if index:
            yield Text()
        yield part


def _pairs(values: Mapping[str, Any]) -> str:
    texts = {key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in values.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items())


def _time(seconds: float) -> str:
    if seconds != seconds:
        return "unknown"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes < 120 else hours if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"
