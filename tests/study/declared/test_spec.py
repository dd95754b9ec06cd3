"""Study files: what loads, and that every fault is found on its line before anything starts."""

import json
from pathlib import Path

import pytest
import yaml

from lsx.config import Config
from lsx.errors import StudyError
from lsx.study.declared.declaration import difference
from lsx.study.declared.sections import Constraint, seconds
from lsx.study.declared.spec import STUDIES, StudySpec, find, load

STUDY = """\
question: does it learn?
settings:
  data.dataset: decoy_mnist
  pretrain:
    epochs: 2
    batch_size: 16
space:
  loss.lambda_e: {type: float, low: 1e-1, high: 100, log: true}
  critic.batches: {type: int, low: 2, high: 8}
  critic.optimizer:
    type: categorical
    choices: [adam, adadelta]
  critic.learning_rate:
    - {type: float, low: 1e-4, high: 1e-2, when: {critic.optimizer: adam}}
    - {type: float, low: 1e-2, high: 1.0, when: {critic.optimizer: adadelta}}
objectives:
  - {metric: accuracy, direction: maximize}
  - metric: reference_relevance_mass
    direction: minimize
reference_trials:
  baseline: {stages: [pretrain]}
  published:
    loss: {lambda_e: 100}
scheduler:
  grace_epochs: 3
budget: {trials: 12}
profiles:
  small:
    settings: {pretrain.epochs: 1}
    space:
      critic.batches: null
      loss.lambda_e: {type: float, low: 1, high: 2}
    reference_trials:
      published: {loss.lambda_c: 2}
    budget: {trials: 3}
  wrong:
    space:
      loss.lambda_e: {type: float, low: 3, high: 2}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "study.yaml") -> str:
        Path(name).write_text(text)
        return name

    return write


def test_a_study_file_is_read(write):
    spec = load(write(STUDY, "digits.yaml"))
    assert spec.study_name == spec.name == "digits"
    assert spec.settings == {"data.dataset": "decoy_mnist", "pretrain.epochs": 2, "pretrain.batch_size": 16}
    assert spec.space["loss.lambda_e"][0].low == 0.1  # YAML 1.1 would have read the text "1e-1"
    assert [objective.metric for objective in spec.objectives] == ["accuracy", "reference_relevance_mass"]
    assert spec.baseline == "baseline"
    assert spec.budget.trials == 12 and spec.budget.attempts == 3
    assert spec.command == "python tune.py --study digits.yaml"


def test_a_profile_is_laid_over_the_file(write):
    spec = load(write(STUDY), "small")
    assert spec.study_name == "study-small"
    assert spec.settings["pretrain.epochs"] == 1 and spec.settings["pretrain.batch_size"] == 16
    assert set(spec.space) == {"loss.lambda_e", "critic.optimizer", "critic.learning_rate"}
    assert spec.space["loss.lambda_e"][0].log is False  # replaced whole, not merged
    assert spec.reference_trials["published"] == {"loss.lambda_e": 100, "loss.lambda_c": 2}
    assert spec.budget.trials == 3
    assert spec.command == "python tune.py --study study.yaml --profile small"


FAULTS = [
    ("question: does", "qestion: does", 1, "unknown key 'qestion'; did you mean 'question'?"),
    ("question: does it learn?", "profile: paper", 1, "unknown key 'profile'"),
    ("    epochs: 2", "    epochs: -2", 5, "settings: pretrain.epochs = -2 is not valid"),
    ("    epochs: 2", "    epoch: 2", 5, "unknown setting 'pretrain.epoch'; did you mean 'pretrain.epochs'?"),
    ("    epochs: 2", "    epochs: 2\n    epochs: 3", 6, "'epochs' stands here a second time"),
    ("decoy_mnist", "decoy_mnst", 3, "unknown dataset 'decoy_mnst'; did you mean 'decoy_mnist'?"),
    (
        "decoy_mnist",
        "decoy_mnist\n  explainer.method: input",
        4,
        "explainer.method = 'input' is not valid: its explanations give the learner no gradient",
    ),
    ("low: 1e-1, high: 100", "low: 0, high: 100", 8, "space.loss.lambda_e: low 0 must be above 0 on a log scale"),
    ("low: 1e-1, high: 100", "low: 100, high: 100", 8, "low 100 must be below high 100"),
    ("low: 1e-1, high: 100", "low: 1, high: 1e12", 8, "space.loss.lambda_e: high 1000000000000.0 is refused"),
    ("low: 1e-1, high: 100", "low: 1, high: .inf", 8, "space.loss.lambda_e.high"),
    ("low: 1e-1, high: 100", "low: low, high: 100", 8, "space.loss.lambda_e.low: 'low' is not a number"),
    ("low: 1e-1, high: 100", "low: 1, hihg: 100", 8, "unknown key 'hihg'; did you mean 'high'?"),
    ("low: 1e-1, high: 100, log: true", "low: 1", 8, "needs low and high"),
    ("high: 100, log: true", "high: 100, step: 0.1, log: true", 8, "step 0.1 cannot be had on a log scale"),
    ("low: 2, high: 8", "low: 2, high: 8.5", 9, "high 8.5 must be a whole number"),
    ("low: 2, high: 8", "low: 2, high: 8, step: 4", 9, "step 4 does not lead from low 2 to high 8"),
    ("low: 2, high: 8", "low: 0, high: 8", 9, "space.critic.batches: low 0 is refused: critic.batches = 0"),
    ("type: int, low: 2", "type: float, low: 2", 9, "space.critic.batches: value"),
    ("critic.batches: {", "critic.batchs: {", 9, "unknown setting 'critic.batchs'; did you mean 'critic.batches'?"),
    ("critic.batches: {", "critic: {", 9, "'critic' is a section of settings"),
    ("critic.batches: {", "pretrain.epochs: {", 9, "is set under settings too"),
    ("critic.batches: {", "seed: {", 9, "space.seed: must be the same for all trials; put it under settings"),
    ("critic.batches: {", "data.seed: {", 9, "space.data.seed: must be the same for all trials"),
    ("critic.batches: {", "evaluation.max_images: {", 9, "space.evaluation.max_images: must be the same"),
    ("  small:", "  a/b:", 28, "profiles: 'a/b' is no name of a profile"),
    ("    choices: [adam, adadelta]", "    choices: [adam, adadleta]", 12, "choice 'adadleta' is refused"),
    ("    choices: [adam, adadelta]", "    choices: [adam, adam]", 10, "name a value twice"),
    ("    choices: [adam, adadelta]", "    low: 1", 10, "needs choices"),
    ("critic.optimizer: adam}", "critic.optimiser: adam}", 14, "unknown searched setting 'critic.optimiser'; did you"),
    ("critic.optimizer: adam}", "critic.optimizer: sgd}", 14, "critic.optimizer is never 'sgd'; valid: adam, adadelta"),
    ("critic.optimizer: adam}", "loss.lambda_e: 1}", 14, "is a float; conditions need"),
    ("critic.optimizer: adadelta}", "critic.optimizer: adam}", 15, "can hold at once"),
    ("low: 2, high: 8", "low: 2, high: 8, when: {critic.batches: 2}", 9, "circle: critic.batches"),
    ("metric: accuracy", "metric: acuracy", 17, "unknown metric 'acuracy'; did you mean 'accuracy'?"),
    ("metric: reference_relevance_mass", "metric: accuracy", 18, "accuracy is an objective already"),
    ("direction: maximize}", "direction: up}", 17, "objectives.0.direction: 'up' is not valid"),
    ("decoy_mnist", "mnist", 18, "'mnist' has no mask"),
    (
        "baseline: {stages: [pretrain]}",
        "baseline: {stages: [joint, pretrain]}",
        21,
        "reference_trials.baseline: stages",
    ),
    ("    loss: {lambda_e: 100}", "    loss: {lambda_f: 100}", 23, "unknown setting 'loss.lambda_f'"),
    ("  published:\n    loss: {lambda_e: 100}", "  published: 3", 22, "must be a mapping of settings, not 3"),
    ("scheduler:", "baseline: base\nscheduler:", 24, "unknown reference trial 'base'; did you mean 'baseline'?"),
    ("  grace_epochs: 3", "  grace_epochs: 23", 25, "23 is more than the 22 epochs of a trial"),
    ("  grace_epochs: 3", "  metric: critic_loss", 25, "unknown metric 'critic_loss'"),
    ("  grace_epochs: 3", "  reduction_factor: 1", 25, "scheduler.reduction_factor: 1 is not valid"),
    ("  grace_epochs: 3", "  grace: 3", 25, "scheduler: unknown key 'grace'; did you mean 'grace_epochs'?"),
    ("budget: {trials: 12}", "budget: {trials: 1}", 26, "1 is less than the 2 reference trials"),
    ("budget: {trials: 12}", "resources: {gpus_per_trial: all}", 26, "'all' is neither auto nor a number"),
    ("budget: {trials: 12}", "resources: {seeds_together: maybe}", 26, "'maybe' is none of auto, true and false"),
    ("budget: {trials: 12}", "budget: {time: soon}", 26, "budget.time: 'soon' is no duration above 0, such as 45s"),
    ("budget: {trials: 12}", "budget: {stalled_after: 0}", 26, "budget.stalled_after: 0 is no duration above 0"),
    ("budget: {trials: 12}", "repeats: 0", 26, "repeats: 0 is not valid"),
    ("scheduler:", "constraints: [{metric: accuracy}]\nscheduler:", 24, "constraints.0: a constraint needs low, high"),
    ("scheduler:", "constraints: [{metric: accuracy, low: 2, high: 1}]\nscheduler:", 24, "must not be above high"),
    (
        "scheduler:",
        "constraints: [{metric: acuracy, low: 2}]\nscheduler:",
        24,
        "unknown metric 'acuracy'; did you mean",
    ),
    ("  grace_epochs: 3", "  type: medain", 25, "scheduler.type: 'medain' is not valid"),
    ("budget: {trials: 12}", "sampler: {type: nsga2, population: 1}", 26, "sampler.population: 1 is not valid"),
    ("scheduler:", "sampler: {type: grid}\nscheduler:", 8, "space.loss.lambda_e"),
    ("budget: {trials: 12}", "budget: 12", 26, "must be a mapping of keys to values, not 12"),
    ("budget: {trials: 12}", "budget: {trials: 12", 27, "expected ',' or '}'"),
    ("low: 2, high: 8", "low: 2, high: 8, step: !!int abc", 9, "'abc' is no int"),
    ("low: 1e-1, high: 100", "low: !!float x, high: 100", 8, "'x' is no float"),
    ("log: true", "log: !!bool x", 8, "'x' is no bool"),
    ("it learn?", "it learn\0?", 1, "the character '\\x00' is not allowed"),
    ("scheduler:", "? [a, b]\n: 1\nscheduler:", 24, "a key must be a text"),
    ("decoy_mnist", "[" * 3000 + "]" * 3000, 1, "too many levels"),
    ("high: 100, log: true", "high: 100, step: 1.0e-300", 8, "step 1e-300 is too small"),
    ("high: 100, log: true", "high: 1.0e+300, step: 1.0e-300", 8, "step 1e-300 is too small"),
    ("low: 2, high: 8", "low: 2, high: 1" + "0" * 400, 9, "is too large for a whole number"),
    (
        "critic.batches: {type: int, low: 2, high: 8}",
        "critic.batches: 5",
        9,
        "space.critic.batches: must be a mapping such as {type: float, low: 0, high: 1}, or a list of these, not 5",
    ),
    ("{type: int, low: 2, high: 8}", "[5]", 9, "or a list of these, not [5]"),
    ("{type: int, low: 2, high: 8}", "null", 9, "or a list of these, not None"),
]


@pytest.mark.parametrize(("old", "new", "line", "message"), FAULTS, ids=[fault[3][:40] for fault in FAULTS])
def test_a_fault_is_found_on_its_line(write, old, new, line, message):
    assert old in STUDY
    path = write(STUDY.replace(old, new, 1))
    with pytest.raises(StudyError) as error:
        load(path)
    text = str(error.value)
    assert text.startswith(f"study.yaml:{line}: ")
    assert message in text
    assert "\n" not in text


def test_a_date_is_a_text(write):
    assert load(write(f"notes: 2024-13-45\n{STUDY}")).notes == "2024-13-45"


def test_what_is_no_dimension_in_a_profile_is_found_there(write):
    text = STUDY.replace("loss.lambda_e: {type: float, low: 1, high: 2}", "loss.lambda_e: 5")
    with pytest.raises(StudyError, match=r"^study.yaml:32: profiles.small.space.loss.lambda_e: must be a mapping such"):
        load(write(text), "small")


def test_a_fault_in_a_profile_is_found_on_the_profiles_line(write):
    with pytest.raises(StudyError, match=r"^study.yaml:38: space.loss.lambda_e: low 3 must be below high 2$"):
        load(write(STUDY), "wrong")


def test_a_profiles_name_is_text(write):
    assert load(write(STUDY.replace("  small:", "  1:")), "1").study_name == "study-1"
    with pytest.raises(StudyError, match=r"unknown profile '2'; .*Valid: 1, wrong"):
        load(write(STUDY.replace("  small:", "  1:")), "2")


def test_the_longest_trial_counts_searched_epochs(write):
    searched = STUDY.replace("critic.batches: {type: int, low: 2", "joint.epochs: {type: int, low: 2")
    assert load(write(STUDY)).longest == 2 + 10 + 10
    assert load(write(searched)).longest == 2 + 8 + 10


def test_what_workers_would_not_know_is_refused(monkeypatch):
    from lsx.explainers import EXPLAINERS, InputXGradientExplainer

    class Mine(InputXGradientExplainer):
        pass

    monkeypatch.setattr(EXPLAINERS, "_entries", {**EXPLAINERS._entries, "mine": Mine})
    content = {"objectives": [{"metric": "accuracy", "direction": "maximize"}]}
    with pytest.raises(StudyError, match=r"explainer.method = 'mine' is not valid: .* as package.module:Name$"):
        StudySpec.build({**content, "settings": {"explainer.method": "mine"}})
    named = f"{InputXGradientExplainer.__module__}:InputXGradientExplainer"
    StudySpec.build({**content, "settings": {"explainer.method": named}})


def test_lines_of_what_a_profile_replaces_are_forgotten(write):
    text = STUDY.replace("critic.batches: null", "critic.learning_rate: {type: float, low: 3, high: 2}")
    with pytest.raises(StudyError, match=r"^study.yaml:31: space.critic.learning_rate: low 3 must be below high 2$"):
        load(write(text), "small")


def test_a_profile_that_takes_a_condition_away_is_told_where_it_is_missed(write):
    text = STUDY.replace("critic.batches: null", "critic.optimizer: null")
    with pytest.raises(StudyError, match=r"^study.yaml:14: space.critic.learning_rate: when: unknown searched setting"):
        load(write(text), "small")


def test_unknown_profiles_and_studies_are_told_with_the_nearest(write):
    path = write(STUDY)
    with pytest.raises(StudyError, match=r"study.yaml:27: unknown profile 'smal'; did you mean 'small'\?"):
        load(path, "smal")
    with pytest.raises(StudyError, match=r"unknown study 'decoy_mnis'; did you mean 'decoy_mnist'\?"):
        load("decoy_mnis")
    with pytest.raises(StudyError, match="study file 'no/such.yaml' does not exist"):
        load("no/such.yaml")


@pytest.mark.parametrize("text", ["", "- a", "settings: [1]", "a: *b", "a: &a [*a]", "\t"])
def test_what_is_no_study_is_refused_in_one_line(write, text):
    with pytest.raises(StudyError, match=r"^study.yaml:\d+: [^\n]+$"):
        load(write(text))


def test_a_study_in_the_working_folder_comes_first(write):
    assert find("decoy_mnist") == STUDIES / "decoy_mnist.yaml"
    Path("studies").mkdir()
    write(STUDY, "studies/decoy_mnist.yaml")
    assert find("decoy_mnist") == Path("studies/decoy_mnist.yaml")


def test_a_trials_settings_lie_over_the_studys(write):
    spec = load(write(STUDY))
    config = spec.configure({"loss.lambda_e": 3, "pretrain.epochs": 7})
    assert config == Config.build(
        {"data.dataset": "decoy_mnist", "pretrain": {"epochs": 7, "batch_size": 16}, "loss.lambda_e": 3}
    )


def test_a_reference_trial_inside_of_the_space_is_a_point_of_it(write):
    params, overrides = load(write(STUDY.replace("high: 8}", "high: 18}"))).reference("published")
    assert params == {
        "loss.lambda_e": 100,
        "critic.batches": 18,  # Config's default
        "critic.optimizer": "adadelta",
        "critic.learning_rate@adadelta": 0.2,
    }
    assert overrides == {}


def test_a_value_out_of_bounds_is_an_override(write):
    params, overrides = load(write(STUDY)).reference("published")
    assert "critic.batches" not in params
    assert overrides == {"critic.batches": 18}


def test_a_reference_trial_outside_of_the_space_teaches_the_sampler_nothing(write):
    params, overrides = load(write(STUDY)).reference("baseline")
    assert params == {}
    assert overrides == {
        "stages": ["pretrain"],
        "loss.lambda_e": 100,
        "critic.batches": 18,
        "critic.optimizer": "adadelta",
        "critic.learning_rate": 0.2,
    }


def test_the_resolved_study_loads_to_the_same_study(write):
    spec = load(write(STUDY), "small")
    again = load(write(yaml.safe_dump(spec.plain(), sort_keys=False), "resolved.yaml"))
    assert again.study_name == "study-small"
    assert again.fingerprint() == spec.fingerprint()
    assert again.budget == spec.budget


def test_the_fingerprint_tells_what_changed(write):
    old = load(write(STUDY)).fingerprint()
    assert json.loads(json.dumps(old)) == old
    changes = [("low: 1e-1", "low: 1"), ("epochs: 2", "epochs: 5"), ("lambda_e: 100}", "lambda_e: 10}")]
    text = STUDY
    for change in changes:
        text = text.replace(*change, 1)
    assert difference(old, load(write(text)).fingerprint()) == [
        "reference_trials.published.loss.lambda_e: 100.0 became 10.0",
        "settings.pretrain.epochs: 2 became 5",
        "space.loss.lambda_e: [{'type': 'float', 'low': 0.1, 'high': 100, 'log': True}] became "
        "[{'type': 'float', 'low': 1, 'high': 100, 'log': True}]",
    ]


@pytest.mark.parametrize(
    "change",
    [
        ("trials: 12", "trials: 99"),
        ("budget:", "resources: {cpus_per_trial: 2}\nbudget:"),
        ("budget:", "notes: x\nbudget:"),
        ("  pretrain:", "  device: cpu\n  pretrain:"),
        ("  pretrain:", "  joint.epochs: 10\n  pretrain:"),  # the default, spelt out
    ],
)
def test_budget_resources_notes_and_spelt_out_defaults_may_change(write, change):
    old = load(write(STUDY)).fingerprint()
    assert difference(old, load(write(STUDY.replace(*change, 1))).fingerprint()) == []


def test_a_study_is_built_without_a_file():
    spec = StudySpec.build({"objectives": [{"metric": "accuracy", "direction": "maximize"}]})
    assert spec.name == "study" and spec.baseline is None
    with pytest.raises(StudyError, match="^objectives: is missing$"):
        StudySpec.build({})


@pytest.mark.parametrize("profile", [None, *yaml.safe_load((STUDIES / "decoy_mnist.yaml").read_text())["profiles"]])
def test_the_studies_that_come_along_are_sound(profile):
    spec = load(STUDIES / "decoy_mnist.yaml", profile)
    assert [(one.metric, one.direction) for one in spec.objectives] == [
        ("accuracy", "maximize"),
        ("reference_relevance_mass", "minimize"),
    ]
    assert list(spec.reference_trials)[:2] == ["baseline", "published"]
    assert spec.configure(spec.reference_trials["baseline"]).stages == ("pretrain",)
    published = spec.configure(spec.reference_trials["published"])
    assert (published.loss.lambda_c, published.loss.lambda_e, published.loss.lambda_ft) == (1, 100, 100)
    assert spec.reference("published")[0]["loss.lambda_e"] == 100


@pytest.mark.parametrize(
    ("text", "found"),
    [("45s", 45), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("3d", 259200), ("90", 90), (1.5, 1.5), ("1.5h", 5400)],
)
def test_durations(text, found):
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["", "h", "2 h", "-1", "0", "1m1h", "nan", "inf", True, None, "1e3"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is no duration above 0"):
        seconds(text)


@pytest.mark.parametrize(
    ("bounds", "value", "violation"),
    [
        ({"low": 0.5}, 0.25, 0.25),
        ({"low": 0.5}, 0.5, 0),
        ({"high": 0.5}, 0.75, 0.25),
        ({"low": 0, "high": 1}, 0.5, -0.5),
    ],
)
def test_violations_are_counted_as_optuna_does(bounds, value, violation):
    assert Constraint(metric="accuracy", **bounds).violation(value) == violation
