"""A study from its file to its end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lsx.data.pool import Pool
from lsx.data.shared import Key, loaded, remembering
from lsx.errors import LSXError, StudyError
from lsx.study.declared.checks import preflight
from lsx.study.declared.sections import seconds
from lsx.study.declared.spec import StudySpec, load
from lsx.study.environment import quiet, refusal, whereabouts
from lsx.study.environment.credentials import redacted
from lsx.study.environment.folder import StudyFolder
from lsx.study.environment.places import Storage, joined
from lsx.study.running.interruption import signals
from lsx.study.running.watch import GRACE, Halt, Watch
from lsx.study.shown.display import Display

quiet.prepare()

from lsx.study.running import idle, snapshots  # noqa: E402
from lsx.study.running.driver import Driver, Surroundings  # noqa: E402
from lsx.study.search import optunastore  # noqa: E402
from lsx.study.search.ledger import Ledger  # noqa: E402
from lsx.study.worker.trial import run_trial  # noqa: E402

quiet.hush()

Status = Literal["complete", "interrupted", "time is up"]
NOTHING_LOST = "nothing is lost: the same command continues the study"


@dataclass(frozen=True)
class StudyResult:
    """What came of a run.

    Attributes:
        status: ``complete``: no trial of the budget is left; ``interrupted``: the same call continues; ``time is up``:
            the same call with a larger time budget does.
        folder: the study's folder.
        tracking_uri: where MLflow has it, without credentials.
        finished, planned: trials.
        started: trials that this run started or continued.
        report: what to show a person at the end (a rich renderable); None when interrupted.
        aside: where ``fresh`` moved an earlier study of this name.
        undelivered: entries that MLflow has not taken yet; they wait in the folder for the next call.
        notices: lines that a person should read: an edited study, a repaired journal.
    """

    status: Status
    folder: Path
    tracking_uri: str
    finished: int
    planned: int
    started: int
    report: Any = None
    aside: Path | None = None
    undelivered: int = 0
    notices: tuple[str, ...] = ()


def run(
    study: StudySpec | str | Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    folder: str | Path = "lsx-studies",
    tracking_uri: str | None = None,
    storage: str | None = None,
    optuna_storage: str | None = None,
    address: str | None = None,
    trials: int | None = None,
    time_budget: float | str | None = None,
    max_concurrent: int | None = None,
    gpus_per_trial: float | Literal["auto"] | None = None,
    fresh: bool = False,
    display: Display | None = None,
    trainable: Callable[[Mapping[str, Any]], None] | None = None,
    command: str | None = None,
    grace: float = GRACE,
) -> StudyResult:
    """Run a study, or continue it: its storage knows how far it is.

    Args:
        study: a study, or a name or path for :func:`lsx.study.load`.
        profile, overrides: see :func:`lsx.study.load`, where ``study`` is a name or a path.
        folder: of all studies.
        tracking_uri: of MLflow; where the study was tracked before, else a SQLite file in the working folder.
        storage: where checkpoints go, a shared folder or a bucket; the study's folder by default.
        optuna_storage: URL of a database; a journal in the study's folder by default.
        address: of a Ray cluster; RAY_ADDRESS, or a Ray of its own by default.
        trials, max_concurrent, gpus_per_trial: instead of the study's own.
        time_budget: seconds of running over all calls, or a text such as ``2h``; instead of the study's own.
        fresh: set an earlier study of this name aside, and start over.
        display: where to show progress.
        trainable: what runs one assignment; :func:`lsx.study.worker.trial.run_trial` by default.
        command: what continues the study in a shell, for the closing words; ``spec.command`` by default.
        grace: seconds for running trials to checkpoint when the study stops.

    Raises:
        StudyError: one line: what is wrong, and what to do.
    """
    spec = study if isinstance(study, StudySpec) else load(study, profile, overrides)
    spec = whereabouts.equipped(spec, max_concurrent=max_concurrent, gpus_per_trial=gpus_per_trial)
    budget = spec.budget.time if time_budget is None else _seconds(time_budget)
    place = StudyFolder(folder, spec.study_name)
    where = whereabouts.find(
        place, tracking_uri=tracking_uri, storage=storage, optuna_storage=optuna_storage, fresh=fresh
    )
    if not place.begun:
        refusal.refuse(spec, where, address)
    uri, database, root = where.tracking_uri, where.optuna_storage, where.storage
    if root is not None:
        Storage(root)  # refused before anything is made
    provenance, pools, missing = _preflight(spec)
    if missing is not None and (fresh or not place.begun):
        raise missing
    with _one_line(place), ExitStack() as stack:
        stack.enter_context(place)
        aside = stack.enter_context(_set_aside(place, spec, database)) if fresh else None
        damaged = place.repair()
        opened = optunastore.open_study(spec, place.journal, database)
        if database is not None:
            stack.enter_context(optunastore.Lease(opened))
        ledger = Ledger(spec, opened, trials)
        if missing is not None and not ledger.exhausted:
            raise missing
        if place.owing:
            ledger.forgive()
            place.owing = False
        watch = Watch(grace)
        stack.enter_context(signals(watch))
        own = place.ray if root is None else joined(root, f"{spec.study_name}-{ledger.identity[:12]}")
        around = Surroundings(
            spec=spec,
            folder=place,
            ledger=ledger,
            storage=Storage(own),
            uri=uri,
            address=address,
            watch=watch,
            display=stack.enter_context(display or Display()),
            trainable=trainable or run_trial,
            provenance=provenance,
            pools=pools,
            command=command,
            time_budget=budget,
        )
        place.note_surroundings(
            tracking_uri=redacted(uri),
            optuna_storage=None if database is None else redacted(database),
            storage=None if root is None else redacted(root),
            command=command or spec.command,
        )
        status, report, driver, undelivered = _drive(around)
    notices = _notices(ledger, damaged, driver)
    return StudyResult(
        status=status,
        folder=place.path,
        tracking_uri=redacted(uri),
        finished=sum(trial.state.is_finished() for trial in ledger.study.get_trials(deepcopy=False)),
        planned=ledger.planned,
        started=driver.started,
        report=report,
        aside=aside,
        undelivered=undelivered,
        notices=notices,
    )


def _drive(around: Surroundings) -> tuple[Status, Any, Driver, int]:
    """To the end, to the interruption, or until time is up."""
    snapshots.leave_out()
    idle.keep()
    driver, watch = Driver(around), around.watch
    status: Status = "complete"
    report = None
    try:
        try:
            if not around.ledger.exhausted and not _time_is_up(around):
                driver.search()
            status = "complete" if around.ledger.exhausted else "time is up"
            report = driver.conclude("FINISHED" if status == "complete" else "KILLED")
        except (Halt, KeyboardInterrupt):
            driver.interrupt()
            if watch.fault is not None:
                raise _ended(watch.fault, around.folder) from watch.fault.__cause__
            status = "interrupted"
            if watch.reason == "time":
                watch.rest()
                status = "complete" if around.ledger.done else "time is up"  # the last trial may just have made it
                report = driver.conclude("FINISHED" if status == "complete" else "KILLED")
        except Exception as error:
            driver.interrupt()
            if not driver.begun:
                raise
            raise _ended(watch.fault or error, around.folder) from error
        except BaseException:
            driver.interrupt()
            raise
    finally:
        undelivered = driver.close()
    return status, report, driver, undelivered


def _ended(fault: Exception, place: StudyFolder) -> Exception:
    """What the user or the surroundings did, in one line; a bug keeps its traceback."""
    if isinstance(fault, optunastore.GoneError):
        return fault  # that much is lost
    if isinstance(fault, OSError):
        return StudyError(f"{_explained(fault, place)}; {NOTHING_LOST}")
    return StudyError(f"{fault}; {NOTHING_LOST}") if isinstance(fault, LSXError) else fault


def _explained(error: OSError, place: StudyFolder) -> str:
    where = str(place.path) if error.filename is None else error.filename
    return f"study {place.name!r} cannot be run: {error.strerror or error}: {where!r}"


@contextmanager
def _one_line(place: StudyFolder) -> Iterator[None]:
    """A disk that is full or takes no writes is no bug."""
    try:
        yield
    except OSError as error:
        raise StudyError(_explained(error, place)) from error


def _time_is_up(around: Surroundings) -> bool:
    return around.time_budget is not None and around.ledger.seconds_used >= around.time_budget


def _notices(ledger: Ledger, damaged: Path | None, driver: Driver) -> tuple[str, ...]:
    lines = []
    if damaged is not None:
        lines.append(f"the journal's end was damaged; what was cut off lies in {damaged}")
    if ledger.edits:
        lines.append(f"the study was edited since it last ran: {'; '.join(ledger.edits)}")
    refused = driver.recorder.outbox.refused if driver.recorder is not None else 0
    if refused:
        lines.append(f"MLflow refused {refused} entries; they and the reasons are in outbox-refused.jsonl")
    return tuple(lines)


def _seconds(text: float | str) -> float:
    try:
        found = seconds(text)
    except ValueError as error:
        raise StudyError(f"time budget: {error}") from None
    assert isinstance(found, float)
    return found


def _preflight(spec: StudySpec) -> tuple[Mapping[str, Any], Mapping[Key, Pool], StudyError | None]:
    """Where the data comes from, and the data, or what is missing: a study without trials left can do without."""
    with remembering():
        try:
            return preflight(spec), loaded(), None
        except StudyError as error:
            return {}, {}, error


@contextmanager
def _set_aside(place: StudyFolder, spec: StudySpec, database: str | None) -> Iterator[Path | None]:
    """An earlier study out of the way; every error says where it went."""
    if database is not None:
        optunastore.refuse_running(database, spec.study_name)
    aside = place.set_aside()  # the first, for its outbox must not be taken for the new study's
    try:
        if database is not None:
            renamed = optunastore.set_aside(database, spec.study_name)
            if aside is not None and renamed is not None:
                StudyFolder(aside.parent, aside.name).note_surroundings(optuna_study=renamed)
        yield aside
    except LSXError as error:
        if aside is None:
            raise
        raise StudyError(f"{error}; the earlier study lies in {aside}") from error
