"""The search space: conditional sampling with real Optuna studies, and reference points."""

import optuna
import pytest
from pydantic import ValidationError

from lsx.errors import StudyError
from lsx.study.declared import grid
from lsx.study.declared.space import Dimension, Space

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = {
    # The child stands before its parent: order in the file must not matter.
    "explainer.steps": (
        Dimension(type="int", low=4, high=16, log=True, when={"explainer.method": "integrated_gradient"}),
    ),
    "explainer.method": (
        Dimension(type="categorical", choices=("input_x_gradient", "integrated_gradient", "gradcam")),
    ),
    "explainer.normalization": (
        Dimension(
            type="categorical",
            choices=("batch", "sample"),
            when={"explainer.method": ["input_x_gradient", "integrated_gradient"]},
        ),
    ),
    "critic.optimizer": (Dimension(type="categorical", choices=("adam", "adadelta", "sgd")),),
    "critic.learning_rate": (
        Dimension(type="float", low=1e-4, high=1e-2, log=True, when={"critic.optimizer": "adam"}),
        Dimension(type="float", low=0.05, high=1.0, when={"critic.optimizer": "adadelta"}),
    ),
    "critic.batches": (Dimension(type="int", low=2, high=8, step=2),),
    "loss.lambda_c": (Dimension(type="float", low=0.5, high=2, step=0.25),),
}


def sample(trials: int) -> list[tuple[optuna.trial.FrozenTrial, dict]]:
    space = Space(SPACE)
    sampler = optuna.samplers.TPESampler(multivariate=True, group=True, n_startup_trials=10, seed=0)
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    seen = []
    for number in range(trials):
        trial = study.ask()
        seen.append(space.suggest(trial))
        study.tell(trial, (number % 7, number % 5))
    return list(zip(study.trials, seen, strict=True))


@pytest.fixture(scope="module")
def samples():
    return sample(60)


def test_active_dimensions_are_always_asked_and_inactive_ones_never(samples):
    always = {"explainer.method", "critic.optimizer", "critic.batches", "loss.lambda_c"}
    methods, optimizers = set(), set()
    for trial, values in samples:
        method, optimizer = values["explainer.method"], values["critic.optimizer"]
        expected = set(always)
        expected |= {"explainer.steps"} if method == "integrated_gradient" else set()
        expected |= {"explainer.normalization"} if method != "gradcam" else set()
        rates = {"adam": {"critic.learning_rate@adam"}, "adadelta": {"critic.learning_rate@adadelta"}, "sgd": set()}
        assert set(trial.params) == expected | rates[optimizer]
        methods.add(method)
        optimizers.add(optimizer)
    assert len(methods) == 3 and len(optimizers) == 3


def test_values_lie_in_the_bounds_of_their_own_variant(samples):
    bounds = {"adam": (1e-4, 1e-2), "adadelta": (0.05, 1.0)}
    for _, values in samples:
        if values["critic.optimizer"] in bounds:
            low, high = bounds[values["critic.optimizer"]]
            assert low <= values["critic.learning_rate"] <= high
        assert values["critic.batches"] in (2, 4, 6, 8)
        assert (values["loss.lambda_c"] / 0.25).is_integer()


def test_a_point_of_the_space_comes_back_through_optuna():
    settings = {
        "explainer.method": "integrated_gradient",
        "explainer.steps": 8,
        "explainer.normalization": "sample",
        "critic.optimizer": "adadelta",
        "critic.learning_rate": 0.2,
        "critic.batches": 4,
        "loss.lambda_c": 1.0,
    }
    params, overrides = Space(SPACE).split(settings)
    assert overrides == {} and len(params) == len(settings)
    assert params["critic.learning_rate@adadelta"] == 0.2
    assert ask(params, overrides) == settings


def test_what_the_space_cannot_hold_becomes_an_override():
    settings = {
        "explainer.method": "input",  # no choice
        "explainer.steps": 8,  # inactive
        "explainer.normalization": "batch",  # inactive
        "critic.optimizer": "adam",
        "critic.learning_rate": 0.2,  # in the other variant's bounds only
        "critic.batches": 5,  # off the grid
        "loss.lambda_c": 4.0,  # out of bounds
        "stages": ["pretrain"],  # not searched
    }
    params, overrides = Space(SPACE).split(settings)
    assert params == {"critic.optimizer": "adam"}
    assert ask(params, overrides) == settings


def ask(params: dict, overrides: dict) -> dict:
    """What a trial gets that was enqueued with ``params``; fails if anything else had to be sampled."""
    study = optuna.create_study()
    study.enqueue_trial(params)
    trial = study.ask()
    values = Space(SPACE).suggest(trial, overrides)
    assert trial.params == params
    return values


def test_a_fixed_parent_decides_about_its_children():
    study = optuna.create_study()
    values = Space(SPACE).suggest(study.ask(), {"critic.optimizer": "sgd", "explainer.method": "integrated_gradient"})
    assert "critic.learning_rate" not in values
    assert 4 <= values["explainer.steps"] <= 16
    assert "explainer.method" not in study.trials[0].params


def test_numbers_take_the_type_of_their_dimension():
    params, _ = Space(SPACE).split({"critic.batches": 4.0, "loss.lambda_c": 1})
    assert [type(params[key]) for key in ("critic.batches", "loss.lambda_c")] == [int, float]


@pytest.mark.parametrize("value", [True, "4", None, float("nan")])
def test_what_is_no_number_is_in_no_numeric_dimension(value):
    assert not SPACE["critic.batches"][0].contains(value)
    assert not SPACE["loss.lambda_c"][0].contains(value)


def test_conditions_in_a_circle_are_refused():
    def on(other: str) -> tuple[Dimension, ...]:
        return (Dimension(type="int", low=1, high=2, when={other: 1}),)

    with pytest.raises(StudyError, match="circle: a, b"):
        Space({"a": on("b"), "b": on("a"), "c": (Dimension(type="int", low=1, high=2),)})


def test_a_variant_without_a_condition_overlaps_with_every_other():
    bare = Dimension(type="float", low=0, high=1)
    with pytest.raises(StudyError, match="can hold at once"):
        Space(SPACE | {"critic.learning_rate": (*SPACE["critic.learning_rate"], bare)})


def test_a_categorical_dimension_has_no_bounds():
    with pytest.raises(ValidationError, match="low does not belong to a categorical dimension"):
        Dimension(type="categorical", choices=("a",), low=1)


def test_points_do_not_go_with_a_step():
    with pytest.raises(ValidationError, match="points 3 cannot be had beside step"):
        Dimension(type="float", low=0, high=1, step=0.5, points=3)


def test_values_on_a_step_carry_no_rounding_error():
    dimension = Dimension(type="float", low=0.1, high=0.7, step=0.1)
    assert dimension.cast(0.1 + 2 * 0.1) == 0.3
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = {dimension.ask(study.ask(), "x") for _ in range(60)}
    assert asked == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7} == set(grid.levels(dimension, coarse=False))


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        (Dimension(type="categorical", choices=("b", "a")), ["b", "a"]),
        (Dimension(type="int", low=2, high=8, step=3), [2, 5, 8]),
        (Dimension(type="int", low=1, high=100, log=True, points=3), [1, 10, 100]),
        (Dimension(type="int", low=1, high=3, points=9), [1, 2, 3]),
        (Dimension(type="float", low=0, high=0.6, points=3), [0, 0.3, 0.6]),
        (Dimension(type="float", low=1e-4, high=1e-1, log=True, points=4), [1e-4, 1e-3, 1e-2, 1e-1]),
    ],
)
def test_what_a_grid_takes_of_a_dimension(dimension, values):
    taken = grid.levels(dimension, coarse=True)
    assert list(taken) == values and grid.size(dimension, coarse=True) == len(values)
    assert all(dimension.contains(value) and type(value) is type(dimension.cast(value)) for value in taken)


def test_only_a_grid_takes_points_for_all():
    assert grid.size(Dimension(type="int", low=1, high=100, points=3), coarse=False) == 100
    assert grid.size(Dimension(type="float", low=1, high=100, points=3), coarse=False) is None


def test_inactive_dimensions_do_not_multiply():
    space = Space(
        {
            "explainer.steps": SPACE["explainer.steps"],  # 13, of one of three methods
            "explainer.method": SPACE["explainer.method"],
            "critic.batches": SPACE["critic.batches"],  # 4
            "explainer.normalization": SPACE["explainer.normalization"],  # 2, of two of three methods
        }
    )
    every = list(grid.points(space, coarse=False))
    assert grid.count(space, coarse=False) == len(every) == 4 * (2 + 13 * 2 + 1)
    assert len({frozenset(point.items()) for point in every}) == len(every)
    assert all({one.key for one in space.active(point)} == point.keys() for point in every)


def test_a_space_of_too_many_points_counts_as_infinite():
    wide = {f"key{index}": (Dimension(type="int", low=0, high=9),) for index in range(5)}
    assert grid.count(Space(wide), coarse=False) == grid.MOST_POINTS
    one = (Dimension(type="int", low=0, high=1, when={"key0": 0}),)
    assert grid.count(Space(wide | {"one": one}), coarse=False) is None
    assert grid.count(Space(SPACE), coarse=False) is None  # a range
