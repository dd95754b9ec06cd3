"""What becomes of trials, decision by decision: ledger, recorder, Tune's hooks. No Ray is started."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from lsx.config import Config
from lsx.errors import StudyError
from lsx.study import quiet
from lsx.study.sections import Scheduler
from lsx.study.spec import StudySpec
from tests.study import fakes

quiet.prepare()

from ray import cloudpickle  # noqa: E402
from ray.air.execution._internal.actor_manager import RayActorManager  # noqa: E402
from ray.exceptions import OutOfMemoryError  # noqa: E402

from lsx.study.cluster import survive_out_of_memory  # noqa: E402
from lsx.study.folder import CHECKPOINT  # noqa: E402
from lsx.study.searcher import Halt, Halving, Recording, Searcher, Watch, rungs  # noqa: E402
from tests.study.drivers import begin, driver, states  # noqa: E402


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
    tracker: Any = recorder.tracker
    number = begin(recorder)["number"]
    recorder.report(number, fakes.report(2))
    recorder.finish(number, result)
    trial = recorder.ledger.trial(number)
    assert (trial.state.name, tracker.states["run0"]) == (state, ending)
    assert trial.user_attrs.get("reason") == reason
    assert trial.values == ([0.5, 0.5] if state == "COMPLETE" else None)
    assert tracker.journal_at_end == [TrialState.RUNNING]  # MLflow first: a kill between the two loses nothing
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


def test_reports_reach_tracker_journal_and_display_once(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    tracker: Any = recorder.tracker
    number = begin(recorder)["number"]
    recorder.report(number, fakes.report(3, critic_loss_last_to_chance=0.9))
    recorder.report(number, fakes.report(4))
    for position in (4, 3):  # a worker lost after its report says it again
        recorder.report(number, fakes.report(position))
    losses = [(name, step) for name, _, step in tracker.metrics["run0"]]
    assert losses == [("joint/loss", 3), ("joint/critic_loss_last_to_chance", 3), ("finetune/loss", 4)]
    view = recorder.snapshot().trials[0]
    assert (view.stage, view.position, view.total) == ("finetune", 4, 4)
    recorder.finish(number, {"final": {"accuracy": 0.5, "ridge": 0.5}})
    assert recorder.ledger.trial(number).user_attrs["metrics"]["critic_loss_last_to_chance"] == 0.9


def test_killed_drivers_trials_are_taken_up_by_the_next(tmp_path: Path) -> None:
    before = driver(tmp_path)
    first, second = begin(before), begin(before)
    checkpoint = before.folder.ray / "somewhere" / CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("3")
    before.checkpointed(second["number"], checkpoint)
    after = driver(tmp_path)
    assert after.ledger.orphans == (0, 1)
    after.rescue()
    assert not after.folder.ray.exists()
    again, resumed = begin(after), begin(after)
    assert again == first
    assert Path(resumed["checkpoint"]).read_text() == "3"
    assert {**resumed, "checkpoint": None} == second
    assert begin(after)["number"] == 2
    assert len(states(after)) == 3


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
    tracker: Any = recorder.tracker
    assert tracker.states == {"parent": "KILLED", "run0": "KILLED"}
    for _ in range(2):  # and now killed, twice
        begin(driver(tmp_path))
    last = driver(tmp_path)
    assert begin(last)["number"] == 1
    assert last.ledger.trial(0).state == TrialState.FAIL
    assert last.ledger.trial(0).user_attrs["reason"].startswith("started 2 times without finishing")


def test_an_interruption_counts_for_no_trial_even_when_the_tracker_is_gone(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    begin(recorder), begin(recorder)

    def gone(*_: Any) -> None:
        raise StudyError("gone")

    recorder.tracker.end = gone  # type: ignore[method-assign]
    with pytest.raises(StudyError):
        recorder.interrupt()
    assert [recorder.ledger.trial(number).user_attrs["attempts"] for number in (0, 1)] == [0, 0]


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


def judge(scheduler: Halving, number: int, position: int, guard: float | None, role: str = "search") -> str:
    return scheduler.on_trial_result(None, trial(number, role), {"position": position, "guard": guard})


def test_scheduler_stops_the_worse_and_spares_references() -> None:
    settings = Scheduler(grace_epochs=2, reduction_factor=2)
    scheduler = Halving(settings, 9, {})
    assert judge(scheduler, 0, 2, 0.9) == "CONTINUE"
    assert judge(scheduler, 1, 2, 0.1) == "STOP"
    assert judge(scheduler, 2, 2, 0.1, role="baseline") == "CONTINUE"
    assert judge(scheduler, 3, 1, 0.1) == "CONTINUE"  # within grace
    assert judge(scheduler, 4, 3, None) == "CONTINUE"  # not at a rung
    assert judge(Halving(Scheduler(grace_epochs=2, direction="minimize"), 9, {0: {2: 0.1}}), 1, 2, 0.9) == "STOP"


def test_scheduler_remembers_earlier_drivers() -> None:
    settings = Scheduler(grace_epochs=2, reduction_factor=2)
    assert judge(Halving(settings, 9, {}), 5, 2, 0.1) == "CONTINUE"
    scheduler = Halving(settings, 9, {0: {2: 0.9, 4: 0.95}, 5: {2: 0.92}})
    assert judge(scheduler, 6, 2, 0.1) == "STOP"
    assert judge(scheduler, 5, 2, 0.1) == "CONTINUE"  # decided before, and continued


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "expected"),
    [(2, 2, 9, [2, 4, 8]), (2, 2, 8, [2, 4]), (5, 3, 9, [5]), (5, 2.5, 40, [5, 13, 32]), (4, 3, 4, []), (9, 3, 4, [])],
)
def test_rungs(grace: int, factor: float, epochs: int, expected: list[int]) -> None:
    assert rungs(Scheduler(grace_epochs=grace, reduction_factor=factor), epochs) == expected
    assert rungs(Scheduler(type="none", grace_epochs=grace), epochs) == []


def test_guards_of_search_trials_are_replayed(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    for number in range(4):
        begin(recorder)
        recorder.report(number, fakes.report(2, guard=number / 10))
    recorder.fail(3, "lost")
    assert driver(tmp_path).ledger.guards() == {2: {2: 0.2}}


def test_hooks_translate(tmp_path: Path) -> None:
    recorder, watch = driver(tmp_path), Watch()
    searcher, recording = Searcher(recorder, watch), Recording(recorder, watch, lambda: None)
    assert searcher.metric is None
    assignment = searcher.suggest("t0")
    one = trial(assignment["number"], error_file=None)
    recording.on_trial_start(0, [], one)
    assert one.max_failures == 1  # of two starts, one is left
    recording.on_trial_result(0, [], one, {**fakes.report(1), "pid": 7})
    recording.on_checkpoint(0, [], one, SimpleNamespace(path=str(recorder.folder.ray / "c")))
    assert recorder.ledger.trial(0).user_attrs["checkpoint"] == f"ray/c/{CHECKPOINT}"
    one.last_result = {**fakes.final(assignment), "done": True}
    recording.on_trial_complete(0, [], one)
    two = trial(searcher.suggest("t1")["number"], error_file=str(tmp_path / "error.txt"))
    (tmp_path / "error.txt").write_text("Traceback\n  line\nRuntimeError: boom\n\n")
    recording.on_trial_error(0, [], two)
    assert states(recorder) == ["COMPLETE", "FAIL"]
    assert recorder.ledger.trial(1).user_attrs["reason"] == "RuntimeError: boom"
    assert (recorder.folder.trial(1) / "error.txt").is_file()
    recording.on_step_end(0, [])  # nothing to stop for


def test_a_fault_ends_the_loop_between_two_steps_and_changes_nothing_more(tmp_path: Path) -> None:
    recorder, watch = driver(tmp_path), Watch()
    searcher, recording = Searcher(recorder, watch), Recording(recorder, watch, lambda: None)
    searcher.suggest("t0")
    recorder.tracker.log = lambda *_, **__: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    recording.on_trial_result(0, [], trial(0), fakes.report(1))
    recording.on_trial_complete(0, [], trial(0))
    assert searcher.suggest("t1") == Searcher.FINISHED
    assert isinstance(watch.fault, ZeroDivisionError)
    assert states(recorder)[0] == "RUNNING"
    with pytest.raises(Halt):
        recording.on_step_end(0, [])


def test_hooks_can_be_pickled_without_their_driver(tmp_path: Path) -> None:
    recorder, watch = driver(tmp_path), Watch()
    for hook in (Searcher(recorder, watch), Recording(recorder, watch, lambda: None), Halving(Scheduler(), 9, {})):
        assert vars(cloudpickle.loads(cloudpickle.dumps(hook))) == {}


def test_memory_monitors_victims_fail_alone() -> None:
    survive_out_of_memory()
    survive_out_of_memory()  # once is enough
    seen: list[Exception] = []
    actor = SimpleNamespace(actor_id=1, _on_error=None)
    task: Any = SimpleNamespace(_tracked_actor=actor, _on_error=lambda _, error: seen.append(error))
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=OutOfMemoryError("low"))
    assert [type(error).__name__ for error in seen] == ["RayActorError"]
    with pytest.raises(RuntimeError, match="unexpected"):
        RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=KeyError("other"))


def test_a_failed_objective_says_why(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    tracker: Any = recorder.tracker
    begin(recorder)
    reasons = {"ridge": "one class", "iies": "one class"}
    recorder.finish(0, {"final": {"accuracy": 0.5, "ridge": math.nan}, "reasons": reasons})
    assert recorder.ledger.trial(0).user_attrs["reason"] == "objective ridge is nan: one class"
    assert tracker.tags["run0"]["lsx.reasons"] == "ridge: one class; iies: one class"


def test_a_short_trial_is_not_stopped_at_its_end(tmp_path: Path) -> None:
    recorder = driver(tmp_path)
    recorder._rungs = [1, 2, 4, 8]
    assert begin(recorder)["rungs"] == [1]  # pretraining only, two epochs
    assert begin(recorder)["rungs"] == [1, 2]
