"""TPE by groups draws what Optuna's does, from the mirror's trials in whatever state they are."""

import random
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from lsx.study.search.mirror import Known, Mirror, distribution
from lsx.study.search.proposer import NAME
from lsx.study.search.tpe import GroupedTPE
from tests.study import fakes

SETTINGS: dict[str, Any] = {"n_startup_trials": 5, "multivariate": True, "constant_liar": True}
STATES = (TrialState.COMPLETE,) * 4 + (TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


def mirror(objectives: int) -> Mirror:
    """Trials of the fake study's conditional space: complete, outside of a constraint, pruned, failed and running."""
    chance, spec = random.Random(1), fakes.spec()
    directions: Any = ["maximize", "minimize"][:objectives]
    made = Mirror(directions)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    distributions = {one.name: distribution(one.dimension) for one in spec.search_space}
    for number in range(60):
        trial = study.ask()
        spec.search_space.suggest(trial)
        state = STATES[number % len(STATES)]
        complete = state == TrialState.COMPLETE
        made.put(
            Known(
                number,
                state,
                values=[chance.random() for _ in directions] if complete else None,
                params=trial.params,
                distributions={name: distributions[name] for name in trial.params},
                violations={"accuracy": chance.uniform(-1, 0.5)} if complete else None,
            )
        )
    return made


def drawn(known: Mirror, sampler: TPESampler) -> dict[str, Any]:
    study = optuna.load_study(study_name=NAME, storage=known, sampler=sampler)
    with known.drawing(60):
        found: dict[str, Any] = fakes.spec().search_space.suggest(study.ask())
    return found


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("objectives", [1, 2])
def test_it_draws_what_optuna_draws(objectives: int) -> None:
    known = mirror(objectives)
    draws = []
    for seed in range(8):
        ours, theirs = GroupedTPE(seed=seed, **SETTINGS), TPESampler(seed=seed, group=True, **SETTINGS)
        draws.append(drawn(known, ours))
        assert draws[-1] == drawn(known, theirs)
    assert len({str(one) for one in draws}) == 8


def test_what_happened_since_counts() -> None:
    known = mirror(2)
    sampler = GroupedTPE(seed=1, **SETTINGS)
    drawn(known, sampler)  # a split that must not be used again
    for number in range(30):
        known.put(Known(number, TrialState.FAIL))
    sampler._rng.rng.seed(1)
    fresh = GroupedTPE(seed=1, **SETTINGS)
    fresh._rng.rng.seed(1)
    assert drawn(known, sampler) == drawn(known, fresh)
