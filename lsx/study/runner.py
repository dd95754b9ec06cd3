"""A study from its file to its end: Ray Tune runs the trials, the journal remembers them, MLflow shows them."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lsx.errors import LSXError, StudyError
from lsx.study import quiet
from lsx.study.checks import preflight
from lsx.study.display import Display
from lsx.study.folder import StudyFolder
from lsx.study.snapshot import Snapshot
from lsx.study.spec import StudySpec
from lsx.yamlfile import dump_plain

quiet.prepare()

from ray import tune  # noqa: E402

from lsx.study import cluster, conclusion  # noqa: E402
from lsx.study.ledger import Ledger  # noqa: E402
from lsx.study.recorder import Recorder  # noqa: E402
from lsx.study.searcher import Halt, Halving, Recording, Searcher, Watch, rungs  # noqa: E402
from lsx.study.tracking import Tracker, default_uri, refuse, ui_line  # noqa: E402
from lsx.study.trial import run_trial  # noqa: E402

quiet.hush()

FRAMES_A_SECOND = 4
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class StudyResult:
    """What came of a run.

    Attributes:
        status: ``complete``: no trial of the budget is left; ``interrupted``: the same call continues.
        folder: the study's folder.
        tracking_uri: where MLflow has it.
        finished, planned: trials.
        started: trials that this run started or continued.
        report: what to show a person at the end (a rich renderable); None when interrupted.
        aside: where ``fresh`` moved an earlier study of this name.
    """

    status: Literal["complete", "interrupted"]
    folder: Path
    tracking_uri: str
    finished: int
    planned: int
    started: int
    report: Any = None
    aside: Path | None = None


def run(
    spec: StudySpec,
    *,
    folder: str | Path = "lsx-studies",
    tracking_uri: str | None = None,
    trials: int | None = None,
    max_concurrent: int | None = None,
    gpus_per_trial: float | None = None,
    fresh: bool = False,
    display: Display | None = None,
    trainable: Callable[[Mapping[str, Any]], None] | None = None,
    command: str | None = None,
) -> StudyResult:
    """Run a study, or continue it: the journal in its folder knows how far it is.

    Args:
        spec: the study.
        folder: of all studies.
        tracking_uri: of MLflow; a SQLite file in the working folder by default.
        trials, max_concurrent, gpus_per_trial: instead of the study's own.
        fresh: set an earlier study of this name aside, and start over.
        display: where to show progress.
        trainable: what runs one assignment; :func:`lsx.study.trial.run_trial` by default.
        command: what continues the study in a shell, for the closing words; ``spec.command`` by default.

    Raises:
        StudyError: one line: what is wrong, and what to do.
    """
    changes = {"max_concurrent": max_concurrent, "gpus_per_trial": gpus_per_trial}
    changed = spec.resources.model_copy(update={key: value for key, value in changes.items() if value is not None})
    spec = spec.model_copy(update={"resources": changed})
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
    refuse(uri)
    place = StudyFolder(folder, spec.study_name)
    provenance, missing = _preflight(spec)
    if missing is not None and (fresh or not place.journal.exists()):
        raise missing
    with ExitStack() as stack:
        stack.enter_context(place)
        aside = stack.enter_context(_set_aside(place)) if fresh else None
        place.repair()
        ledger = Ledger(spec, place.journal, trials)
        if missing is not None and not ledger.exhausted:
            raise missing
        watch = Watch()
        stack.enter_context(signals(watch))
        driver = _Driver(
            spec, place, ledger, uri, watch, stack.enter_context(display or Display()), trainable or run_trial
        )
        driver.command, driver.provenance = command, provenance
        return driver.run(aside)


def _preflight(spec: StudySpec) -> tuple[Mapping[str, Any], StudyError | None]:
    """Where the data comes from, or what is missing: a study without trials left can do without."""
    try:
        return preflight(spec), None
    except StudyError as error:
        return {}, error


@contextmanager
def _set_aside(place: StudyFolder) -> Iterator[Path | None]:
    """An earlier study out of the way; every error says where it went."""
    aside = place.set_aside()
    try:
        yield aside
    except LSXError as error:
        if aside is None:
            raise
        raise StudyError(f"{error}; the earlier study lies in {aside}") from error


class _Driver:
    """One run of one study."""

    def __init__(
        self,
        spec: StudySpec,
        folder: StudyFolder,
        ledger: Ledger,
        uri: str,
        watch: Watch,
        display: Display,
        trainable: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.spec, self.folder, self.ledger, self.uri = spec, folder, ledger, uri
        self.watch, self.display, self.trainable = watch, display, trainable
        self.recorder: Recorder | None = None
        self.command: str | None = None
        self.provenance: Mapping[str, Any] = {}
        self._shown = 0.0

    def run(self, aside: Path | None) -> StudyResult:
        """To the end, or to the interruption."""
        started = 0
        try:
            if not self.ledger.exhausted:
                started = self._search()
            report = self._conclude()
        except (Halt, KeyboardInterrupt):
            self._interrupt()
            if isinstance(fault := self.watch.fault, LSXError):
                raise StudyError(f"{fault}; nothing is lost: the same command continues the study") from fault
            if fault is not None:
                raise fault from None
            return self._result("interrupted", started, None, aside)
        except BaseException:
            self._interrupt()
            raise
        return self._result("complete", started, report, aside)

    def _search(self) -> int:
        """Run all trials that are left; returns how many were started."""
        source = self.provenance.get("description")
        self._say(f"{source}; starting Ray and MLflow" if source else "starting Ray and MLflow")
        with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
            # A new SQLite store takes seconds, as Ray does.
            opening = pool.submit(self._track)
            try:
                stack.enter_context(signals_kept(cluster.started()))
            finally:
                self.recorder = opening.result()
            self.recorder.rescue()
            self.watch.check()
            before = len(self.ledger.orphans)
            known = self.ledger.resumed
            self._tune(self.recorder)
            trials = self.ledger.study.get_trials(deepcopy=False)
            return max(before, sum(trial.state.is_finished() for trial in trials) - known)

    def _tune(self, recorder: Recorder) -> None:
        wanted = cluster.request(self.spec.resources)
        tuner = tune.Tuner(
            tune.with_resources(self.trainable, wanted),
            tune_config=tune.TuneConfig(
                search_alg=Searcher(recorder, self.watch),
                scheduler=self._scheduler(),
                num_samples=-1,
                max_concurrent_trials=cluster.slots(wanted, self.spec.resources.max_concurrent),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
                storage_path=str(self.folder.ray),
                callbacks=[Recording(recorder, self.watch, self._show)],
                failure_config=tune.FailureConfig(max_failures=self.spec.budget.attempts - 1),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                verbose=0,
            ),
        )
        tuner.fit()
        self.watch.check()

    def _scheduler(self) -> Halving | None:
        if not rungs(self.spec.scheduler, self.spec.longest):
            return None
        return Halving(self.spec.scheduler, self.spec.longest, self.ledger.guards())

    def _track(self) -> Recorder:
        tracker = Tracker(self.uri, self.spec.study_name, self.ledger.identity, self.folder.path)
        trials = self.ledger.study.get_trials(deepcopy=False)
        tags = {"lsx.question": self.spec.question, "mlflow.note.content": self.spec.notes or self.spec.question}
        names = {"lsx.data": "description", "lsx.data_sha256": "sha256"}
        tags |= {tag: str(self.provenance[name]) for tag, name in names.items() if name in self.provenance}
        tracker.open_study(self.spec.study_name, tags, {trial.user_attrs.get("run_id", "") for trial in trials})
        file = self.folder.path / "study.yaml"
        file.write_text(dump_plain(self.spec.plain()))
        tracker.attach(tracker.parent, file)
        return Recorder(self.ledger, tracker, self.folder, rungs(self.spec.scheduler, self.spec.longest))

    def _conclude(self) -> Any:
        self.recorder = self.recorder or self._track()
        self.display.update(self.recorder.snapshot())
        report = conclusion.conclude(self.recorder, self._say, self.watch.check, ui_line(self.uri), self.command)
        self.folder.discard_scratch()
        return report

    def _interrupt(self) -> None:
        if self.recorder is not None:
            with suppress(LSXError):  # the server may be what is gone; the next start mends the states there
                self.recorder.interrupt()

    def _result(self, status: Any, started: int, report: Any, aside: Path | None) -> StudyResult:
        finished = sum(trial.state.is_finished() for trial in self.ledger.study.get_trials(deepcopy=False))
        return StudyResult(
            status, self.folder.path, self.uri, finished, self.ledger.planned, started, report=report, aside=aside
        )

    def _show(self) -> None:
        now = time.monotonic()
        if self.recorder is not None and now - self._shown > 1 / FRAMES_A_SECOND:
            self._shown = now
            self.display.update(self.recorder.snapshot())

    def _say(self, message: str) -> None:
        if self.recorder is not None:
            self.display.update(self.recorder.snapshot(message))
        else:
            self.display.update(
                Snapshot(self.spec.study_name, self.ledger.planned, resumed=self.ledger.resumed, message=message)
            )


@contextmanager
def signals(watch: Watch) -> Iterator[None]:
    """Interruptions end the loop at its next safe point; the second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, _: Any) -> None:
        watch.signal = number
        for other, handler in before.items():
            signal.signal(other, handler)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_kept(context: Any) -> Iterator[None]:
    """Enter a context (Ray's) that sets signal handlers of its own, and put back those before."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with context:
        if main:
            for number, handler in before.items():
                signal.signal(number, handler)
        yield
