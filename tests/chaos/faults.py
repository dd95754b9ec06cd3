"""Faults of a study's processes and files, each really injected at a moment that a seed decides.

A fault takes a study that was not started yet to its end, or to the next fault; what it sees on the way it asserts.
"""

import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from tests.chaos import invariants
from tests.chaos.study import Driver, Study, damage_line

POINTS = (
    "tests.chaos.trials:journal_write",
    "lsx.study.tracked.spool:_write_all",
    "alembic.ddl.impl:DefaultImpl.create_table",
    "lsx.study.tracked.spool:Spool.acknowledge",
    "lsx.study.tracked.spool:Spool.compact",
    "lsx.study.tracked.courier:Courier.deliver",
    "lsx.study.tracked.tracking:Tracker.renew_study",
    "lsx.study.tracked.tracking:Tracker.open_trial",
    "lsx.study.tracked.outbox:Outbox.open_trial",
    "lsx.study.tracked.outbox:Outbox.log",
    "lsx.study.tracked.outbox:Outbox.end",
    "lsx.study.search.ledger:Ledger._begin",
    "lsx.study.search.ledger:Ledger._seal",
    "lsx.study.search.ledger:Ledger.note",
    "lsx.study.search.ledger:Ledger.note_study",
    "lsx.study.search.ledger:Ledger.complete",
    "lsx.study.running.recorder:Recorder.report",
    "lsx.study.running.recorder:Recorder.checkpointed",
    "lsx.study.running.recorder:Recorder.started",
    "lsx.study.environment.places:Storage.fetch",
    "lsx.study.environment.places:Storage.sweep",
    "lsx.study.environment.folder:StudyFolder.note_surroundings",
    "lsx.study.shown.conclusion:_test",
    "lsx.study.shown.conclusion:_mark",
    "lsx.study.shown.conclusion:draw_front",
)
"""Where a driver is killed; those that write bytes can be torn."""
TORN = POINTS[:2]
FRESH = (
    "pathlib:Path.rename:1:after",
    "lsx.study.environment.folder:StudyFolder.set_aside:1:before",
    "lsx.study.environment.folder:StudyFolder.set_aside:1:after",
    "lsx.study.search.optunastore:open_study:1:after",
    "lsx.study.search.ledger:Ledger._enqueue_references:1:after",
    "lsx.study.running.driver:Driver._open_recorder:1:after",
)
"""Where one is killed that starts over, before it starts trials."""
HANDLED = "starting Ray"
"""What a driver says when its signal handlers are set."""
MEMORY = 1.5e9
"""Bytes that a trial may take, of those that are free, until the monitor kills it."""
DONE, USAGE_ERROR, INTERRUPTED = 0, 2, 130


@dataclass
class Round:
    """One study and what happens to it.

    Attributes:
        study: in its folder.
        chance: decides.
        told: what was injected, for people.
        failed: trials that must fail, and words of their reasons.
        comparable: whether the same must come out as without faults.
        dawdle: most seconds by which a fault comes later than what it waits for.
    """

    study: Study
    chance: random.Random
    told: list[str] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    comparable: bool = True
    dawdle: float = 2.0

    def tell(self, text: str) -> None:
        self.told.append(text)

    def wait_for_growth(self, driver: Driver, most: int = 60) -> bool:
        """Wait until the study has got some lines further, and some milliseconds; False: its driver has ended."""
        goal = self.study.size() + self.chance.randint(1, most)
        there = driver.until(lambda: self.study.size() >= goal)
        time.sleep(self.chance.choice((0.0, 0.0, self.chance.uniform(0, 1.0))))
        return there

    def wait_for_trials(self, driver: Driver) -> bool:
        """Wait until a trial of this driver has got to a random place; False: the driver has ended."""
        before = sum(self.study.starts(number) for number in range(self.study.planned))
        there = driver.until(lambda: sum(self.study.starts(number) for number in range(self.study.planned)) > before)
        time.sleep(self.chance.uniform(0, self.dawdle))
        return there and not driver.over


def kill(this: Round) -> None:
    """SIGKILL to the driver, several times."""
    for _ in range(this.chance.randint(4, 6)):
        kill_once(this)


def kill_once(this: Round) -> None:
    """SIGKILL: after some time, at some size of the files, at some place of the code, or in the conclusion."""
    chance, study = this.chance, this.study
    kind = chance.choice(("time", "size", "size", "place", "place", "place", "end"))
    if kind == "place":
        killed_at(this, _place(chance))
        return
    driver = study.start()
    if kind == "time":
        time.sleep(seconds := chance.uniform(0, 20))
        this.tell(f"kill after {seconds:.1f} s")
    elif kind == "size":
        this.wait_for_growth(driver)
        this.tell(f"kill at {study.size()} lines")
    else:
        wait_for_end(driver)
        time.sleep(chance.uniform(0, 1.5))
        this.tell("kill in the conclusion")
    driver.signal(signal.SIGKILL)
    _settle(this, driver)


def wait_for_end(driver: Driver) -> bool:
    """Wait for the conclusion; False: the driver has ended."""
    return driver.until(lambda: any(word in driver.output for word in ("testing trial", "writing results")))


def killed_at(this: Round, place: str) -> None:
    """SIGKILL at a place of the code, see :func:`tests.chaos.trials.arm`."""
    driver = this.study.start(CHAOS_KILL=place)
    status = driver.wait()
    assert status in (DONE, -signal.SIGKILL), f"exit status {status}: {driver.errors[-1500:]}"
    this.tell(f"kill at {place}" if status else f"({place} not reached)")
    _settle(this, driver)


def _place(chance: random.Random) -> str:
    point = chance.choice(POINTS)
    when = chance.choice(("before", "after", "torn", "torn") if point in TORN else ("before", "after"))
    return f"{point}:{chance.choice((1, 1, 2, 3, chance.randint(1, 40)))}:{when}"


def _settle(this: Round, driver: Driver) -> None:
    """The next driver starts at once, or when the processes of this one are gone."""
    driver.wait()
    if this.chance.random() < 0.5:
        left = driver.orphans(40)
        assert not left, f"after 40 s still alive: {left}"


def worker(this: Round) -> None:
    """SIGKILL to workers."""
    driver = this.study.start()
    for _ in range(this.chance.randint(1, 3)):
        if this.wait_for_trials(driver) and (there := this.study.workers()):
            victim = this.chance.choice(there)
            victim.kill()
            this.tell(f"kill of worker {victim.pid}")
    assert driver.wait() == DONE, driver.errors[-1500:]


def sigint(this: Round) -> None:
    """Ctrl-C, once or several times over the study."""
    for _ in range(this.chance.randint(1, 3)):
        stop_once(this, signal.SIGINT)


def sigterm(this: Round) -> None:
    """SIGTERM to the driver, once or several times over the study."""
    for _ in range(this.chance.randint(1, 3)):
        stop_once(this, signal.SIGTERM)


def stop_once(this: Round, number: int, moment: str = "") -> None:
    """A signal that asks for the end: at the ``start``, in the ``middle``, or in the ``end``; by chance by default."""
    driver = this.study.start()
    moment = moment or this.chance.choice(("start", "middle", "middle", "end"))
    if moment == "start":
        driver.until(lambda: HANDLED in driver.output)
        time.sleep(this.chance.uniform(0, 3 * this.dawdle))
    elif moment == "middle":
        this.wait_for_trials(driver)
    else:
        wait_for_end(driver)
        time.sleep(this.chance.uniform(0, 0.5))
    this.tell(f"signal {number} in the {moment}")
    driver.signal(number, group=number == signal.SIGINT)
    check_stopped(this, driver)


def check_stopped(this: Round, driver: Driver) -> None:
    """A driver that was asked to stop has left everything as it must."""
    status = driver.wait()
    if status == DONE:
        return
    assert status == INTERRUPTED, f"exit status {status}: {driver.errors[-1500:]}"
    assert not driver.errors, driver.errors[-1500:]
    assert "continue with: python tune.py --study fake.yaml" in driver.output, driver.output[-500:]
    for trial in this.study.trials():
        noted = [one for one in this.study.noted(trial.number) if one["at"] >= driver.began]
        if noted and not trial.state.is_finished():
            assert noted[-1].get("stopped"), f"trial {trial.number} was left without a checkpoint: {noted[-3:]}"
    wrong = invariants.interrupted(this.study)
    assert not wrong, "; ".join(wrong)
    left = driver.orphans(20)
    assert not left, f"after 20 s still alive: {left}"


def twice(this: Round) -> None:
    """A second signal, soon after the first."""
    number = this.chance.choice((signal.SIGINT, signal.SIGTERM))
    driver = this.study.start()
    this.wait_for_trials(driver)
    driver.signal(number, group=number == signal.SIGINT)
    time.sleep(this.chance.uniform(0, 1))
    driver.signal(number, group=number == signal.SIGINT)
    this.tell(f"signal {number} twice")
    status = driver.wait()
    assert status in (DONE, INTERRUPTED), f"exit status {status}: {driver.output[-300:]} {driver.errors[-1500:]}"
    left = driver.orphans(20)
    assert not left, f"after 20 s still alive: {left}"


def wrong(this: Round) -> None:
    """Trials that raise, die, hang for ever or come to nothing, all in one study."""
    numbers = this.chance.sample(range(this.study.planned), 4)
    kinds = ("raise", "nan", "hang", "die!")
    words = ("boom", "accuracy", "no sign of life", "")
    epochs = [this.chance.randint(1, 4) for _ in numbers]
    faults = " ".join(f"{n}@{e}={kind}" for n, e, kind in zip(numbers, epochs, kinds, strict=True))
    this.study.write(budget={**this.study.content["budget"], "attempts": 2, "stalled_after": 2})
    this.failed = {number: word for number, word in zip(numbers, words, strict=True) if word}
    this.failed[numbers[1]] = "is nan"
    this.comparable = False
    this.tell(faults)
    this.study.finish(CHAOS_FAULTS=faults)


def memory(this: Round) -> None:
    """A trial takes memory until Ray's monitor kills it; it is started again, and fails."""
    number = this.chance.randrange(this.study.planned)
    this.study.write(
        budget={**this.study.content["budget"], "attempts": 2},
        resources={"max_concurrent": 1},  # the monitor may choose any worker
    )
    this.failed, this.comparable = {number: "memory"}, False
    there = psutil.virtual_memory()
    threshold = (there.total - there.available + MEMORY) / there.total
    this.tell(f"trial {number} takes memory up to {threshold:.0%}")
    limits = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    this.study.finish(CHAOS_FAULTS=f"{number}@2=eat", **limits)
    assert this.study.starts(number) == 2, f"{this.study.starts(number)} starts of 2"


def second(this: Round) -> None:
    """Two drivers at once; then a third, while one runs."""
    drivers = [this.study.start()]
    time.sleep(this.chance.choice((0.0, this.chance.uniform(0, 3))))
    drivers.append(this.study.start())
    this.tell("two drivers")
    late: Callable[[], bool] = lambda: any(one.over for one in drivers)  # noqa: E731
    drivers[0].until(late)
    loser = next((one for one in drivers if one.over), drivers[1])
    winner = drivers[1 - drivers.index(loser)]
    check_refused(loser, winner)
    assert winner.wait() == DONE, winner.errors[-1500:]


def check_refused(loser: Driver, winner: Driver) -> None:
    """Another driver runs the study: said in one line, which names it."""
    assert loser.wait() == USAGE_ERROR, f"{loser.output[-300:]} {loser.errors[-1500:]}"
    assert loser.errors.count("\n") == 1, loser.errors[-1500:]
    assert f"process {winner.pid} on {socket.gethostname()}" in loser.errors, loser.errors


def tail(this: Round) -> None:
    """Damage at the journal's end, after a kill."""
    driver = this.study.start()
    this.wait_for_growth(driver)
    driver.signal(signal.SIGKILL)
    driver.wait()
    damage_tail(this)
    resumed = this.study.finish()
    check_repaired(this, resumed)


def damage_tail(this: Round) -> None:
    """Append what a crash of the machine may leave."""
    kind = this.chance.choice(("bytes", "half a line", "zeros"))
    lines = this.study.journal.read_bytes().splitlines()
    damage = {
        "bytes": b"\xff" + this.chance.randbytes(300),
        "half a line": this.chance.choice(lines)[:-7] if lines else b"{",
        "zeros": bytes(4096),
    }[kind]
    with this.study.journal.open("ab") as file:
        file.write(damage)
    this.tell(f"{kind} at the journal's end")


def check_repaired(this: Round, driver: Driver) -> None:
    """The notice says where the cut-off part lies."""
    name = damage_line(driver.output)
    assert name is not None, driver.output[-1500:]
    assert list(this.study.folder.glob("journal.log.damaged-*")), "nothing was kept"


def middle(this: Round) -> None:
    """Damage in the middle of the journal: refused, and nothing changed."""
    driver = this.study.start()
    this.wait_for_trials(driver)
    driver.signal(signal.SIGKILL)
    driver.wait()
    driver.orphans(40)
    sound = this.study.journal.read_bytes()
    lines = sound.splitlines(keepends=True)
    at = this.chance.randrange(len(lines) - 1)
    this.study.journal.write_bytes(b"".join([*lines[:at], lines[at][: len(lines[at]) // 2] + b"\n", *lines[at + 1 :]]))
    this.tell(f"line {at + 1} of {len(lines)} damaged")
    refused(this, f"line {at + 1}")
    this.study.journal.write_bytes(sound)
    this.study.finish()


def refused(this: Round, words: str) -> None:
    """The study is not run, which one line says, and its folder stays as it is."""
    (this.study.folder / "lock").write_bytes(b"")  # what a killed driver said of itself
    before = this.study.bytes()
    driver = this.study.start()
    assert driver.wait() == USAGE_ERROR, driver.errors[-1500:]
    assert driver.errors.count("\n") == 1, driver.errors[-1500:]
    assert words in driver.errors, driver.errors
    after = this.study.bytes()
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    assert not changed, f"changed: {changed}"


def stopped_and_edited(this: Round) -> None:
    """As :func:`edit`, in the middle of a study."""
    stop_once(this, signal.SIGTERM, "middle")
    edit(this)


def edit(this: Round) -> None:
    """Bounds, scheduler, budget and reference trials change between two runs, which is noted."""
    content = this.study.content
    late = {"loss.lambda_e": 3.0}
    weight = {"type": "float", "low": 0.5, "high": 50.0, "log": True}
    this.study.write(
        space={**content["space"], "loss.lambda_e": weight},
        scheduler={"type": "median", "metric": "loss", "direction": "minimize", "grace_epochs": 4},
        budget={**content["budget"], "trials": 8},
        reference_trials={**content["reference_trials"], "late": {**content["reference_trials"]["published"], **late}},
    )
    this.comparable = False
    this.tell("compatible edit")
    driver = this.study.finish()
    assert "the study was edited since it last ran" in driver.output, driver.output[-1500:]
    tag = invariants.tag(this.study, "lsx.edits")
    for word in ("loss.lambda_e", "scheduler.type", "reference_trials.late"):
        assert word in driver.output, driver.output[-1500:]
        assert word in tag, tag


def refused_edit(this: Round) -> None:
    """A changed objective or setting is refused with the difference; nothing is changed on disk."""
    driver = this.study.start()
    this.wait_for_trials(driver)
    driver.signal(signal.SIGKILL)
    driver.wait()
    driver.orphans(40)
    before = dict(this.study.content)
    flipped = [{"metric": "accuracy", "direction": "minimize"}, before["objectives"][1]]
    change, words = this.chance.choice(
        (
            ({"objectives": flipped}, "objectives: "),
            ({"settings": {**before["settings"], "pretrain.learning_rate": 0.5}}, "settings.pretrain.learning_rate"),
        )
    )
    this.study.write(**change)
    this.tell(f"edit of {next(iter(change))}")
    refused(this, words)
    this.study.write(**before)
    this.study.finish()


def fresh(this: Round) -> None:
    """Start over, killed in the middle of it."""
    driver = this.study.start()
    this.wait_for_trials(driver)
    driver.signal(signal.SIGKILL)
    driver.wait()
    identity = this.study.identity
    killed = this.study.start("--fresh", CHAOS_KILL=(place := this.chance.choice(FRESH)))
    assert killed.wait() == -signal.SIGKILL, killed.errors[-1500:]
    this.tell(f"--fresh killed at {place}")
    if this.study.identity != identity:
        this.study.forget()
    if this.chance.random() < 0.5:
        this.study.forget()
        this.study.finish("--fresh")
    else:
        this.study.finish()


def mix(this: Round) -> None:
    """Everything that leaves the same results, in any order."""
    for _ in range(this.chance.randint(3, 6)):
        what = this.chance.choice(("kill", "kill", "stop", "worker", "tail"))
        if what == "kill":
            kill_once(this)
        elif what == "stop":
            stop_once(this, this.chance.choice((signal.SIGINT, signal.SIGTERM)))
        elif what == "tail" and this.study.journal.exists():
            damage_tail(this)
        elif what == "worker":
            driver = this.study.start()
            if this.wait_for_trials(driver) and (there := this.study.workers()):
                this.chance.choice(there).kill()
                time.sleep(this.chance.uniform(0, 3))
            this.tell("kill of a worker, then of the driver")
            driver.signal(signal.SIGKILL)
            _settle(this, driver)


FAULTS: dict[str, Callable[[Round], None]] = {
    "kill": kill,
    "worker": worker,
    "sigint": sigint,
    "sigterm": sigterm,
    "twice": twice,
    "wrong": wrong,
    "memory": memory,
    "second": second,
    "tail": tail,
    "middle": middle,
    "edit": stopped_and_edited,
    "refused-edit": refused_edit,
    "fresh": fresh,
    "mix": mix,
}
