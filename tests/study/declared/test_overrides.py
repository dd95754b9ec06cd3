"""``--set``: what it changes, what it takes along, and whom it blames."""

import shlex
from pathlib import Path

import pytest

from lsx.errors import StudyError
from lsx.study.declared.spec import STUDIES, StudySpec, load

CONTENT = {
    "name": "changed",
    "settings": {"pretrain": {"epochs": 2}, "joint.epochs": 3},
    "space": {
        "loss.lambda_e": {"type": "float", "low": 0.1, "high": 100, "log": True},
        "loss.lambda_c": {"type": "int", "low": 1, "high": 9, "step": 2},
        "explainer.method": {
            "type": "categorical",
            "choices": ["input_x_gradient", "integrated_gradient", "gradcam", "smoothgrad"],
        },
        "explainer.steps": {
            "type": "int",
            "low": 2,
            "high": 8,
            "points": 3,
            "when": {"explainer.method": "integrated_gradient"},
        },
        "explainer.normalization": {
            "type": "categorical",
            "choices": ["batch", "sample"],
            "when": {"explainer.method": ["input_x_gradient", "integrated_gradient"], "critic.optimizer": "adam"},
        },
        "critic.optimizer": {"type": "categorical", "choices": ["adam", "adadelta"]},
        "critic.learning_rate": [
            {"type": "float", "low": 1e-4, "high": 1e-2, "log": True, "when": {"critic.optimizer": "adam"}},
            {"type": "float", "low": 0.05, "high": 2, "log": True, "when": {"critic.optimizer": "adadelta"}},
        ],
    },
    "objectives": [{"metric": "accuracy", "direction": "maximize"}],
    "reference_trials": {
        "baseline": {"stages": ["pretrain"]},
        "published": {"loss.lambda_e": 50, "critic.optimizer": "adadelta"},
    },
    "scheduler": {"type": "asha", "grace_epochs": 4},
    "budget": {"trials": 12},
}


def changed(*overrides: str, **content) -> StudySpec:
    return StudySpec.build({**CONTENT, **content}, overrides=overrides)


def dimensions(spec: StudySpec, key: str) -> list[dict]:
    return spec.plain()["space"][key]


def refusal(*overrides: str, **content) -> str:
    with pytest.raises(StudyError) as error:
        changed(*overrides, **content)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_overrides_nothing_changes():
    assert changed() == StudySpec.build(CONTENT)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("joint.epochs=7", "joint.epochs", 7),
        ("pretrain.epochs = 7", "pretrain.epochs", 7),
        ("loss.lambda_ft=1e-3", "loss.lambda_ft", 1e-3),
        ("critic.model=MLP", "critic.model", "MLP"),
        ("critic.model=null", "critic.model", None),
        ("critic.model=", "critic.model", None),
        ("data.root=../some=where", "data.root", "../some=where"),
        ("data.root=1..2", "data.root", "1..2"),
        ("explainer.target=true", "explainer.target", "true"),
        ("seed=5", "seed", 5),
        ("stages=pretrain", "stages", ["pretrain"]),
        ("stages=[pretrain, joint]", "stages", ["pretrain", "joint"]),
        ("evaluation.metrics=accuracy", "evaluation.metrics", ["accuracy"]),
    ],
)
def test_a_value_fixes_a_setting(override, key, value):
    spec = changed(override, scheduler={"type": "none"})
    assert spec.settings[key] == value
    assert spec.configure({}).flat()[key] == value
    assert spec.overrides == (override,)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("sampler.type=random", lambda spec: spec.sampler.type == "random" and spec.sampler.startup_trials == 10),
        ("scheduler.grace_epochs=2", lambda spec: spec.scheduler.grace_epochs == 2 and spec.scheduler.type == "asha"),
        ("budget.trials=5", lambda spec: spec.budget.trials == 5),
        ("budget.time=1h30m", lambda spec: spec.budget.time == 5400 and spec.budget.trials == 12),
        ("budget.time=null", lambda spec: spec.budget.time is None),
        ("resources.cpus_per_trial=0.5", lambda spec: spec.resources.cpus_per_trial == 0.5),
        ("repeats=3", lambda spec: spec.repeats == 3),
        ("study.repeats=3", lambda spec: spec.repeats == 3),
        ("name=other", lambda spec: spec.name == "other"),
        ("study.name=other", lambda spec: spec.name == "other"),
        ("study.seed=9", lambda spec: spec.seed == 9 and spec.configure({}).seed == 0),
        ("seed=9", lambda spec: spec.seed == 0 and spec.configure({}).seed == 9),
    ],
)
def test_a_study_has_values_of_its_own(override, found):
    assert not found(changed()) or override == "budget.time=null"
    assert found(changed(override))


RANGES = [
    ("loss.lambda_e=1..50", {"type": "float", "low": 1, "high": 50, "log": True}),
    ("loss.lambda_e=1e-4..1e-2", {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}),
    ("loss.lambda_e= .5 .. 2. ", {"type": "float", "low": 0.5, "high": 2.0, "log": True}),
    ("loss.lambda_e=0..3:step=0.5", {"type": "float", "low": 0, "high": 3, "step": 0.5}),
    ("loss.lambda_c=3..9", {"type": "int", "low": 3, "high": 9, "step": 2}),
    ("loss.lambda_c=3..9:log", {"type": "int", "low": 3, "high": 9, "log": True}),
    ("loss.lambda_c=0.5..8.5", {"type": "float", "low": 0.5, "high": 8.5, "step": 2}),
    ("loss.lambda_ft=1..10", {"type": "float", "low": 1, "high": 10}),
    ("loss.lambda_ft=1..10:log", {"type": "float", "low": 1, "high": 10, "log": True}),
    ("critic.batches=2..8", {"type": "int", "low": 2, "high": 8}),
    ("critic.batches=1e1..2e1:step=5", {"type": "int", "low": 10, "high": 20, "step": 5}),
    ("joint.epochs=2..4", {"type": "int", "low": 2, "high": 4}),
    (
        "explainer.steps=3..5",
        {"type": "int", "low": 3, "high": 5, "points": 3, "when": {"explainer.method": ["integrated_gradient"]}},
    ),
    (
        "explainer.steps=3..5:step=1",
        {"type": "int", "low": 3, "high": 5, "step": 1, "when": {"explainer.method": ["integrated_gradient"]}},
    ),
    ("critic.learning_rate=1e-3..1", {"type": "float", "low": 1e-3, "high": 1, "log": True}),
    ("loss.lambda_e=[1, 10]", {"type": "categorical", "choices": [1, 10]}),
    ("model.name=[Net1, SimpleConvNet]", {"type": "categorical", "choices": ["Net1", "SimpleConvNet"]}),
    ("explainer.target=[true, predicted]", {"type": "categorical", "choices": ["true", "predicted"]}),
    ("critic.model=[null, MLP]", {"type": "categorical", "choices": [None, "MLP"]}),
    (
        "explainer.steps=[2, 4]",
        {"type": "categorical", "choices": [2, 4], "when": {"explainer.method": ["integrated_gradient"]}},
    ),
    ("critic.learning_rate=[0.1, 0.2]", {"type": "categorical", "choices": [0.1, 0.2]}),
    ("loss.lambda_e={low: 1, high: 9}", {"type": "float", "low": 1, "high": 9}),
    ("critic.batches={low: 2, high: 9, log: true}", {"type": "int", "low": 2, "high": 9, "log": True}),
    ("critic.batches={choices: [2, 9]}", {"type": "categorical", "choices": [2, 9]}),
    ("explainer.steps={type: int, low: 3, high: 4}", {"type": "int", "low": 3, "high": 4}),
]


@pytest.mark.parametrize(("override", "dimension"), RANGES, ids=[one[0] for one in RANGES])
def test_a_setting_is_searched(override, dimension):
    spec, key = changed(override), override.split("=")[0]
    assert dimensions(spec, key) == [dimension]
    assert key not in spec.settings
    assert [type(value) for value in dimensions(spec, key)[0].values()] == [type(value) for value in dimension.values()]
    others = spec.space.keys() - {key}
    assert others == CONTENT["space"].keys() - {key}


def test_several_dimensions_are_given_whole():
    text = (
        "critic.learning_rate=[{low: 1, high: 2, when: {critic.optimizer: adam}}, "
        "{low: 3, high: 4, when: {critic.optimizer: adadelta}}]"
    )
    low = [(one["type"], one["low"], one["when"]) for one in dimensions(changed(text), "critic.learning_rate")]
    assert low == [("float", 1, {"critic.optimizer": ["adam"]}), ("float", 3, {"critic.optimizer": ["adadelta"]})]


def test_dimensions_that_are_not_all_logarithmic_become_a_linear_one():
    plain, logarithmic = CONTENT["space"]["critic.learning_rate"]
    mixed = {**CONTENT["space"], "critic.learning_rate": [{**plain, "log": False}, logarithmic]}
    assert dimensions(changed("critic.learning_rate=0.5..1", space=mixed), "critic.learning_rate") == [
        {"type": "float", "low": 0.5, "high": 1}
    ]


def test_a_fixed_setting_leaves_the_space_and_decides_its_conditions():
    spec = changed("critic.optimizer=adadelta")
    assert spec.settings["critic.optimizer"] == "adadelta"
    assert "critic.optimizer" not in spec.space
    assert dimensions(spec, "critic.learning_rate") == [{"type": "float", "low": 0.05, "high": 2, "log": True}]
    assert "explainer.normalization" not in spec.space  # one of its two conditions was adam
    both = changed("critic.optimizer=adam", "explainer.method=input_x_gradient")
    assert dimensions(both, "explainer.normalization") == [{"type": "categorical", "choices": ["batch", "sample"]}]
    assert "explainer.steps" not in both.space


def test_only_its_own_part_of_a_condition_is_decided():
    [left] = dimensions(changed("critic.optimizer=adam"), "explainer.normalization")
    assert left["when"] == {"explainer.method": ["input_x_gradient", "integrated_gradient"]}


def test_what_depends_on_a_dimension_that_goes_goes_too():
    chained = {
        **CONTENT["space"],
        "critic.images": {
            "type": "categorical",
            "choices": ["clean", "confounded"],
            "when": {"explainer.normalization": "sample"},
        },
        "critic.set": {
            "type": "categorical",
            "choices": ["inside", "separate"],
            "when": {"critic.images": "clean", "explainer.method": "gradcam"},
        },
    }
    spec = changed("explainer.method=gradcam", space=chained)
    assert not spec.space.keys() & {"explainer.normalization", "critic.images", "critic.set", "explainer.steps"}
    kept = changed("explainer.normalization=sample", space=chained)
    assert dimensions(kept, "critic.images") == [{"type": "categorical", "choices": ["clean", "confounded"]}]


def test_choices_that_go_take_what_needs_them_along():
    spec = changed("explainer.method=[input_x_gradient, gradcam]", "critic.optimizer=[adam]")
    assert "explainer.steps" not in spec.space
    assert dimensions(spec, "explainer.normalization")[0]["when"] == {
        "explainer.method": ["input_x_gradient"],
        "critic.optimizer": ["adam"],
    }
    [left] = dimensions(spec, "critic.learning_rate")
    assert left["high"] == 1e-2 and left["when"] == {"critic.optimizer": ["adam"]}


def test_a_condition_that_never_held_is_still_told():
    never = {**CONTENT["space"]["explainer.steps"], "when": {"explainer.method": "saliency"}}
    message = refusal(
        "explainer.method=[integrated_gradient, gradcam]", space={**CONTENT["space"], "explainer.steps": never}
    )
    assert "explainer.method is never 'saliency'" in message


def test_reference_trials_keep_their_settings():
    spec = changed("critic.optimizer=adam", "loss.lambda_e=3", "joint.epochs=5")
    published = spec.configure(spec.reference_trials["published"])
    assert (published.loss.lambda_e, published.critic.optimizer, published.joint.epochs) == (50, "adadelta", 5)


def test_the_last_word_counts():
    fixed = changed("loss.lambda_e=1..5", "loss.lambda_e=2")
    assert fixed.settings["loss.lambda_e"] == 2 and "loss.lambda_e" not in fixed.space
    searched = changed("joint.epochs=4", "joint.epochs=2..5", "budget.trials=9", "budget.trials=8")
    assert "joint.epochs" not in searched.settings and dimensions(searched, "joint.epochs")[0]["high"] == 5
    assert searched.budget.trials == 8


ONE = {"loss.lambda_e": CONTENT["space"]["loss.lambda_e"]}


def test_an_empty_space_runs_the_reference_trials_and_nothing_else():
    spec = changed("loss.lambda_e=3", "budget.trials=2", space=ONE)
    assert not spec.space and spec.budget.trials == 2
    assert refusal("loss.lambda_e=3", space=ONE) == (
        "--set loss.lambda_e=3: leaves nothing to search; budget.trials 12 must then be the 2 reference trials: "
        "--set budget.trials=2"
    )
    assert "no reference trials to run" in refusal("loss.lambda_e=3", space=ONE, reference_trials={})
    assert changed("loss.lambda_e=3", "loss.lambda_ft=1..9", space=ONE).space
    assert changed("budget.trials=3", space={}).budget.trials == 3  # it was empty before


REFUSED = [
    ("loss.lamda_e=3", "unknown setting 'loss.lamda_e'; did you mean 'loss.lambda_e'? Valid: loss.lambda_c, loss"),
    ("los.lambda_e=3", "unknown setting 'los.lambda_e'; did you mean 'loss.lambda_e'? Valid: loss.lambda_c, loss"),
    ("lambda_ft=3", "unknown setting 'lambda_ft'; did you mean 'loss.lambda_ft'?"),
    ("budget.trails=3", "unknown setting 'budget.trails'; did you mean 'budget.trials'?"),
    ("study.reapets=3", "unknown setting 'study.reapets'; did you mean 'study.repeats'?"),
    ("repeat=3", "unknown setting 'repeat'; did you mean 'repeats'?"),
    ("xyzzy=3", "unknown setting 'xyzzy'; Valid: budget.*, confounder.*"),
    ("loss=3", "'loss' is a section; name one of its settings, such as 'loss.lambda_c'"),
    ("sampler=random", "'sampler' is a section; name one of its settings, such as 'sampler.type'"),
    ("loss.lambda_e", "must be KEY=VALUE"),
    ("=3", "must be KEY=VALUE"),
    ("loss.lambda_e=[1, 2", "expected ',' or ']'"),
    ("loss.lambda_e=1..", "'1..' is no range of numbers; valid: LOW..HIGH, LOW..HIGH:log or LOW..HIGH:step=STEP"),
    ("loss.lambda_e=1..9:lgo", "'1..9:lgo' is no range of numbers"),
    ("loss.lambda_e=low..high", "'low..high' is no range of numbers"),
    ("loss.lambda_e=9..1", "low 9 must be below high 1"),
    ("loss.lambda_e=0..9", "low 0 must be above 0 on a log scale"),
    ("loss.lambda_e=1..1e999", "is not valid: should be a finite number"),
    ("loss.lambda_e=1..1e12", "high 1000000000000.0 is refused: loss.lambda_e = 1000000000000.0 is not valid"),
    ("loss.lambda_e=1..1" + "0" * 30, "is too large for a whole number"),
    ("loss.lambda_c=2..9", "step 2 does not lead from low 2 to high 9"),
    ("loss.lambda_e=-1", "loss.lambda_e = -1 is not valid: should be greater than or equal to 0"),
    ("loss.lambda_e=", "loss.lambda_e = None is not valid"),
    ("loss.lambda_e=[]", "needs choices"),
    ("loss.lambda_e={low: 1, hihg: 2}", "unknown key 'hihg'; did you mean 'high'?"),
    ("loss.lambda_e={low: 1}", "needs low and high"),
    ("loss.lambda_e=[{low: 1, high: 2}, 3]", "3 is no dimension; valid: a mapping such as {low: 0, high: 1}"),
    ("critic.batches=2.5..8", "low 2.5 must be a whole number in a dimension of type int"),
    ("critic.optimizer=[adam, adamm]", "choice 'adamm' is refused"),
    ("critic.optimizer=adamm", "critic.optimizer = 'adamm' is not valid: should be 'adadelta', 'adam' or 'sgd'"),
    ("critic.optimizer={low: 1, high: 2}", "the setting is no number; valid: choices, such as [a, b]"),
    ("model.name=Net2", "unknown model 'Net2'; did you mean 'Net1'?"),
    ("stages={choices: [pretrain]}", "a setting that holds a list cannot be searched"),
    ("stages=[joint, pretrain]", "stages ['joint', 'pretrain'] must be neighbours"),
    ("seed=1..3", "must be the same for all trials; put it under settings"),
    ("explainer.steps={low: 2, high: 3, when: {explainer.metod: gradcam}}", "unknown searched setting 'explainer.met"),
    ("budget.trials=few", "'few' is not valid: should be a valid integer"),
    ("budget.trials=1", "1 is less than the 2 reference trials"),
    ("budget.time=soon", "'soon' is no duration above 0"),
    ("scheduler.grace_epochs=99", "99 is more than the 15 epochs of a trial"),
    ("sampler.type=tpa", "'tpa' is not valid"),
    ("repeats=0", "0 is not valid"),
    ("name=a b", "'a b' is not valid"),
]


@pytest.mark.parametrize(("override", "reason"), REFUSED, ids=[one[0][:40] for one in REFUSED])
def test_what_is_wrong_with_an_override_is_told_with_it(override, reason):
    message = refusal("loss.lambda_ft=3", override)
    assert message.startswith(f"--set {override}: ")
    assert reason in message


def test_an_error_in_many_lines_is_told_in_one_and_without_credentials():
    message = refusal("data.root=[http://me:hush@host/a,\n  http://me:hush@host/a]")
    assert message.startswith("--set data.root=[http://***@host/a, http://***@host/a]: ")
    assert "hush" not in message


STUDY = """\
settings:
  joint.epochs: 3
  finetune.epochs: 2
  pretrain.epochs: 2
space:
  critic.optimizer: {type: categorical, choices: [adam, sgd]}
  critic.learning_rate:
    - {type: float, low: 1e-3, high: 1e-1, when: {critic.optimizer: adam}}
    - {type: float, low: 1, high: 1e-1, when: {critic.optimizer: sgd}}
objectives: [{metric: accuracy, direction: maximize}]
scheduler: {grace_epochs: 6}
profiles:
  small: {settings: {joint.epochs: 4}}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY)
    return "study.yaml"


def test_a_fault_of_the_file_keeps_its_line(file):
    told = "space.critic.learning_rate: low 1 must be below high 0.1"
    with pytest.raises(StudyError) as error:
        load(file, overrides=["loss.lambda_e=3"])
    assert str(error.value) == f"study.yaml:9: {told}; with --set loss.lambda_e=3"
    with pytest.raises(StudyError) as error:
        load(file, overrides=["critic.optimizer=sgd"])  # the dimension is the first that is left, not the first there
    assert str(error.value) == f"study.yaml:7: {told}; with --set critic.optimizer=sgd"


def test_an_override_that_breaks_something_else_is_told_beside_the_line(file):
    with pytest.raises(StudyError) as error:
        load(file, overrides=["critic.optimizer=adam", "joint.epochs=1"])
    assert str(error.value) == (
        "study.yaml:11: scheduler.grace_epochs: 6 is more than the 5 epochs of a trial; "
        "with --set critic.optimizer=adam --set joint.epochs=1"
    )


def test_overrides_lie_over_the_profile_and_stand_in_the_command(file):
    overrides = ["critic.learning_rate=1..2", "critic.model=null"]
    spec = load(file, "small", overrides)
    assert spec.settings["joint.epochs"] == 4 and spec.space["critic.learning_rate"][0].low == 1
    assert load(file, "small", ["joint.epochs=5", *overrides]).settings["joint.epochs"] == 5
    command = shlex.split(spec.command)
    assert command[2:] == ["--study", file, "--profile", "small", *(x for one in overrides for x in ("--set", one))]
    assert "hush" not in load(file, None, [*overrides, "data.root=http://me:hush@host"]).command


def test_the_resolved_study_has_the_overrides_in_it(file):
    spec = load(file, None, ["critic.optimizer=adam", "budget.trials=7"])
    again = StudySpec.build(spec.plain())
    assert again.fingerprint() == spec.fingerprint() and again.budget.trials == 7
    assert again.overrides == ()


def test_the_study_that_comes_along_can_be_changed():
    path = STUDIES / "decoy_mnist.yaml"
    keys = load(path).space.keys()
    spec = load(path, overrides=["critic.learning_rate=1e-3..1e-1", "explainer.method=gradcam", "loss.lambda_e=1..100"])
    assert keys - spec.space.keys() == {"explainer.method", "explainer.steps", "explainer.normalization"}
    [rate] = spec.space["critic.learning_rate"]
    assert rate.log and not rate.when and (rate.low, rate.high) == (1e-3, 1e-1)
