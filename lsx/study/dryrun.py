"""``tune.py --dry-run``: everything that a study needs is tried, what it takes is measured, and nothing is started."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psutil
import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lsx import data
from lsx.config import Config, flatten, nest
from lsx.errors import LSXError, StudyError
from lsx.study import declaration, packing, quiet, stores
from lsx.study.checks import preflight
from lsx.study.credentials import redacted
from lsx.study.folder import StudyFolder
from lsx.study.packing import Machines
from lsx.study.rehearsal import Rehearsal, rehearse
from lsx.study.space import Dimension
from lsx.study.spec import StudySpec

ARROWS = {"maximize": "↑", "minimize": "↓"}
SUGGESTIONS = 3
LOCK_SECONDS = 2.0
CONNECT_SECONDS = 5
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
    sound = checks.make("study", lambda: _study(spec))
    checks.make("tracking", lambda: _tracking(uri))
    checks.make("storage", lambda: _storage(str(storage or place.path)))
    trials: list[Any] = []
    checks.make("optuna", lambda: _known(spec, place.journal, optuna_storage, trials))
    there: list[Machines] = []
    checks.make("machines", lambda: _machines(spec, address, there))
    parts: list[RenderableType] = [checks.table(), _space(spec), _aims(spec)]
    if sound:
        parts.append(_suggestions(spec, trials))
        costs = _rehearsals(spec, checks)
        at_once = slots or _slots(spec, there, costs)
        done = sum(one.state.is_finished() for one in trials)
        free = shutil.disk_usage(_standing(place.path)).free
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


def _study(spec: StudySpec) -> str:
    description = preflight(spec).get("description")
    return f"{spec.study_name}: {description}" if description else spec.study_name


def _tracking(uri: str) -> str:
    stores.refuse(uri)
    shown, scheme = redacted(uri), urlsplit(uri).scheme
    if uri.startswith("sqlite:"):
        return f"{shown}: {_sqlite(Path(uri.removeprefix('sqlite:///').partition('?')[0]))}"
    if scheme in ("", "file"):
        raise StudyError(f"MLflow at {shown!r} cannot be used: it keeps no runs in folders; name sqlite:///mlflow.db")
    if scheme not in ("http", "https", "databricks"):
        _connect(uri)
        return f"{shown}: the database answers"
    quiet.prepare()
    from mlflow import MlflowClient

    from lsx.study.tracking import explained

    with explained(uri):
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    return f"{shown}: the server answers"


def _sqlite(path: Path) -> str:
    """What is there, without making it."""
    if not path.exists():
        _writable(path.parent)
        return "will be made"
    if not path.is_file() or _head(path) not in (b"", b"SQLite format 3\0"):
        raise StudyError(f"{str(path)!r} is no SQLite database; name a file that is one, or that is not there")
    if not os.access(path, os.W_OK):
        raise StudyError(f"SQLite database {str(path)!r} is read-only; it must be writable")
    _writable(path.parent)
    try:
        name = f"file:{quote(str(path.absolute()))}?mode=rw"
        with closing(sqlite3.connect(name, uri=True, timeout=LOCK_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.Error as error:
        raise StudyError(f"SQLite database {str(path)!r} takes no writes: {error}") from None
    return "is there, and takes writes"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _storage(root: str) -> str:
    from lsx.study.places import _opened

    files, path = _opened(root)
    if files.type_name == "local":
        nearest = _writable(Path(path))
        state = "is there" if Path(path).exists() else "will be made"
        return f"{redacted(root)}: {state}, {_size(shutil.disk_usage(nearest).free)} free"
    bucket = path.partition("/")[0]
    try:
        missing = files.get_file_info(bucket).type.name == "NotFound"
    except Exception as error:  # pyarrow's clients raise many types
        raise StudyError(f"storage {redacted(root)!r} cannot be reached: {redacted(_line(error))}") from None
    if missing:
        raise StudyError(f"storage {redacted(root)!r} cannot be used: there is no bucket {bucket!r}")
    return f"{redacted(root)}: the bucket is there; whether it takes writes is tried at the start"


def _writable(folder: Path) -> Path:
    """The folder, or the nearest above it that is there; refused when nothing can be made in it."""
    nearest = _standing(folder)
    if not nearest.is_dir():
        raise StudyError(f"folder {str(folder)!r} cannot be made: {str(nearest)!r} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StudyError(f"folder {str(nearest)!r} is read-only; it must be writable")
    return nearest


def _standing(path: Path) -> Path:
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())


def _known(spec: StudySpec, journal: Path, url: str | None, trials: list[Any]) -> str:
    """What the Optuna storage has of this study; its trials are added to ``trials``."""
    shown = str(journal) if url is None else redacted(url)
    if url is None:
        _writable(journal.parent)
    elif url.startswith("sqlite:///"):
        _sqlite(Path(url.removeprefix("sqlite:///").partition("?")[0]))
    empty = not journal.exists() if url is None else not _connect(url)
    if empty:
        return f"{shown}: a new study"
    quiet.prepare()
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from lsx.study.optunastore import _database

    try:
        opened: Any = JournalStorage(JournalFileBackend(str(journal))) if url is None else _database(url)
        study = optuna.load_study(study_name=spec.study_name, storage=opened)
    except KeyError:
        return f"{shown}: a new study"
    except Exception as error:  # every driver of a database raises its own types
        raise StudyError(f"study storage {shown!r} cannot be read: {redacted(_line(error))}") from None
    before, ours = study.user_attrs.get("fingerprint"), spec.fingerprint()
    if before is not None and not declaration.compatible(before, ours):
        changes = "; ".join(declaration.difference(before, ours))
        raise StudyError(f"study {spec.study_name!r} was started with other settings: {changes}")
    trials += study.get_trials(deepcopy=False)
    return f"{shown}: continues after {sum(one.state.is_finished() for one in trials)} finished trials"


def _connect(url: str) -> bool:
    """Reach a database; whether it has Optuna's tables. None are made."""
    import sqlalchemy

    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///").partition("?")[0]).exists():
        return False  # connecting would make it
    limited = url.startswith(("postgresql", "mysql"))
    try:
        engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": CONNECT_SECONDS} if limited else {})
        with engine.connect() as connection:
            found: bool = sqlalchemy.inspect(connection).has_table("studies")
        engine.dispose()
    except Exception as error:  # a driver that is not installed, and all that drivers raise
        raise StudyError(f"database {redacted(url)!r} cannot be reached: {redacted(_line(error))}") from None
    return found


def _machines(spec: StudySpec, address: str | None, there: list[Machines]) -> str:
    """What trials can run on; it is added to ``there``."""
    quiet.prepare()
    found = packing.machines(address)
    there.append(found)
    cpus, asked = spec.resources.cpus_per_trial, spec.resources.gpus_per_trial
    gpus = 0.0 if asked == "auto" else asked
    if not found.slots(cpus, gpus):
        raise StudyError(f"a trial needs {cpus:g} CPUs and {gpus:g} GPUs; no single node has both")
    where = f"{len(found.nodes)} nodes of the Ray cluster" if address else "this machine"
    return f"{where}: {found.total('CPU'):g} CPUs, {found.total('GPU'):g} GPUs"


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
    from lsx.study.proposer import Proposer

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
    table.add_row("memory", *(_size(one.resident_bytes) for one in found))
    if any(one.device != "cpu" for one in found):
        table.add_row("on the GPU", *(_size(one.peak_bytes) for one in found))
    table.add_row("checkpoint", *(_size(one.checkpoint_bytes) for one in found))
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
    table.add_row("memory", f"{_size(memory)} for trials, {_size(own)} for the driver; this machine has {_size(total)}")
    table.add_row("disk", f"about {_size(disk)} of checkpoints, pictures and figures; {_size(free)} are free")
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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


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


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
