"""One run of one study: Ray Tune runs the trials, the storage remembers them, the outbox tells MLflow."""

import os
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from ray import tune

from lsx.data.pool import Pool
from lsx.data.shared import Key
from lsx.errors import LSXError, StudyError
from lsx.study.declared.spec import StudySpec
from lsx.study.environment.credentials import redacted
from lsx.study.environment.folder import StudyFolder
from lsx.study.environment.places import Storage
from lsx.study.running import cluster, packing
from lsx.study.running.inspection import Inspection
from lsx.study.running.interruption import signals_kept
from lsx.study.running.recorder import Recorder
from lsx.study.running.searcher import Recording, Searcher
from lsx.study.running.watch import Halt, Watch
from lsx.study.search import schedulers
from lsx.study.search.ledger import Ledger
from lsx.study.search.patience import patience
from lsx.study.shown import conclusion
from lsx.study.shown.display import Display
from lsx.study.shown.snapshot import Snapshot
from lsx.study.tracked.outbox import Outbox
from lsx.study.tracked.stores import ui_line
from lsx.study.tracked.tracking import Ending, Tracker
from lsx.study.worker import shipping, stopping
from lsx.yamlfile import dump_plain

FRAMES_A_SECOND = 4
SECONDS_BETWEEN_NOTES = 60.0
"""Of the time that was used: a driver that is killed has not counted at most this much."""
SECONDS_FOR_OUTBOX = 60.0
"""For which the end of a study waits for a tracking server that is away; what it does not take stays on disk.

LSX_OUTBOX_PATIENCE says otherwise.
"""


@dataclass
class Surroundings:
    """What a driver works with.

    Attributes:
        spec, folder, ledger, storage: the study, its folder (locked), its record, its checkpoints.
        uri: of MLflow.
        address: of the Ray cluster; None for a Ray of its own.
        watch, display: of the loop.
        trainable: runs one assignment.
        provenance: where the data comes from.
        pools: the data, to be shipped.
        command: what continues the study in a shell.
        time_budget: seconds of running, over all drivers; None: no end.
    """

    spec: StudySpec
    folder: StudyFolder
    ledger: Ledger
    storage: Storage
    uri: str
    address: str | None
    watch: Watch
    display: Display
    trainable: Callable[[Mapping[str, Any]], None]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    pools: Mapping[Key, Pool] = field(default_factory=dict)
    command: str | None = None
    time_budget: float | None = None


class Driver:
    """Runs what is left of a study, and concludes it.

    Attributes:
        recorder: once MLflow is open.
        begun: whether trials may have run.
        started: trials that this run started or continued.
    """

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.recorder: Recorder | None = None
        self.begun = False
        self.started = 0
        self._patience = patience("LSX_OUTBOX_PATIENCE", SECONDS_FOR_OUTBOX)
        self._shown = 0.0
        self._inspect: Callable[[], None] = lambda: None
        self._waiting: Callable[[], bool] = lambda: False
        self._began, self._before = time.monotonic(), around.ledger.seconds_used
        self._noted = self._before

    def search(self) -> None:
        """Run all trials that are left, until none is, or until the study must stop (:class:`Halt`)."""
        around = self.around
        source = around.provenance.get("description")
        ray = "starting Ray" if around.address is None else f"joining the Ray cluster at {around.address}"
        self.say(f"{source}; {ray} and MLflow" if source else f"{ray} and MLflow")
        with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
            # A new SQLite store takes seconds, as Ray does.
            opening = pool.submit(self._open_recorder)
            try:
                ready = cluster.started(around.address, shipping.bytes_of(around.pools))
                stack.enter_context(signals_kept(ready))
            finally:
                self.recorder = opening.result()
            around.storage.check()
            self._inspect = inspection = Inspection(around.storage, around.trainable)
            inspection.settle()
            around.storage.sweep(self.recorder.kept)
            around.watch.check()
            known = around.ledger.resumed
            orphans = len(around.ledger.orphans)
            try:
                self._tune(self.recorder)
            finally:
                self._waiting = lambda: False  # Ray ends here, and is not to be asked any more
                with suppress(LSXError):
                    trials = around.ledger.study.get_trials(deepcopy=False)
                    self.started = max(orphans, sum(trial.state.is_finished() for trial in trials) - known)

    def conclude(self, ending: Ending = "FINISHED") -> Any:
        """Test, choose, draw; returns what to show a person."""
        self.recorder = recorder = self.recorder or self._open_recorder()
        self.begun = True
        self.around.display.update(recorder.snapshot())
        shown = redacted(self.around.uri)
        report = conclusion.conclude(
            recorder, self.say, self.around.watch.check, shown, ui_line(shown), self.around.command, ending
        )
        if ending == "FINISHED":
            self.around.storage.sweep()
        return report

    def interrupt(self) -> None:
        """Mark what was running; where that cannot be written, leave word to the next driver."""
        if self.recorder is not None:
            try:
                self.recorder.interrupt()
            except LSXError:
                self.around.folder.owing = True

    def close(self) -> int:
        """Note the time, deliver what MLflow has not got yet; returns how many entries wait on disk."""
        if self.recorder is None:
            return 0
        with suppress(LSXError):
            self._note_time()
        outbox = self.recorder.outbox
        if outbox.waiting:
            self.say(f"telling MLflow the rest, {outbox.waiting} entries")
            self._deliver(outbox)
        outbox.close()
        return outbox.waiting

    def _deliver(self, outbox: Outbox) -> None:
        """Wait for a server that is away, and as long as it takes for one that is slow; a signal ends it."""
        watch = self.around.watch
        if watch.reason is not None:
            outbox.flush(self._patience / 6, self._show)
            return

        def tick() -> None:
            self._show()
            if watch.reason is not None:
                raise Halt

        with suppress(Halt):
            before = outbox.waiting + 1
            while outbox.waiting < before:
                before = outbox.waiting
                outbox.flush(self._patience, tick)

    def say(self, message: str) -> None:
        """Show what is happening."""
        around = self.around
        if self.recorder is not None:
            around.display.update(self.recorder.snapshot(message))
        else:
            around.display.update(
                Snapshot(around.spec.study_name, around.ledger.planned, resumed=around.ledger.resumed, message=message)
            )

    def _tune(self, recorder: Recorder) -> None:
        around, spec = self.around, self.around.spec
        shipped = shipping.ship(around.pools)
        wanted = cluster.request(spec.resources, self._gpus(shipped))
        limit = cluster.Slots(wanted, spec.resources.max_concurrent)
        self._waiting = lambda: limit.none
        trainable = shipping.carrying(around.trainable, shipped)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000"  # the searcher itself keeps to what there is
        try:
            tuner = self._tuner(recorder, trainable, wanted, limit)
            self.begun = True
            tuner.fit()
        except OSError as error:  # Tune's own files: a disk without room
            where = f"{redacted(around.storage.root)!r} or Ray's temporary folder"
            raise StudyError(f"Ray Tune cannot write below {where}: {error}") from error
        around.watch.check()

    def _tuner(
        self, recorder: Recorder, trainable: shipping.Trainable, wanted: Mapping[str, float], limit: cluster.Slots
    ) -> tune.Tuner:
        around, spec = self.around, self.around.spec
        key = uuid.uuid4().hex
        extras = {"stop": key}
        return tune.Tuner(
            tune.with_resources(trainable, cluster.placement(wanted)),
            tune_config=tune.TuneConfig(
                search_alg=Searcher(recorder, around.watch, limit, extras),
                scheduler=schedulers.build(spec.scheduler, spec.longest, around.ledger.guards()),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
                storage_path=around.storage.root,
                callbacks=[Recording(recorder, around.watch, self._between, lambda: stopping.ask(key))],
                failure_config=tune.FailureConfig(max_failures=spec.budget.attempts - 1),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                verbose=0,
            ),
        )

    def _gpus(self, shipped: shipping.Shipped | None) -> float:
        """A trial's share of a GPU, where the study leaves it open."""
        resources = self.around.spec.resources
        if resources.gpus_per_trial != "auto" or not any(node.get("GPU") for node in cluster.resources_there()):
            return 0.0
        self.say("measuring what a trial takes of a GPU")
        return packing.measure_in_ray(self.around.spec, shipped=shipped).share

    def _open_recorder(self) -> Recorder:
        around, spec = self.around, self.around.spec
        tracker = Tracker(around.uri, spec.study_name, around.ledger.identity, around.folder.path)
        trials = around.ledger.study.get_trials(deepcopy=False)
        runs = {trial.number: trial.user_attrs["run_id"] for trial in trials if "run_id" in trial.user_attrs}
        tracker.open_study(spec.study_name, self._tags(), set(runs.values()))
        outbox = Outbox(around.folder.outbox, tracker, runs)
        file = around.folder.path / "study.yaml"
        file.write_text(dump_plain(spec.plain()))
        outbox.attach(None, file)
        outbox.start()
        decisions = schedulers.positions(spec.scheduler, spec.longest)
        return Recorder(around.ledger, outbox, around.folder, around.storage, decisions, around.uri, around.provenance)

    def _tags(self) -> dict[str, str]:
        spec, provenance = self.around.spec, self.around.provenance
        tags = {"lsx.question": spec.question, "mlflow.note.content": spec.notes or spec.question}
        names = {"lsx.data": "description", "lsx.data_sha256": "sha256"}
        tags |= {tag: str(provenance[name]) for tag, name in names.items() if name in provenance}
        edits = self.around.ledger.study.user_attrs.get("edits", [])
        if edits:
            tags["lsx.edits"] = "; ".join(change for edit in edits for change in edit["changes"])[:5000]
        return tags

    def _between(self) -> None:
        """Between two steps of Tune's loop."""
        budget = self.around.time_budget
        if budget is not None and self.around.watch.reason is None and self._spent() >= budget:
            self.around.watch.stop("time")
        if self._spent() - self._noted >= SECONDS_BETWEEN_NOTES:
            self._note_time()
        self._inspect()
        self._show()

    def _spent(self) -> float:
        """Seconds for which drivers have run this study, this one included."""
        return self._before + time.monotonic() - self._began

    def _note_time(self) -> None:
        self._noted = self._spent()
        self.around.ledger.note_study(seconds_used=self._noted)

    def _show(self) -> None:
        now = time.monotonic()
        if self.recorder is not None and now - self._shown > 1 / FRAMES_A_SECOND:
            self._shown = now
            message = ""
            if self.around.watch.reason is not None and self.around.watch.live:
                message = "stopping: trials write their checkpoints"
            elif self.around.watch.live and self._waiting():
                message = "no node has room for a trial; waiting for one that has"
            self.around.display.update(self.recorder.snapshot(message))
