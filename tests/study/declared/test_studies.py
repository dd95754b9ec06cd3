"""The studies that come along ask what they should and hold the published numbers; docs/studies.md tells the truth."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from lsx.config import Config, flatten
from lsx.errors import StudyError
from lsx.metrics import METRICS
from lsx.study.declared.checks import preflight
from lsx.study.declared.declaration import compatible
from lsx.study.declared.sections import Budget, Constraint, Objective, Resources, Sampler, Scheduler
from lsx.study.declared.space import Dimension
from lsx.study.declared.spec import STUDIES, StudySpec, load

NAMES = ["color_mnist", "decoy_mnist", "decoy_mnist_deconfounded", "mnist_few_shot", "mnist_full"]
PROFILES = [None, "quick", "paper"]
EMBEDDED = [(name, profile) for name in NAMES for profile in (None, "quick") if (name, profile) != ("mnist_full", None)]
DOWNLOADED = [("mnist_full", None), *((name, "paper") for name in NAMES)]
PAGE = (STUDIES.parent / "docs" / "studies.md").read_text()
ASKED = {  # what a question must say, besides how to read its answer
    "color_mnist": ("Is the hue ignored", "critic.images clean", "random_critic"),
    "decoy_mnist": ("patch", "look at the digit", "random_critic"),
    "decoy_mnist_deconfounded": ("clean critic images free the learner from the decoy?", "random_critic"),
    "mnist_few_shot": ("300 digits", "accuracy", "random_critic"),
    "mnist_full": ("all of MNIST", "IIES", "comprehensiveness", "random_critic"),
}
# Stammer et al.: pretraining 0.05, 10 epochs; finetuning 0.001; Adadelta throughout, the critic's at 0.2.
COMMON = {
    "stages": ("pretrain", "joint", "finetune"),
    "model.name": "Net1",
    "explainer.method": "input_x_gradient",
    "explainer.normalization": "batch",
    "explainer.target": "true",
    "critic.model": None,
    "critic.labels": "true",
    "critic.optimizer": "adadelta",
    "critic.learning_rate": 0.2,
    "pretrain.epochs": 10,
    "pretrain.optimizer": "adadelta",
    "pretrain.learning_rate": 0.05,
    "pretrain.schedule": "constant",
    "joint.optimizer": "adadelta",
    "joint.schedule": "constant",
    "finetune.optimizer": "adadelta",
    "finetune.learning_rate": 0.001,
    "finetune.schedule": "constant",
}
SMALL = {
    "loss.lambda_c": 1,
    "loss.lambda_e": 100,
    "loss.lambda_ft": 100,
    "joint.epochs": 1000,
    "joint.learning_rate": 0.004,
    "finetune.epochs": 10000,
    "critic.batches": 18,
    "critic.batch_size": 64,
    "pretrain.batch_size": 32,
    "joint.batch_size": 32,
    "finetune.batch_size": 32,
}
FULL = {
    "loss.lambda_c": 1,
    "loss.lambda_e": 50,
    "loss.lambda_ft": 5,
    "joint.epochs": 50,
    "joint.learning_rate": 0.01,
    "finetune.epochs": 2000,
    "critic.batches": 68,
    "critic.batch_size": 128,
    "pretrain.batch_size": 128,
    "joint.batch_size": 128,
    "finetune.batch_size": 128,
    "data.few_shot_fraction": 1,
}

every_study = pytest.mark.parametrize("name", NAMES)
every_profile = pytest.mark.parametrize("profile", PROFILES)


def configured(spec: StudySpec, reference: str) -> dict[str, Any]:
    return flatten(spec.configure(spec.reference_trials[reference]).model_dump())


def epochs(config: Config) -> int:
    return sum(getattr(config, stage).epochs for stage in config.stages)


def test_these_studies_come_along() -> None:
    assert sorted(path.stem for path in STUDIES.glob("*.yaml")) == NAMES


@every_study
def test_a_study_has_its_profiles_and_tells_their_commands(name: str) -> None:
    text = (STUDIES / f"{name}.yaml").read_text()
    with pytest.raises(StudyError, match="(?i)valid: paper, quick$"):
        load(name, "no-such-profile")
    head = text[: text.index("\nquestion:")]
    commands = [load(name, profile).command for profile in PROFILES]
    assert [command for command in commands if command not in head] == []
    assert "needs a GPU" in head and "lsx data download" in head


@every_study
@every_profile
def test_a_question_says_how_to_read_either_answer(name: str, profile: str | None) -> None:
    question = load(name, profile).question
    assert "?" in question
    assert "The answer is yes if" in question and "It is no if" in question
    assert [words for words in ASKED[name] if words not in question] == []


@every_study
@every_profile
def test_objectives_point_where_their_metrics_do(name: str, profile: str | None) -> None:
    spec = load(name, profile)
    assert len(spec.objectives) >= 2
    for objective in spec.objectives:
        assert objective.direction == METRICS.find(objective.metric).direction
    first, *others = (objective.metric for objective in spec.objectives)
    assert first == "accuracy"
    # By one explainer for every trial: a search over explainers must not pick the one that flatters.
    assert [metric for metric in others if not metric.startswith("reference_")] == []


@every_study
@every_profile
def test_a_constraint_bounds_the_bad_side(name: str, profile: str | None) -> None:
    spec = load(name, profile)
    assert "accuracy" in [constraint.metric for constraint in spec.constraints]
    for constraint in spec.constraints:
        metric = METRICS.find(constraint.metric)
        bad, free = (constraint.low, constraint.high)[:: 1 if metric.direction == "maximize" else -1]
        assert free is None and bad is not None
        assert metric.low < bad < metric.high


@every_study
@every_profile
def test_classification_alone_is_trained_as_long_as_all_stages(name: str, profile: str | None) -> None:
    spec = load(name, profile)
    assert spec.baseline == "baseline"
    baseline = spec.configure(spec.reference_trials["baseline"])
    assert baseline.stages == ("pretrain",)
    authors = 4060 if name == "mnist_full" else 2060
    assert epochs(baseline) == (authors if profile == "paper" else spec.longest)


@every_study
@every_profile
def test_the_control_differs_in_the_critics_labels_only(name: str, profile: str | None) -> None:
    spec = load(name, profile)
    taught = {"taught_critic", "clean_critic"} & set(spec.reference_trials)
    if profile == "quick":
        assert not taught
        return
    ours, control = configured(spec, taught.pop()), configured(spec, "random_critic")
    assert {key: value for key, value in control.items() if value != ours[key]} == {"critic.labels": "permuted"}


@every_study
@pytest.mark.parametrize("profile", [None, "paper"])
def test_a_taught_critic_lies_inside_of_the_space(name: str, profile: str | None) -> None:
    spec = load(name, profile)
    taught = next(one for one in spec.reference_trials if one in ("taught_critic", "clean_critic"))
    params, _ = spec.reference(taught)
    assert {"loss.lambda_c", "loss.lambda_e", "loss.lambda_ft"} <= set(params)


@every_study
@every_profile
def test_some_trials_are_left_to_search(name: str, profile: str | None) -> None:
    spec = load(name, profile)
    searched = spec.budget.trials - len(spec.reference_trials)
    assert searched >= (2 if profile == "quick" else 8)
    assert profile != "quick" or spec.budget.trials <= 6
    assert spec.budget.time is None or (name, profile) == ("mnist_full", None)


@every_study
def test_the_paper_profile_holds_the_published_numbers(name: str) -> None:
    spec = load(name, "paper")
    expected: Mapping[str, Any] = COMMON | (FULL if name == "mnist_full" else SMALL)
    found = configured(spec, "published")
    assert {key: found[key] for key in expected} == expected
    assert spec.settings["data.source"] == "torchvision"
    if name != "mnist_full":  # 2 % of 60,000, of which a fifth is for validation
        assert 60_000 * 0.8 * spec.settings["data.few_shot_fraction"] == pytest.approx(1200)


@every_study
def test_the_plain_and_the_paper_study_weigh_the_losses_as_published(name: str) -> None:
    weights = (1, 50, 5) if name == "mnist_full" else (1, 100, 100)
    for profile in PROFILES:
        loss = load(name, profile).configure(load(name, profile).reference_trials["published"]).loss
        assert (loss.lambda_c, loss.lambda_e, loss.lambda_ft) == weights


@pytest.mark.parametrize(("name", "profile"), EMBEDDED)
def test_embedded_images_are_all_that_it_needs(name: str, profile: str | None) -> None:
    assert preflight(load(name, profile))["description"].startswith("MNIST, embedded")


@pytest.mark.parametrize(("name", "profile"), DOWNLOADED)
def test_missing_images_are_said_to_be_downloadable(
    name: str, profile: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match="lsx data download"):
        preflight(load(name, profile))


def test_what_each_study_is_about() -> None:
    def values(name: str, key: str) -> tuple[object, ...]:
        spec = load(name)
        return spec.space[key][0].choices or () if key in spec.space else (spec.settings[key],)

    assert values("decoy_mnist", "critic.images") == ("confounded", "clean")
    assert values("decoy_mnist_deconfounded", "critic.images") == ("clean",)
    assert values("color_mnist", "critic.images") == ("confounded", "clean")
    assert load("color_mnist").settings["data.color"] == "rgb"
    assert [load("mnist_few_shot", profile).repeats for profile in PROFILES] == [3, 2, 5]
    assert load("mnist_full").settings["data.source"] == "torchvision"


# docs/studies.md


def section(title: str) -> str:
    return re.split(r"\n#{2,3} ", PAGE.split(f"# {title}\n", 1)[1])[0]


def rows(title: str) -> dict[str, str]:
    """Key to default, of a section's table."""
    found = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \|", section(title), re.MULTILINE)
    plain = {names: re.sub(r"\(#\w+\)", "", default) for names, default in found}
    return {key: default for names, default in plain.items() for key in re.findall(r"\w+", names)}


def shown(model: type[BaseModel], key: str) -> str:
    """A field's default as the page writes it."""
    default = model.model_fields[key].get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return "[below]"
    if default is None or default is PydanticUndefined:
        return "–"
    if default in ("", {}, ()):
        return "empty"
    if key == "stalled_after":
        return f"{default:.0f} s"
    if isinstance(default, str):
        return f"`{default}`"
    return str(default).lower() if isinstance(default, bool) else f"{default:g}"


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("`space`: a dimension", Dimension),
        ("`objectives`", Objective),
        ("`constraints`", Constraint),
        ("`scheduler`", Scheduler),
        ("`sampler`", Sampler),
        ("`budget`", Budget),
        ("`resources`", Resources),
    ],
)
def test_the_page_has_every_key_and_its_default(title: str, model: type[BaseModel]) -> None:
    assert rows(title) == {key: shown(model, key) for key in model.model_fields}


def test_the_page_has_every_key_of_the_file() -> None:
    from lsx.study.declared.spec import _NOT_IN_FILES

    words = {"name": "the file's name", "baseline": "`baseline`, if there is one"}  # decided while loading
    keys = [key for key in StudySpec.model_fields if key not in _NOT_IN_FILES]
    assert rows("Keys of the file") == {key: words.get(key) or shown(StudySpec, key) for key in keys} | {
        "profiles": "empty"
    }


@every_study
def test_the_page_has_every_study(name: str) -> None:
    spec = load(name)
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| [`{name}`](#{name})"))
    arrows = [metric.arrow for metric in (METRICS.find(one.metric) for one in spec.objectives)]
    assert re.findall("[↑↓]", row) == arrows
    assert "*Yes*" in section(name) and "*No*" in section(name)


@pytest.mark.parametrize(("profile", "searched"), [(None, 11), ("quick", 2)])
def test_the_study_on_the_page_is_sound(profile: str | None, searched: int, tmp_path: Path) -> None:
    found = re.search(r"^```yaml study.yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    (tmp_path / "study.yaml").write_text(found[1])
    spec = load(tmp_path / "study.yaml", profile)
    preflight(spec)
    assert spec.budget.trials - len(spec.reference_trials) == searched
    assert epochs(spec.configure(spec.reference_trials["baseline"])) == spec.longest


CONTENT: dict[str, Any] = {
    "settings": {"data.dataset": "decoy_mnist"},
    "space": {
        "loss.lambda_e": {"type": "float", "low": 1, "high": 100, "log": True},
        "critic.batches": {"type": "int", "low": 2, "high": 8},
        "critic.optimizer": {"type": "categorical", "choices": ["adam", "adadelta"]},
        "critic.model": {"type": "categorical", "choices": ["MLP", "Net1"], "when": {"critic.optimizer": "adam"}},
    },
    "objectives": [{"metric": "accuracy", "direction": "maximize"}],
    "reference_trials": {"baseline": {"stages": ["pretrain"]}},
}


def changed(section: str, **values: Any) -> dict[str, Any]:
    """The content with some keys of a section other than before."""
    return {section: {**CONTENT.get(section, {}), **values}}


def dimension(key: str, **values: Any) -> dict[str, Any]:
    return changed("space", **{key: {**CONTENT["space"][key], **values}})


MAY = [
    changed("budget", trials=50, time="1h"),
    changed("resources", max_concurrent=1),
    {"question": "another?", "notes": "another"},
    changed("settings", device="cpu"),
    {"constraints": [{"metric": "accuracy", "low": 0.5}]},
    changed("scheduler", type="none"),
    changed("sampler", type="random"),
    dimension("loss.lambda_e", low=0.1, high=1000),
    dimension("critic.batches", step=3),
    dimension("critic.batches", points=3),
    changed("reference_trials", published={"loss.lambda_e": 100}),
]
MAY_NOT = [
    changed("settings", **{"joint.epochs": 3}),
    {"objectives": [{"metric": "ridge", "direction": "maximize"}]},
    {"repeats": 2},
    {"seed": 1},
    changed("space", **{"loss.lambda_c": {"type": "float", "low": 1, "high": 2}}),
    dimension("loss.lambda_e", log=False),
    dimension("critic.model", choices=["MLP", "Net1", "SimpleConvNet"]),
    dimension("critic.model", when={"critic.optimizer": "adadelta"}),
    {"reference_trials": {"baseline": {"stages": ["pretrain"], "pretrain.epochs": 3}}},
    {"reference_trials": {}},
]


@pytest.mark.parametrize(
    ("change", "may"), [*((change, True) for change in MAY), *((change, False) for change in MAY_NOT)], ids=str
)
def test_what_the_page_says_of_changes_is_so(change: dict[str, Any], may: bool) -> None:
    old, new = StudySpec.build(CONTENT), StudySpec.build({**CONTENT, **change})
    assert compatible(old.fingerprint(), new.fingerprint()) is may
