"""What becomes of trials, decision by decision: ledger, recorder, Tune's hooks. No Ray is started."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from lsx.config import Config
from lsx.errors import StudyError
from lsx.study.declared.spec import StudySpec
from lsx.study.environment import quiet
from lsx.study.running.watch import Halt, Watch
from tests.study import fakes

quiet.prepare()

from ray import cloudpickle  # noqa: E402

from lsx.study.environment.places import CHECKPOINT, PICTURE  # noqa: E402
from lsx.study.running.recorder import Recorder  # noqa: E402
from lsx.study.running.searcher import Recording, Searcher  # noqa: E402
from tests.study.drivers import FakeOutbox, begin, driver, keep, states  # noqa: E402


def test_references_come_first_and_nothing_is_sampled_for_them(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    first, second, third = (begin(recorder) for _ in range(3))
    assert [one["role"] for one in (first, second, third)] == ["baseline", "published", "search"]
    assert first["config"] == fakes.spec().configure({"stages": ["pretrain"]}).plain()
    published = fakes.CONTENT["reference_trials"]["published"]
    assert second["config"] == fakes.spec().configure(published).plain()
    assert recorder.ledger.trial(0).params == {}
    assert recorder.ledger.trial(1).params["loss.lambda_e"] == 10
    assert "loss.lambda_e" in recorder.ledger.trial(2).params


def test_budget_is_used_exactly_and_can_be_extended(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    for _ in range(6):
        recorder.finish((one := begin(recorder))["number"], fakes.final(one))
    assert recorder.begin() is None
    assert states(recorder) == ["COMPLETE"] * 6
    assert driver(tmp_path).ledger.exhausted
    longer = driver(tmp_path, trials=7)
    assert begin(longer)["number"] == 6
    assert longer.begin() is None


@pytest.mark.parametrize(
    ("result", "state", "ending", "reason"),
    [
        ({"final": {"accuracy": 0.5, "ridge": 0.5}}, "COMPLETE", "FINISHED", None),
        ({"final": {"accuracy": math.nan, "ridge": 0.5}}, "FAIL", "FAILED", "objective accuracy is nan"),
        ({"final": {"accuracy": 0.5, "ridge": math.inf}}, "FAIL", "FAILED", "objective ridge is inf"),
        ({"final": {"accuracy": 0.5}}, "FAIL", "FAILED", "objective ridge is nan"),
        ({"failed": "training diverged:\n loss nan"}, "FAIL", "FAILED", "training diverged: loss nan"),
        ({"position": 2, "done": True}, "PRUNED", "KILLED", "stopped by the scheduler after epoch 2, loss 0.5"),
        ({}, "PRUNED", "KILLED", "stopped by the scheduler after epoch 2, loss 0.5"),
    ],
)
def test_every_end_of_a_trial(
    tmp_path: Path, result: dict[str, Any], state: str, ending: str, reason: str | None
) -> None:
    recorder = driver(tmp_path, fakes.spec(scheduler={"type": "none", "metric": "loss", "direction": "minimize"}))
    outbox: Any = recorder.outbox
    number = begin(recorder)["number"]
    recorder.report(number, fakes.report(2))
    recorder.finish(number, result)
    trial = recorder.ledger.trial(number)
    assert (trial.state.name, outbox.states["run0"]) == (state, ending)
    assert trial.user_attrs.get("reason") == reason
    assert trial.values == ([0.5, 0.5] if state == "COMPLETE" else None)
    assert outbox.journal_at_end == [TrialState.RUNNING]  # MLflow first: a kill between the two loses nothing
    view = recorder.snapshot().trials[0]
    assert (view.status, view.reason) == ({"FAIL": "failed"}.get(state, state.lower()), reason)


def test_optuna_goes_on_after_pruned_trials(tmp_path: Path) -> None:
    # With an intermediate value in the journal, TPE raises on the next suggestion of a study of two objectives.
    recorder = driver(tmp_path, fakes.spec(sampler={"type": "tpe", "startup_trials": 1}), trials=9)
    for _ in range(9):
        one = begin(recorder)
        recorder.report(one["number"], fakes.report(1, guard=0.5))
        recorder.finish(one["number"], {} if one["number"] % 2 else fakes.final(one))
    assert set(states(recorder)) == {"COMPLETE", "PRUNED"}


def test_reports_reach_outbox_journal_and_display_once(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    outbox: Any = recorder.outbox
    number = begin(recorder)["number"]
    recorder.report(number, fakes.report(3, critic_loss_last_to_chance=0.9))
    recorder.report(number, fakes.report(4))
    for position in (4, 3):  # a worker lost after its report says it again
        recorder.report(number, fakes.report(position))
    losses = [(name, step) for name, _, step in outbox.metrics["run0"]]
    assert losses == [("joint/loss", 3), ("joint/critic_loss_last_to_chance", 3), ("finetune/loss", 4)]
    view = recorder.snapshot().trials[0]
    assert (view.stage, view.position, view.total) == ("finetune", 4, 4)
    recorder.finish(number, {"final": {"accuracy": 0.5, "ridge": 0.5}})
    assert recorder.ledger.trial(number).user_attrs["metrics"]["critic_loss_last_to_chance"] == 0.9


def test_killed_drivers_trials_are_taken_up_by_the_next(tmp_path: Path) -> None:
    before = driver(tmp_path)
    first, second = begin(before), begin(before)
    abandoned, kept = keep(before, first["number"], "1"), keep(before, second["number"], "03")
    before.ledger.note(first["number"], checkpoint="gone/long/ago")
    after = driver(tmp_path)
    assert after.ledger.orphans == (0, 1)
    after.storage.sweep(after.kept)
    again, resumed = begin(after), begin(after)
    assert again == first
    assert Path(resumed["checkpoint"], CHECKPOINT).read_text() == "03"
    assert Path(resumed["checkpoint"]) == kept
    assert {**resumed, "checkpoint": None} == second
    assert begin(after)["number"] == 2
    assert len(states(after)) == 3
    after.ledger.note(second["number"], checkpoint="gone/long/ago")
    after.storage.sweep(after.kept)
    assert not abandoned.exists() and not kept.exists()  # of no trial that goes on


def test_a_half_made_suggestion_is_completed(tmp_path: Path) -> None:
    before = driver(tmp_path)
    begin(before), begin(before)
    half = before.ledger.study.ask()
    weight = half.suggest_float("loss.lambda_e", 1.0, 100.0, log=True)
    after = driver(tmp_path)
    assignments = [begin(after) for _ in range(3)]
    assert assignments[2]["number"] == half.number
    assert assignments[2]["config"]["loss"]["lambda_e"] == weight
    params = after.ledger.trial(half.number).params
    assert {"loss.lambda_e", "critic.optimizer"} < params.keys()


def test_a_started_trial_keeps_its_configuration(tmp_path: Path) -> None:
    settings = fakes.CONTENT["settings"]
    first = begin(driver(tmp_path, fakes.spec(settings={**settings, "device": "cpu"})))
    after = driver(tmp_path, fakes.spec(settings={**settings, "device": "auto"}))  # what may change between two runs
    assert begin(after)["config"] == first["config"]
    assert begin(after)["config"]["device"] == "auto"


def test_too_many_starts_fail_a_trial_but_interruptions_do_not_count(tmp_path: Path) -> None:
    for _ in range(3):
        recorder = driver(tmp_path)
        begin(recorder)
        recorder.interrupt()
    outbox: Any = recorder.outbox
    assert outbox.states == {"parent": "KILLED", "run0": "KILLED"}
    for _ in range(2):  # and now killed, twice
        begin(driver(tmp_path))
    last = driver(tmp_path)
    assert begin(last)["number"] == 1
    assert last.ledger.trial(0).state == TrialState.FAIL
    assert last.ledger.trial(0).user_attrs["reason"].startswith("started 2 times without finishing")


def test_an_interruption_counts_for_no_trial_even_when_the_outbox_is_full(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    begin(recorder), begin(recorder)

    def full(*_: Any) -> None:
        raise StudyError("no space left on device")

    recorder.outbox.end = full  # type: ignore[method-assign, assignment]
    recorder.interrupt()
    assert [recorder.ledger.trial(number).user_attrs["attempts"] for number in (0, 1)] == [0, 0]


def test_a_storage_that_is_gone_at_the_end_leaves_word_to_the_next_driver(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    begin(recorder)

    def gone(*_: Any, **__: Any) -> None:
        raise StudyError("gone")

    recorder.ledger.note = gone  # type: ignore[method-assign]
    with pytest.raises(StudyError, match="gone"):
        recorder.interrupt()
    with recorder.folder:
        recorder.folder.owing = True
    after = driver(tmp_path)
    with after.folder:
        assert after.folder.owing
        after.ledger.forgive()
        after.folder.owing = False
    assert after.ledger.trial(0).user_attrs["attempts"] == 0
    with after.folder:
        assert not after.folder.owing


def test_a_trial_that_waited_for_its_worker_was_not_started(tmp_path: Path) -> None:
    begin(driver(tmp_path))  # and killed
    after = driver(tmp_path)
    assert after.begin() is not None
    after.interrupt()
    assert after.ledger.trial(0).user_attrs["attempts"] == 1


def test_a_restart_does_not_repeat_suggestions(tmp_path: Path) -> None:
    spec = fakes.spec(reference_trials={}, sampler={"type": "random"}, budget={"trials": 9, "attempts": 9})
    weights = [begin(driver(tmp_path, spec))["config"]["loss"]["lambda_e"] for _ in range(2)]
    assert weights[0] == weights[1]  # the second driver takes up the first one's trial
    third = driver(tmp_path, spec)
    assert [begin(third)["number"], (new := begin(third))["number"]] == [0, 1]
    assert new["config"]["loss"]["lambda_e"] != weights[0]


def test_another_declaration_is_refused(tmp_path: Path) -> None:
    driver(tmp_path)
    driver(tmp_path, fakes.spec(budget={"trials": 50}, notes="more"))
    with pytest.raises(StudyError, match=r"settings.joint.epochs: 1 became 3.*--fresh"):
        driver(tmp_path, fakes.spec(settings={**fakes.CONTENT["settings"], "joint.epochs": 3}))


def test_refused_configurations_fail_and_the_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = driver(tmp_path)
    begin(recorder), begin(recorder)
    real = StudySpec.configure

    def configure(self: StudySpec, values: Any) -> Config:
        monkeypatch.setattr(StudySpec, "configure", real)
        return Config.build({"seed": -1})

    monkeypatch.setattr(StudySpec, "configure", configure)
    assert begin(recorder)["number"] == 3
    assert recorder.ledger.trial(2).state == TrialState.FAIL
    assert "seed = -1" in recorder.ledger.trial(2).user_attrs["reason"]


def trial(number: int, role: str = "search", **more: Any) -> Any:
    metadata = SimpleNamespace(num_failures=0)
    config = {"number": number, "role": role}
    return SimpleNamespace(trial_id=f"t{number}", config=config, run_metadata=metadata, last_result={}, **more)


def test_guards_of_search_trials_are_replayed(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    for number in range(4):
        begin(recorder)
        recorder.report(number, fakes.report(2, guard=number / 10))
    recorder.fail(3, "lost")  # what it showed before still counts
    assert driver(tmp_path).ledger.guards() == {2: {2: 0.2}, 3: {2: 0.3}}


def hooks(recorder: Recorder, watch: Watch | None = None, limit: int = 9, **more: Any) -> tuple[Searcher, Recording]:
    watch = watch or Watch()
    return Searcher(recorder, watch, lambda: limit, {"stop": "key"}), Recording(recorder, watch, lambda: None, **more)


def test_hooks_translate(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    searcher, recording = hooks(recorder)
    assert searcher.metric is None
    assignment = searcher.suggest("t0")
    assert assignment["stop"] == "key"
    one = trial(assignment["number"], error_file=None)
    recording.on_trial_start(0, [], one)
    assert one.max_failures == 1  # of two starts, one is left
    recording.on_trial_result(0, [], one, {**fakes.report(1), "pid": 7})
    recording.on_checkpoint(0, [], one, SimpleNamespace(path=str(recorder.folder.ray / "c")))
    assert recorder.ledger.trial(0).user_attrs["checkpoint"] == "c"
    one.last_result = {**fakes.final(assignment), "done": True}
    recording.on_trial_complete(0, [], one)
    two = trial(searcher.suggest("t1")["number"], error_file=str(tmp_path / "error.txt"))
    (tmp_path / "error.txt").write_text("Failure # 1\nTraceback\n  line\nRuntimeError: boom\n\n")
    recording.on_trial_error(0, [], two)
    assert states(recorder) == ["COMPLETE", "FAIL"]
    assert recorder.ledger.trial(1).user_attrs["reason"] == "RuntimeError: boom"
    assert (recorder.folder.trial(1) / "error.txt").is_file()
    recording.on_step_end(0, [])  # nothing to stop for


def test_no_more_than_the_limit_and_the_end_only_when_none_is_out_there(tmp_path: Path) -> None:
    recorder, watch = driver(tmp_path, fakes.spec(space={}, reference_trials={}, budget={"trials": 1})), Watch()
    searcher, recording = hooks(recorder, watch, limit=1)
    first = searcher.suggest("t0")
    assert searcher.suggest("t1") is None  # no room
    searcher, recording = hooks(recorder, watch, limit=2)
    assert searcher.suggest("t1") is None  # none is left, but the first may come back
    one = trial(first["number"])
    one.last_result = {"out_of_memory": "of 2 GiB"}
    recording.on_trial_complete(0, [], one)
    assert (again := searcher.suggest("t2"))["number"] == first["number"] and again["alone"]
    one.last_result = fakes.final(first)
    recording.on_trial_complete(0, [], one)
    assert searcher.suggest("t3") == Searcher.FINISHED


def test_a_trial_out_of_memory_is_tried_once_more_alone(tmp_path: Path) -> None:
    recorder = driver(tmp_path, fakes.spec(budget={"trials": 6, "attempts": 1}))
    outbox: Any = recorder.outbox
    assert not begin(recorder)["alone"]
    recorder.finish(0, {"out_of_memory": "tried to allocate 2 GiB"})
    assert (states(recorder)[0], recorder.snapshot().trials[0].status) == ("RUNNING", "waiting")
    assert recorder.ledger.orphans == (0,) and not recorder.ledger.exhausted
    again = begin(recorder)  # although attempts is 1: the first start counts for nothing
    assert (again["number"], again["alone"]) == (0, True)
    recorder.finish(0, {"out_of_memory": "tried to allocate 2 GiB"})
    assert recorder.ledger.trial(0).state == TrialState.FAIL
    reason = "out of GPU memory, also alone on its card: tried to allocate 2 GiB"
    assert recorder.ledger.trial(0).user_attrs["reason"] == outbox.tags["run0"]["lsx.reason"] == reason
    assert begin(recorder)["number"] == 1


def test_a_trial_waiting_for_a_whole_card_waits_for_it_at_the_next_driver(tmp_path: Path) -> None:
    before = driver(tmp_path)
    begin(before)
    before.finish(0, {"out_of_memory": "tried to allocate 2 GiB"})
    before.interrupt()
    assert before.outbox.states["run0"] == "KILLED"  # type: ignore[attr-defined]
    after = begin(driver(tmp_path))
    assert (after["number"], after["alone"]) == (0, True)


def test_a_full_disk_ends_the_study_and_no_trial(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    begin(recorder)
    with pytest.raises(StudyError, match="trial 0 finds no room on its disk: No space left"):
        recorder.finish(0, {"no_room": "No space left"})
    assert states(recorder)[0] == "RUNNING"


def test_a_stopped_trial_is_left_for_the_next_driver(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    begin(recorder)
    recorder.report(0, fakes.report(1))
    keep(recorder, 0, "1")
    recorder.finish(0, {"stopped": True})
    recorder.interrupt()
    known = recorder.ledger.trial(0)
    assert (known.state.name, known.user_attrs["attempts"]) == ("RUNNING", 0)
    assert recorder.outbox.tags["run0"]["lsx.status"] == "interrupted"  # type: ignore[attr-defined]
    assert Path(begin(driver(tmp_path))["checkpoint"], CHECKPOINT).read_text() == "1"


NODE = "Failure # {}\nray.exceptions.ActorDiedError: The actor died because its node has died. Node Id: 1\n"
CRASH = "Failure # {}\nRuntimeError: boom\n"


def test_the_loss_of_a_node_is_no_failure_of_the_trial(tmp_path: Path) -> None:
    recorder = driver(tmp_path, fakes.spec(budget={"trials": 6, "attempts": 1}))
    searcher, recording = hooks(recorder)
    error = tmp_path / "error.txt"
    error.write_text(NODE.format(1))
    one = trial(searcher.suggest("t0")["number"], error_file=str(error))
    recording.on_trial_start(0, [], one)
    assert one.max_failures == 0  # its only start
    recording.on_trial_error(0, [], one)
    assert (states(recorder)[0], recorder.snapshot().trials[0].status) == ("RUNNING", "waiting")
    again = searcher.suggest("t0")
    assert again["number"] == 0
    recording.on_trial_start(0, [], one)
    assert recorder.ledger.trial(0).user_attrs["attempts"] == 1
    error.write_text(NODE.format(1) + CRASH.format(2))  # Tune appends
    recording.on_trial_error(0, [], one)
    assert recorder.ledger.trial(0).state == TrialState.FAIL
    assert recorder.ledger.trial(0).user_attrs["reason"] == "RuntimeError: boom"


def test_a_start_after_the_loss_of_a_node_is_not_counted_and_one_after_a_crash_is(tmp_path: Path) -> None:
    recorder = driver(tmp_path, fakes.spec(budget={"trials": 6, "attempts": 3}))
    searcher, recording = hooks(recorder)
    error = tmp_path / "error.txt"
    one = trial(searcher.suggest("t0")["number"], error_file=str(error))
    recording.on_trial_start(0, [], one)
    for number, failure, attempts, left in ((1, NODE, 1, 2), (2, CRASH, 2, 1), (3, NODE, 2, 1)):
        with error.open("a") as file:
            file.write(failure.format(number))
        one.run_metadata.num_failures = number
        recording.on_trial_recover(0, [], one)
        recording.on_trial_start(0, [], one)
        assert recorder.ledger.trial(0).user_attrs["attempts"] == attempts
        assert one.max_failures == number + left


def test_a_trial_without_a_sign_of_life_is_killed_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = driver(tmp_path, fakes.spec(budget={"trials": 6, "stalled_after": "90s"}))
    searcher, recording = hooks(recorder)
    now = [1000.0]
    monkeypatch.setattr("lsx.study.running.recorder.time", SimpleNamespace(monotonic=lambda: now[0]))
    killed: list[Any] = []
    monkeypatch.setattr("lsx.study.running.searcher.ray", SimpleNamespace(kill=killed.append))
    trials = [trial(searcher.suggest(f"t{index}")["number"], error_file=None) for index in range(2)]
    for one in trials:
        one.temporary_state = SimpleNamespace(ray_actor=f"actor {one.config['number']}")
        recording.on_trial_start(0, [], one)

    def wait(seconds: int) -> None:
        for _ in range(seconds):
            now[0] += 1
            recording.on_step_end(0, trials)

    wait(80)
    recording.on_trial_result(0, [], trials[1], {"pulse": {"step": 3}})
    now[0] += 1000  # the driver itself was held up: trials may have been heard of in between
    wait(9)
    assert killed == []
    wait(3)
    assert killed == ["actor 0"]
    recording.on_step_end(0, trials)
    assert killed == ["actor 0"]  # once
    recording.on_trial_error(0, [], trials[0])
    assert recorder.ledger.trial(0).user_attrs["reason"] == "no sign of life for 1.5 min (budget.stalled_after)"
    wait(80)
    assert killed == ["actor 0", "actor 1"]
    recording.on_trial_start(0, [], trials[1])
    recorder.fail(1, "RuntimeError: boom")  # what it died of in the end
    assert recorder.ledger.trial(1).user_attrs["reason"] == "RuntimeError: boom"


def test_trials_are_told_once_that_the_study_stops(tmp_path: Path) -> None:
    recorder, watch, told = driver(tmp_path), Watch(), []
    searcher, recording = hooks(recorder, watch, ask=lambda: told.append(1))
    one = trial(searcher.suggest("t0")["number"])
    recording.on_step_end(0, [])
    assert told == []
    watch.stop("signal")
    assert searcher.suggest("t1") is None  # no new trial
    for _ in range(3):
        recording.on_step_end(0, [])  # the loop goes on: trial 0 writes its checkpoint
    assert told == [1]
    one.last_result = {"stopped": True}
    recording.on_trial_complete(0, [], one)
    with pytest.raises(Halt):
        recording.on_step_end(0, [])


def test_a_fault_ends_the_loop_between_two_steps_and_changes_nothing_more(tmp_path: Path) -> None:
    recorder, watch = driver(tmp_path), Watch()
    searcher, recording = hooks(recorder, watch)
    searcher.suggest("t0")
    recorder.outbox.log = lambda *_, **__: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    recording.on_trial_result(0, [], trial(0), fakes.report(1))
    recording.on_trial_complete(0, [], trial(0))
    assert searcher.suggest("t1") == Searcher.FINISHED
    assert isinstance(watch.fault, ZeroDivisionError)
    assert states(recorder)[0] == "RUNNING"
    with pytest.raises(Halt):
        recording.on_step_end(0, [])


def test_hooks_can_be_pickled_without_their_driver(tmp_path: Path) -> None:
    for hook in hooks(driver(tmp_path)):
        assert vars(cloudpickle.loads(cloudpickle.dumps(hook))) == {}


def test_a_failed_objective_says_why(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    outbox: Any = recorder.outbox
    begin(recorder)
    reasons = {"ridge": "one class", "iies": "one class"}
    recorder.finish(0, {"final": {"accuracy": 0.5, "ridge": math.nan}, "reasons": reasons})
    assert recorder.ledger.trial(0).user_attrs["reason"] == "objective ridge is nan: one class"
    assert outbox.tags["run0"]["lsx.reasons"] == "ridge: one class; iies: one class"


def test_a_short_trial_is_not_stopped_at_its_end(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    recorder._rungs = [1, 2, 4, 8]
    assert begin(recorder)["rungs"] == [1]  # pretraining only, two epochs
    assert begin(recorder)["rungs"] == [1, 2]


def test_the_picture_is_fetched_when_it_is_new_and_learners_at_the_end(tmp_path: Path) -> None:
    recorder = driver(tmp_path, fakes.spec(repeats=2))
    outbox: Any = recorder.outbox
    folder = recorder.folder.trial(begin(recorder)["number"])
    recorder.report(0, {**fakes.report(2), "picture": True})
    keep(recorder, 0, "2", **{PICTURE: "drawn"})
    assert (folder / PICTURE).read_text() == "drawn"
    recorder.report(0, fakes.report(3))
    keep(recorder, 0, "22", **{PICTURE: "not announced"})
    assert (folder / PICTURE).read_text() == "drawn"
    assert not list(folder.glob("learner-*"))
    learners = {"learner-0.pt": "first", "learner-1.pt": "second"}
    keep(recorder, 0, "222", **{PICTURE: "last", **learners})
    recorder.finish(0, {**fakes.final({"config": {"loss": {"lambda_e": 1}}}), "manifest": {"threads": 1}})
    assert {file.name: file.read_text() for file in folder.glob("learner-*")} == learners
    assert (folder / PICTURE).read_text() == "last"
    assert (folder / "manifest.json").read_text() == '{\n "threads": 1\n}'
    assert outbox.attached == [f"run0/{name}" for name in ("config.yaml", PICTURE, PICTURE, "manifest.json")]


def seeded(index: int, position: int, loss: float) -> dict[str, Any]:
    """A report of four epochs a seed, as of its position over all seeds."""
    row = {"seed_index": index, "stage": "joint", "step": position - 4 * index, "position": position}
    return {**fakes.report(4), "position": position, "total": 8, "history": [{**row, "metrics": {"loss": loss}}]}


def test_several_seeds_have_curves_of_their_own_and_means(tmp_path: Path) -> None:
    recorder = driver(tmp_path, fakes.spec(repeats=2))
    outbox: Any = recorder.outbox
    begin(recorder)
    assert outbox.params["run0"]["repeats"] == 2
    recorder.report(0, seeded(0, 4, 0.5))
    recorder.report(0, seeded(1, 8, 0.25))
    assert outbox.metrics["run0"] == [("seed-0/joint/loss", 0.5, 4), ("seed-1/joint/loss", 0.25, 4)]
    found = {"accuracy": [0.5, 0.75], "ridge": [1.0, 1.0]}
    curves = [{"stage": "joint", "position": 4, "metrics": {"loss": 0.375}}]
    final = {"accuracy": 0.625, "ridge": 1.0}
    recorder.finish(0, {"final": final, "seeds": found, "curves": curves})
    logged = {name: (value, step) for name, value, step in outbox.metrics["run0"]}
    assert logged["joint/loss"] == (0.375, 4)
    assert logged["final/accuracy"] == (0.625, 8)
    assert logged["final/accuracy_std"][0] == pytest.approx(0.125 * math.sqrt(2))
    assert logged["final/accuracy_ci95"][0] == pytest.approx(12.7062047 * 0.125)  # t of one degree of freedom
    assert logged["final/ridge_ci95"][0] == 0
    assert recorder.ledger.trial(0).values == [0.625, 1.0]
    assert recorder.ledger.trial(0).user_attrs["seeds"] == found


def test_what_the_outbox_has_is_not_written_again(tmp_path: Path) -> None:
    spec = fakes.spec(budget={"trials": 6, "attempts": 3})
    before = driver(tmp_path, spec)
    begin(before)
    before.report(0, fakes.report(2))
    outbox = FakeOutbox({0: 3})  # killed when the outbox had epoch 3, and the journal had not
    after = driver(tmp_path, spec, outbox=outbox)
    begin(after)
    for position in (3, 4):
        after.report(0, fakes.report(position))
    assert outbox.metrics["run0"] == [("finetune/loss", 0.25, 4)]
    assert after.ledger.trial(0).user_attrs["progress"]["position"] == 4
    done = FakeOutbox({0: 5})  # or when it had the end
    last = driver(tmp_path, spec, outbox=done)
    last.finish(begin(last)["number"], {"final": {"accuracy": 0.5, "ridge": 0.5}})
    assert done.metrics["run0"] == []
    assert last.ledger.trial(0).state == TrialState.COMPLETE


def test_trouble_with_mlflow_is_shown(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    outbox: Any = recorder.outbox
    outbox.trouble, outbox.waiting = "MLflow is away", 7
    found = recorder.snapshot("testing trial 1")
    assert (found.message, found.trouble, found.waiting) == ("testing trial 1", "MLflow is away", 7)
