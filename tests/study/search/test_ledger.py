"""The record of a study: what is entered, what survives a kill, and which changes of a study it takes."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from lsx.config import Config
from lsx.errors import StudyError
from lsx.study.declared.declaration import compatible
from lsx.study.shown import results
from tests.study import fakes
from tests.study.drivers import Ledger, ledger, optunastore

SETTINGS = fakes.CONTENT["settings"]


def space(key: str | None = None, **changes: Any) -> dict[str, Any]:
    """The fake study's space with one dimension changed."""
    made = copy.deepcopy(fakes.CONTENT["space"])
    if key is not None:
        made[key] = {**made[key], **changes}
    return made


def planned(one: Ledger, count: int) -> list[Any]:
    return [one.next() for _ in range(count)]


def test_a_suggestion_is_entered_whole_or_not_at_all(tmp_path: Path) -> None:
    one = ledger(tmp_path, fakes.spec(reference_trials={}))
    journal = tmp_path / "fake" / "journal.log"
    before = journal.read_bytes()
    (wanted,) = planned(one, 1)
    added = journal.read_bytes()[len(before) :].splitlines(keepends=True)
    assert b"loss.lambda_e" in added[0]
    for count in range(len(added) + 1):
        journal.write_bytes(before + b"".join(added[:count]))
        trials = optunastore.open_study(fakes.spec(), journal).get_trials()
        assert len(trials) == min(count, 1)
        for trial in trials:
            assert trial.state == TrialState.RUNNING and trial.params["loss.lambda_e"] > 0
            assert Config.build(trial.user_attrs["config"]) == wanted.config
    again = ledger(tmp_path, fakes.spec(reference_trials={})).next()
    assert again is not None and (again.number, again.config, again.adopted) == (0, wanted.config, True)


def test_the_budget_is_never_below_what_was_started(tmp_path: Path) -> None:
    planned(ledger(tmp_path), 4)
    shorter = ledger(tmp_path, fakes.spec(budget={"trials": 2}))
    assert shorter.planned == 4 and not shorter.exhausted  # four were left running
    planned(shorter, 4)
    assert shorter.exhausted and shorter.next() is None
    assert ledger(tmp_path, trials=9).planned == 9


def test_a_space_with_an_end_ends_the_study(tmp_path: Path) -> None:
    few = {"critic.optimizer": {"type": "categorical", "choices": ["adam", "sgd"]}}
    spec = fakes.spec(space=few, reference_trials={}, sampler={"type": "grid"}, budget={"trials": 50})
    one = ledger(tmp_path, spec)
    assert one.planned == 2
    found = [item.config.critic.optimizer for item in planned(one, 2)]
    assert (found, one.next(), one.planned) == (["adam", "sgd"], None, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": space("loss.lambda_e", low=2.0, high=500.0)}, "space.loss.lambda_e"),
        ({"constraints": [{"metric": "accuracy", "low": 0.5}]}, "constraints"),
        ({"scheduler": {"type": "median", "grace_epochs": 2}}, "scheduler.type: none became median"),
        ({"sampler": {"type": "nsga2"}}, "sampler.type: tpe became nsga2"),
        (
            {"reference_trials": {**fakes.CONTENT["reference_trials"], "weak": {"loss.lambda_e": 2.0}}},
            "reference_trials.weak.loss.lambda_e: 2.0 is new",
        ),
    ],
)
def test_compatible_edits_are_accepted_and_recorded(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    planned(ledger(tmp_path), 3)
    edited = ledger(tmp_path, fakes.spec(**changes))
    assert any(said in line for line in edited.edits)
    (edit,) = edited.study.user_attrs["edits"]
    assert (edit["trials"], edit["changes"]) == (3, edited.edits)
    again = ledger(tmp_path, fakes.spec(**changes))
    assert again.edits == [] and len(again.study.user_attrs["edits"]) == 1


def test_an_edit_can_be_undone_and_stays_on_record(tmp_path: Path) -> None:
    ledger(tmp_path)
    ledger(tmp_path, fakes.spec(sampler={"type": "nsga2"}))
    ledger(tmp_path)
    changes = [edit["changes"] for edit in ledger(tmp_path).study.user_attrs["edits"]]
    assert len(changes) == 2
    assert "sampler.type: nsga2 became tpe" in changes[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 5}, "seed: 0 became 5"),
        ({"repeats": 2}, "repeats: 1 became 2"),
        ({"settings": {**SETTINGS, "joint.epochs": 3}}, "settings.joint.epochs: 1 became 3"),
        ({"objectives": fakes.CONTENT["objectives"][:1]}, "objectives"),
        ({"space": space("critic.optimizer", choices=["adam", "sgd", "adadelta"])}, "space.critic.optimizer"),
        ({"space": space("loss.lambda_e", log=False)}, "space.loss.lambda_e"),
        ({"space": {**space(), "loss.lambda_c": {"type": "float", "low": 0.1, "high": 1}}}, "loss.lambda_c.* is new"),
        ({"reference_trials": {"baseline": {"stages": ["pretrain"]}}}, "published.* was taken out"),
        (
            {"reference_trials": {**fakes.CONTENT["reference_trials"], "published": {"loss.lambda_e": 11.0}}},
            "reference_trials.published.loss.lambda_e: 10.0 became 11.0",
        ),
    ],
)
def test_incompatible_edits_are_refused_and_change_nothing(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    ledger(tmp_path)
    with pytest.raises(StudyError, match=f"^study 'fake' was started with other settings: [^\n]*{said}[^\n]*--fresh"):
        ledger(tmp_path, fakes.spec(**changes))
    assert ledger(tmp_path).edits == []


def test_a_budget_is_no_edit(tmp_path: Path) -> None:
    ledger(tmp_path)
    free = {"budget": {"trials": 50, "time": "2h"}, "notes": "more", "resources": {"cpus_per_trial": 2}}
    assert ledger(tmp_path, fakes.spec(**free)).edits == []


def test_moved_bounds_hold_for_new_trials_only(tmp_path: Path) -> None:
    planned(ledger(tmp_path), 4)
    moved = ledger(tmp_path, fakes.spec(space=space("loss.lambda_e", low=200.0, high=300.0)), trials=9)
    old, new = planned(moved, 4), planned(moved, 3)
    assert [item.number for item in old] == [0, 1, 2, 3]
    assert all(item.config.loss.lambda_e <= 100 for item in old)
    assert all(200 <= item.config.loss.lambda_e <= 300 for item in new)


def test_an_added_reference_trial_is_run(tmp_path: Path) -> None:
    planned(ledger(tmp_path), 3)
    more = {**fakes.CONTENT["reference_trials"], "weak": {"loss.lambda_e": 2.0}}
    edited = ledger(tmp_path, fakes.spec(reference_trials=more))
    assert [(item.number, item.role) for item in planned(edited, 4)] == [
        (0, "baseline"),
        (1, "published"),
        (2, "search"),
        (3, "weak"),
    ]


def test_reference_trials_are_compatible_one_way() -> None:
    old = fakes.spec().fingerprint()
    more = fakes.spec(reference_trials={**fakes.CONTENT["reference_trials"], "weak": {"loss.lambda_e": 2.0}})
    assert compatible(old, more.fingerprint()) and not compatible(more.fingerprint(), old)


CONSTRAINED = {"constraints": [{"metric": "accuracy", "low": 0.5}, {"metric": "degenerate_maps", "high": 0.1}]}


def complete(one: Ledger, **metrics: float) -> int:
    item = one.next()
    assert item is not None
    one.note(item.number, metrics=metrics)
    one.complete(item.number, one.values(metrics), metrics)
    return item.number


def test_infeasible_trials_are_never_on_the_front(tmp_path: Path) -> None:
    one = ledger(tmp_path, fakes.spec(**CONSTRAINED))
    complete(one, accuracy=0.6, ridge=0.5, degenerate_maps=0.0)
    complete(one, accuracy=0.7, ridge=0.4, degenerate_maps=0.2)
    complete(one, accuracy=0.4, ridge=0.1, degenerate_maps=0.0)
    complete(one, accuracy=0.9, ridge=0.1, degenerate_maps=math.nan)  # not measured
    complete(one, accuracy=0.9, ridge=0.1)
    complete(one, accuracy=0.5, ridge=0.4, degenerate_maps=0.1)  # bounds are inclusive
    view, spec = one.view(), one.spec
    assert [trial.number for trial in results.front(view, spec)] == [0, 5]
    assert sorted(trial.number for trial in view.best_trials) == [0, 5]  # Optuna counts alike
    chosen = results.choose(view, spec)
    assert chosen is not None and chosen.number in (0, 5)
    assert one.trial(1).constraints == pytest.approx({"accuracy": -0.2, "degenerate_maps": 0.1})
    assert one.trial(3).constraints["degenerate_maps"] == 1.0


def test_a_driver_killed_between_constraints_and_the_end_is_followed_by_one_that_ends(tmp_path: Path) -> None:
    one = ledger(tmp_path, fakes.spec(**CONSTRAINED))
    (item,) = planned(one, 1)
    optuna.trial.Trial(one.study, one.trial(item.number)._trial_id).set_constraint("accuracy", -0.1)
    after = ledger(tmp_path, fakes.spec(**CONSTRAINED))
    complete(after, accuracy=0.6, ridge=0.5, degenerate_maps=math.inf)
    known = after.trial(0)
    assert known.state == TrialState.COMPLETE
    assert known.constraints == {"accuracy": -0.1, "degenerate_maps": math.inf}
    assert ledger(tmp_path, fakes.spec(**CONSTRAINED)).trial(0).constraints["degenerate_maps"] == math.inf


def test_late_findings_are_in_the_view_only(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    complete(one, accuracy=0.6, ridge=0.5)
    one.note_late(0, test={"accuracy": 0.55})
    one.note_late(0, test_seeds={"accuracy": [0.55]})
    again = ledger(tmp_path)
    assert "test" not in again.trial(0).user_attrs
    seen = again.view().get_trials()[0].user_attrs
    assert (seen["test"], seen["test_seeds"]) == ({"accuracy": 0.55}, {"accuracy": [0.55]})
    assert again.view().user_attrs["identity"] == one.identity


def test_time_used_is_kept(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    assert one.seconds_used == 0
    one.note_study(seconds_used=12.5)
    assert ledger(tmp_path).seconds_used == 12.5


def test_a_trial_is_retried_alone_once(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    planned(one, 1)
    assert one.retry_alone(0) and one.orphans == (0,)
    again = one.next()
    assert again is not None and again.alone and again.number == 0
    assert not one.retry_alone(0) and one.orphans == ()
    after = ledger(tmp_path).next()
    assert after is not None and after.alone


def test_what_a_person_enqueues_is_run_with_the_rest_drawn(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    planned(one, 2)
    one.study.enqueue_trial({"loss.lambda_e": 33.0})
    item = one.next()
    assert item is not None and item.config is not None
    assert (item.number, item.role, item.config.loss.lambda_e) == (2, "search", 33.0)
    assert set(one.trial(2).params) > {"loss.lambda_e", "critic.optimizer"}
    assert json.loads(json.dumps(one.trial(2).user_attrs["config"])) == one.trial(2).user_attrs["config"]
