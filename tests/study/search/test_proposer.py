"""What proposes configurations: nothing twice, the same after a restart, and what old trials teach."""

import contextlib
import math
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from lsx.errors import ConfigError, StudyError
from lsx.study.declared.spec import StudySpec
from lsx.study.environment import quiet
from tests.study import fakes
from tests.study.drive import ROOT

quiet.prepare()

import optuna  # noqa: E402
from optuna.storages import JournalStorage  # noqa: E402
from optuna.storages.journal import JournalFileBackend  # noqa: E402
from optuna.trial import FrozenTrial, TrialState, create_trial  # noqa: E402

from lsx.study.search import proposer as proposers  # noqa: E402
from lsx.study.search.proposer import GroupedTPE, Proposal, Proposer, feasible, violations  # noqa: E402

SAMPLERS = ("tpe", "nsga2", "nsga3", "random")
COUNTABLE: dict[str, Any] = {
    "critic.optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
    "critic.batches": {"type": "int", "low": 1, "high": 3, "when": {"critic.optimizer": "sgd"}},
    "loss.lambda_c": {"type": "float", "low": 0.1, "high": 0.3, "step": 0.1},
}  # 3 points with adam, 9 with sgd
WEIGHT: dict[str, Any] = {"loss.lambda_e": {"type": "float", "low": 1.0, "high": 100.0, "log": True}}


def spec(kind: str = "tpe", **changes: Any) -> StudySpec:
    sampler = {"type": kind, "startup_trials": 6, "population": 5}
    return fakes.spec(**{"sampler": sampler, "reference_trials": {}, "budget": {"trials": 500}, **changes})


class Driver:
    """A real study that gets every proposal whole, and that shows the proposer everything that happens to it."""

    def __init__(self, spec: StudySpec, study: optuna.Study | None = None) -> None:
        directions = [objective.direction for objective in spec.objectives]
        self.spec = spec
        self.study = study or optuna.create_study(directions=directions)
        self.proposer = Proposer(spec, self.trials)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials()

    def propose(self) -> Proposal | None:
        return self.proposer.propose(len(self.trials))

    def start(self, proposal: Proposal, **attributes: Any) -> int:
        with contextlib.suppress(ConfigError):
            attributes["config"] = self.spec.configure(proposal.values).flat()
        trial = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            system_attrs=proposal.system_attrs,
            user_attrs=attributes,
        )
        self.study.add_trial(trial)
        number = len(self.trials) - 1
        self.proposer.learn(self.trials[number])
        return number

    def end(self, number: int, state: TrialState = TrialState.COMPLETE, **metrics: float) -> None:
        trial = self.trials[number]
        if state == TrialState.COMPLETE:
            metrics = metrics or outcome(trial.user_attrs["config"])
            self.study._storage.set_trial_user_attr(trial._trial_id, "metrics", metrics)
        values = [metrics[one.metric] for one in self.spec.objectives] if state == TrialState.COMPLETE else None
        self.study.tell(number, values=values, state=state)
        self.proposer.learn(self.trials[number])

    def run(self, trials: int, states: Sequence[TrialState] = (TrialState.COMPLETE,)) -> list[Proposal]:
        """So many trials, one after the other; fewer if nothing is left."""
        done: list[Proposal] = []
        while len(done) < trials and (proposal := self.propose()) is not None:
            self.end(self.start(proposal), states[len(done) % len(states)])
            done.append(proposal)
        return done


def outcome(config: dict[str, Any]) -> dict[str, float]:
    """A trade-off in λ_e; adam is better at everything."""
    weight, worse = config["loss.lambda_e"], 0.3 * (config["critic.optimizer"] != "adam")
    return {
        "accuracy": 1 - weight / 200 - worse,
        "ridge": 1 / (1 + weight) + worse,
        "sparseness": config["loss.lambda_c"],
    }


MIXED = (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_proposer_that_is_built_anew_goes_on_as_the_old_one(kind):
    driver = Driver(spec(kind, constraints=[{"metric": "accuracy", "low": 0.5}]))
    for index in range(35):
        anew = Proposer(driver.spec, driver.trials).propose(index)
        proposal = driver.propose()
        assert proposal == anew
        driver.end(driver.start(proposal), MIXED[index % len(MIXED)])


@pytest.mark.parametrize("kind", SAMPLERS)
def test_it_does_so_beside_trials_that_end_in_any_order(kind):
    driver, running = Driver(spec(kind)), []
    for index in range(40):
        proposal = driver.propose()
        assert proposal == Proposer(driver.spec, driver.trials).propose(index)
        running.append(driver.start(proposal))
        if len(running) > 6:  # more than a generation, so that stragglers change the parents of those after it
            driver.end(running.pop(index * 5 % len(running)))


def test_a_grid_goes_on_where_it_was():
    driver = Driver(spec("grid", space=COUNTABLE))
    for index in range(12):
        anew = Proposer(driver.spec, driver.trials)
        proposal = driver.propose()
        assert (anew.left, anew.propose(index)) == (12 - index, proposal)
        driver.end(driver.start(proposal), MIXED[index % len(MIXED)])
    assert driver.propose() is None


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_proposal_leaves_no_trace(kind):
    driver = Driver(spec(kind))
    driver.run(12)
    first = driver.propose()
    assert driver.proposer.propose(30) != first
    assert driver.propose() == first


def test_random_proposals_know_nothing_of_other_trials():
    driver = Driver(spec("random"))
    for index, proposal in enumerate(driver.run(10, MIXED)):
        assert Proposer(driver.spec, []).propose(index) == proposal


def test_another_seed_proposes_something_else():
    assert Proposer(spec(seed=1), []).propose(0) != Proposer(spec(), []).propose(0)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_countable_space_is_tried_once_and_to_its_end(kind):
    driver = Driver(spec(kind, space=COUNTABLE))
    assert driver.proposer.left == 12
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    for index in range(12):
        number = driver.start(driver.propose())
        if index % 4:  # every fourth goes on running
            driver.end(number, states[index % 4 - 1])
        assert driver.proposer.left == 11 - index
    assert driver.propose() is None
    configs = [tuple(sorted(map(str, trial.user_attrs["config"].items()))) for trial in driver.trials]
    assert len(set(configs)) == 12


def test_the_last_points_are_found_without_luck(monkeypatch):
    monkeypatch.setattr(proposers, "DRAWS", 1)
    assert len({str(proposal.values) for proposal in Driver(spec("random", space=COUNTABLE)).run(20)}) == 12


def test_a_ranges_last_draw_is_better_than_none(monkeypatch):
    monkeypatch.setattr(proposers, "DRAWS", 1)
    driver = Driver(spec("random"))
    proposal = driver.propose()
    driver.proposer.learn(
        create_trial(state=TrialState.FAIL, params=proposal.params, distributions=proposal.distributions)
    )
    assert driver.proposer.left is None and driver.propose() == proposal
    monkeypatch.setattr(proposers, "DRAWS", 2)
    assert driver.propose().values != proposal.values


def test_reference_trials_count_as_tried_before_they_run():
    own = {"critic.optimizer": "adam", "loss.lambda_c": 0.3}
    other = {"stages": ["pretrain"]}  # no point of the space
    driver = Driver(spec(space=COUNTABLE, reference_trials={"published": own, "baseline": other}))
    assert driver.proposer.left == 11
    assert own not in [proposal.values for proposal in driver.run(20)]
    assert len(driver.trials) == 11


def test_what_config_refuses_is_proposed_once():
    space = {
        "confounder.place": {"type": "categorical", "choices": ["by_class", "random_corner"]},
        "confounder.intensity": {
            "type": "categorical",
            "choices": ["descending", "white"],
            "when": {"confounder.place": ["by_class", "random_corner"]},
        },
    }
    for kind in ("grid", *SAMPLERS):
        driver = Driver(spec(kind, space=space))
        values = [proposal.values for proposal in driver.run(10, [TrialState.FAIL])]
        assert len(values) == 4 and {"confounder.place": "random_corner", "confounder.intensity": "white"} in values
        assert sum("config" not in trial.user_attrs for trial in driver.trials) == 1
        assert Proposer(driver.spec, driver.trials).left == 0


def test_a_study_without_a_space_has_one_configuration():
    for kind in ("grid", *SAMPLERS):
        driver = Driver(spec(kind, space={}))
        assert [proposal.params for proposal in driver.run(5)] == [{}]


def test_a_grid_is_in_the_files_order_and_skips_what_was_tried():
    space = {
        "loss.lambda_e": {"type": "float", "low": 1, "high": 100, "log": True, "points": 3},
        "critic.optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
        "critic.batches": {"type": "int", "low": 1, "high": 9, "points": 2, "when": {"critic.optimizer": "adam"}},
    }
    own = {"loss.lambda_e": 10.0, "critic.optimizer": "adam", "critic.batches": 1}
    driver = Driver(spec("grid", space=space, reference_trials={"published": own}))
    tried = [tuple(proposal.values.values()) for proposal in driver.run(20)]
    assert tried == [
        *((1.0, "sgd"), (1.0, "adam", 1), (1.0, "adam", 9)),
        *((10.0, "sgd"), (10.0, "adam", 9)),
        *((100.0, "sgd"), (100.0, "adam", 1), (100.0, "adam", 9)),
    ]
    assert driver.trials[0].distributions["loss.lambda_e"] == optuna.distributions.FloatDistribution(1, 100, log=True)


def test_a_storage_gives_back_what_is_known_as_tried(tmp_path):
    def opened() -> optuna.Study:
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
        return optuna.create_study(
            storage=storage, study_name="s", directions=["maximize", "minimize"], load_if_exists=True
        )

    for kind in ("grid", "tpe"):
        driver = Driver(spec(kind, space=COUNTABLE), opened())
        driver.run(3)
    assert Driver(driver.spec, opened()).proposer.left == 6


def test_genetic_samplers_breed_from_one_generation_to_the_next():
    for kind, name in (("nsga2", "NSGAIISampler"), ("nsga3", "NSGAIIISampler")):
        driver = Driver(spec(kind))
        driver.run(40)
        trials = driver.trials
        assert [trial.system_attrs[f"{name}:generation"] for trial in trials] == [index // 5 for index in range(40)]
        weights = [round(trial.params["loss.lambda_e"], 9) for trial in trials]
        assert len(set(weights[:5])) == 5 and len(set(weights)) < 30  # a range's value comes twice by inheritance
        assert sum(trial.params["critic.optimizer"] == "adam" for trial in trials[20:]) > 12


@pytest.mark.parametrize("kind", ["nsga2", "nsga3"])
def test_reference_trials_are_parents_if_they_are_whole(kind):
    published = {"loss.lambda_e": 7.0, "critic.optimizer": "adam", "critic.learning_rate": 0.01}
    references = {
        "baseline": {"stages": ["pretrain"]},
        "published": published,
        "outside": {**published, "loss.lambda_e": 0.5},
    }
    driver = Driver(spec(kind, reference_trials=references))
    for name in references:
        params, overrides = driver.spec.reference(name)
        driver.study.enqueue_trial(params, user_attrs={"role": name, "overrides": overrides})
        trial = driver.study.ask()
        values = driver.spec.search_space.suggest(trial, overrides)
        trial.set_user_attr("config", driver.spec.configure(values).flat())
        driver.proposer.learn(driver.trials[trial.number])
        driver.end(trial.number, accuracy=1.0 if name == "published" else 0.5, ridge=0.0)
    driver.run(4)  # published is the fifth of the first generation
    assert any(proposal.params["loss.lambda_e"] == pytest.approx(7) for proposal in driver.run(20))


@pytest.mark.parametrize("kind", ["tpe", "nsga2", "nsga3"])
def test_samplers_prefer_what_satisfies_the_constraints(kind):
    space = WEIGHT | {name: COUNTABLE[name] for name in ("loss.lambda_c", "critic.optimizer")}

    def chosen(**bounds: float) -> int:
        driver = Driver(spec(kind, space=space, constraints=[{"metric": "sparseness", **bounds}]))
        return sum(proposal.values["loss.lambda_c"] == 0.3 for proposal in driver.run(50)[20:])

    # λ_c decides about the constraint, and about no objective; a third of 30 would be chance.
    assert chosen(high=0.25) < 10 < 14 < chosen(low=0.25)


def test_changed_constraints_apply_to_old_trials():
    driver = Driver(spec(space=WEIGHT))
    driver.run(25)
    tight = spec(space=WEIGHT, constraints=[{"metric": "ridge", "high": 0.35}])
    again = Driver(tight, driver.study)
    assert all(proposal.values["loss.lambda_e"] > 10 for proposal in again.run(5))


def test_violations_are_counted_from_the_bounds():
    bounds = [{"metric": "accuracy", "low": 0.8, "high": 0.9}, {"metric": "ridge", "high": 0.25}]
    constrained = spec(constraints=[*bounds, {"metric": "ridge", "low": 0.5}])
    found = violations(constrained, {"accuracy": 0.7, "ridge": 0.25})
    assert found == pytest.approx({"accuracy": 0.1, "ridge": 0.25})
    assert not feasible(constrained, {"accuracy": 0.85, "ridge": 0.25})
    plain = spec(constraints=bounds)
    assert feasible(plain, {"accuracy": 0.8, "ridge": 0.25})  # bounds are inside
    assert feasible(spec(), {})


@pytest.mark.parametrize("metrics", [{}, {"accuracy": math.nan}, {"accuracy": None}, {"accuracy": -math.inf}])
def test_what_was_not_measured_is_not_feasible(metrics):
    constrained = spec(constraints=[{"metric": "accuracy", "low": 0.8}])
    assert not feasible(constrained, metrics)
    assert violations(constrained, metrics)["accuracy"] > 0


@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_sampler_takes_one_to_three_objectives(kind):
    objectives = [("accuracy", "maximize"), ("ridge", "minimize"), ("sparseness", "maximize")]
    for count in (1, 2, 3):
        chosen = [{"metric": name, "direction": direction} for name, direction in objectives[:count]]
        assert len(Driver(spec(kind, objectives=chosen)).run(15, MIXED)) == 15


@pytest.mark.parametrize("kind", SAMPLERS)
def test_pruned_trials_may_have_intermediate_values(kind):
    driver = Driver(spec(kind))
    driver.run(8)
    number = driver.start(driver.propose())
    trial = driver.trials[number]
    driver.study._storage.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
    driver.end(number, TrialState.PRUNED)
    assert driver.propose() is not None


@pytest.mark.parametrize("kind", SAMPLERS)
def test_moved_bounds_are_kept(kind):
    driver = Driver(spec(kind, space=WEIGHT | {"critic.batches": {"type": "int", "low": 1, "high": 4}}))
    driver.run(20)
    bounds = {"type": "float", "low": 200.0, "high": 1000.0, "log": True}
    moved = Driver(
        spec(kind, space={"loss.lambda_e": bounds, "critic.batches": {"type": "int", "low": 3, "high": 9}}),
        driver.study,
    )
    values = [proposal.values for proposal in moved.run(25)]
    # None at the very bound, to which Optuna would push what old trials hand down.
    assert all(200 < one["loss.lambda_e"] <= 1000 and 3 <= one["critic.batches"] <= 9 for one in values)
    assert any(one["critic.batches"] > 4 for one in values)


@pytest.mark.parametrize(("kind", "name"), [("nsga2", "NSGAIISampler"), ("nsga3", "NSGAIIISampler")])
def test_a_parent_that_moved_bounds_leave_alone_has_no_children(kind, name):
    driver = Driver(spec(kind, space=WEIGHT))
    distributions = driver.propose().distributions
    for index, weight in enumerate((1.0, 2.0, 3.0, 4.0, 90.0, 5.0, 6.0, 7.0, 8.0, 95.0)):
        values = {"loss.lambda_e": weight}
        driver.end(driver.start(Proposal(values, distributions, {f"{name}:generation": index // 5}, values)))
    bounds = {"type": "float", "low": 80.0, "high": 1000.0, "log": True}  # one of either generation
    moved = Driver(spec(kind, space={"loss.lambda_e": bounds}), driver.study)
    assert all(proposal.values["loss.lambda_e"] >= 80 for proposal in moved.run(12))


@pytest.mark.parametrize(
    ("before", "after"), [("tpe", "nsga2"), ("nsga2", "nsga3"), ("nsga3", "tpe"), ("tpe", "random")]
)
def test_another_sampler_takes_over(before, after):
    driver = Driver(spec(before))
    driver.run(12)
    other = Driver(spec(after), driver.study)
    other.run(12)
    weights = [round(trial.params["loss.lambda_e"], 9) for trial in driver.trials]
    assert any(weight in weights[:12] for weight in weights[12:]) == after.startswith("nsga")


def test_running_trials_keep_tpe_away():
    space = {"loss.lambda_e": {"type": "float", "low": 1.0, "high": 100.0}}
    alone, beside = Driver(spec(space=space)), Driver(spec(space=space))
    for driver in (alone, beside):
        driver.run(30)
    first = alone.propose()
    for index in range(40):  # as many others, at the very place
        near = {"loss.lambda_e": first.params["loss.lambda_e"] + index / 1000}
        beside.start(Proposal(near, first.distributions, {}, near))
    number = len(beside.trials)
    away = abs(beside.proposer.propose(number).params["loss.lambda_e"] - first.params["loss.lambda_e"])
    free = abs(alone.proposer.propose(number).params["loss.lambda_e"] - first.params["loss.lambda_e"])
    assert away > free


def test_groups_are_those_of_optuna():
    driver = Driver(spec("random"))
    driver.run(40, MIXED)
    known = driver.trials
    settings: dict[str, Any] = {"n_startup_trials": 6, "multivariate": True, "constant_liar": True}
    for seed in range(5):
        drawn = []
        for sampler in (
            optuna.samplers.TPESampler(seed=seed, group=True, **settings),
            GroupedTPE(seed=seed, **settings),
        ):
            study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
            study.add_trials(known)
            drawn.append(driver.spec.search_space.suggest(study.ask()))
        assert drawn[0] == drawn[1]


def test_nothing_is_said():
    command = [sys.executable, "-W", "default::UserWarning", "-W", "default::FutureWarning", "-m", __name__]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("", "")


def main() -> None:
    """What a driver does, in a process of its own, where no test has set up warnings and loggers."""
    for kind in SAMPLERS:
        Driver(spec(kind, constraints=[{"metric": "accuracy", "low": 0.5}])).run(12, MIXED)


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (
            {"loss.lambda_e": {"type": "float", "low": 1, "high": 2}},
            "space.loss.lambda_e: a grid cannot enumerate a float",
        ),
        (
            {"critic.batches": {"type": "int", "low": 1, "high": 10**9, "log": True}},
            "cannot enumerate 1,000,000,000 values",
        ),
        (
            {
                "loss.lambda_e": {"type": "float", "low": 1, "high": 2, "points": 1000},
                "critic.batches": {"type": "int", "low": 1, "high": 101},
            },
            "sampler.type: the grid has more than 100,000 points",
        ),
    ],
)
def test_what_a_grid_cannot_enumerate_is_refused(space, reason):
    with pytest.raises(StudyError, match=reason) as caught:
        spec("grid", space=space)
    assert "\n" not in str(caught.value)
    assert spec("tpe", space=space).space


if __name__ == "__main__":
    main()
