"""Every flag reaches its setting: those of the configuration, and the authors' own."""

import argparse
from typing import Any, Literal, get_args, get_origin

import pytest

from lsx.cli import Parser
from lsx.cli.flags import add_settings, flag, given_settings, layered, normalized
from lsx.config import STAGES, Config, settings
from lsx.errors import ConfigError

ALL = Config().flat()


def parsed(*words: str) -> argparse.Namespace:
    parser = Parser(prog="lsx train", allow_abbrev=False)
    add_settings(parser)
    return parser.parse_args(normalized(words))


def changed(*words: str, mode: str | None = None) -> dict[str, Any]:
    """What differs from the defaults."""
    flat = layered(parsed(*words), {}, mode).flat()
    return {key: value for key, value in flat.items() if value != ALL[key]}


def every(name: str, value: object) -> dict[str, object]:
    return {f"{stage}.{name}": value for stage in STAGES}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--dataset color_mnist", {"data.dataset": "color_mnist"}),
        ("--model SimpleConvNet", {"model.name": "SimpleConvNet"}),
        ("--model_pt a/b.pt", {"start": "a/b.pt"}),
        ("--random_seed 7", {"seed": 7}),
        ("--seed 7", {"seed": 7}),
        ("--device cuda:1", {"device": "cuda:1"}),
        ("--no_cuda", {"device": "cpu"}),
        ("--few_shot_train_percent 0.02", {"data.few_shot_fraction": 0.02}),
        ("--classification_loss_weight 50", {"loss.lambda_c": 50.0}),
        ("--explanation_loss_weight 1e3", {"loss.lambda_e": 1000.0}),
        ("--explanation_loss_weight_finetune 5", {"loss.lambda_ft": 5.0}),
        ("--explanation_mode gradcam", {"explainer.method": "gradcam"}),
        ("--optimizer adam", every("optimizer", "adam")),
        ("--schedule linear", every("schedule", "linear")),
        ("--lr_scheduling", every("schedule", "exponential")),
        ("--learning_rate_step 0.9", every("decay", 0.9)),
        ("--batch_size 128", every("batch_size", 128)),
        ("--learning_rate 0.3", {"joint.learning_rate": 0.3}),
        ("--pretrain_learning_rate 0.3", {"pretrain.learning_rate": 0.3}),
        ("--learning_rate_finetune 0.3", {"finetune.learning_rate": 0.3}),
        ("--learning_rate_critic 0.3", {"critic.learning_rate": 0.3}),
        ("--batch_size_critic 128", {"critic.batch_size": 128}),
        ("--n_critic_batches 68", {"critic.batches": 68}),
        ("--n_epochs 40", {"joint.epochs": 40}),
        ("--n_pretraining_epochs 40", {"pretrain.epochs": 40}),
        ("--n_finetuning_epochs 40", {"finetune.epochs": 40}),
        ("--sep_critic_set", {"critic.set": "separate"}),
        ("--rand_critic", {"critic.labels": "permuted"}),
        ("--mlp_critic", {"critic.model": "MLP"}),
        ("--metrics accuracy,robustness", {"evaluation.metrics": ["accuracy", "robustness"]}),
    ],
)
def test_the_authors_flags(words: str, expected: dict[str, object]) -> None:
    assert changed(*words.split()) == expected
    assert changed(*words.replace("_", "-").split(" ")[:1], *words.split(" ")[1:]) == expected
    name, *value = words.split()
    if value:
        assert changed(f"{name}={value[0]}") == expected


OTHER = {str: "other", int: 3, float: 0.25}


@pytest.mark.parametrize("key", sorted(settings()))
def test_every_setting_has_a_flag(key: str) -> None:
    shown = Config.build({"stages": ["joint"]}).flat()[key]
    field = settings()[key]
    text = {"stages": "joint", "device": "cpu", "evaluation.metrics": "ridge"}.get(key)
    if text is None and isinstance(field.default, str | None) and get_origin(field.annotation) is Literal:
        text = next(value for value in get_args(field.annotation) if value != field.default)
    if text is None:
        kind = type(field.default) if field.default is not None else int if "int" in str(field.annotation) else str
        text = str(OTHER[kind])
    extra = ["--confounder-place", "by_class"] if text == "white" else []
    extra = ["--data-root", "x"] if text == "folder" else extra
    found = layered(parsed(flag(key), text, *extra), {}, None).flat()[key]
    assert str(found) == text or found == [text]
    assert found != shown or key == "stages"


def test_flags_are_the_settings_in_the_help() -> None:
    parser = Parser(prog="lsx train")
    add_settings(parser)
    shown = parser.format_help()
    for key, field in settings().items():
        assert flag(key) in shown
        assert " ".join((field.description or key).split()[:2]) in " ".join(shown.split())


def test_only_classification_takes_the_only_epochs_there_are() -> None:
    words = ["--n_epochs", "60", "--learning_rate", "0.1"]  # the latter is joint training's, as in the authors' code
    config = layered(parsed(*words), {}, "only_classification")
    assert (config.pretrain.epochs, config.pretrain.learning_rate) == (60, Config().pretrain.learning_rate)
    words += ["--n_pretraining_epochs", "5"]
    config = layered(parsed(*words), {}, "only_classification")
    assert (config.pretrain.epochs, config.pretrain.learning_rate) == (5, Config().pretrain.learning_rate)
    assert layered(parsed(*words[:4]), {}, "pretrain_and_joint").pretrain.epochs == Config().pretrain.epochs


def test_a_stages_own_flag_wins_over_one_for_all_stages() -> None:
    for words in (
        ["--optimizer", "adam", "--finetune-optimizer", "sgd"],
        ["--finetune-optimizer=sgd", "--optimizer=adam"],
    ):
        assert changed(*words) == every("optimizer", "adam") | {"finetune.optimizer": "sgd"}


def test_a_mapping_given_by_set_conflicts_like_single_settings() -> None:
    words = ["--set", "critic={batches: 2, model: MLP}"]
    assert changed(*words) == {"critic.batches": 2, "critic.model": "MLP"}
    with pytest.raises(ConfigError, match="critic.batches different values"):
        given_settings(parsed(*words, "--n_critic_batches", "3"))


def test_the_same_value_twice_is_no_conflict() -> None:
    assert changed("--seed", "1", "--random_seed", "1", "--set", "seed=1") == {"seed": 1}
    with pytest.raises(ConfigError, match="--critic-model and --mlp-critic"):
        given_settings(parsed("--critic_model", "Net1", "--mlp_critic"))


def test_flags_lie_over_the_file_and_the_file_over_the_base(tmp_path: Any) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("seed: 3\nloss: {lambda_e: 3}\n")
    base = {"loss.lambda_e": 2, "loss.lambda_c": 2, "seed": 2}
    config = layered(parsed("--config", str(file), "--seed", "4"), base, None)
    assert (config.loss.lambda_c, config.loss.lambda_e, config.seed) == (2.0, 3.0, 4)


def test_values_keep_their_underscores_and_null_empties() -> None:
    assert normalized(["--a_b=c_d", "--x_y", "e_f", "--set", "a_b=1"]) == [
        "--a-b=c_d",
        "--x-y",
        "e_f",
        "--set",
        "a_b=1",
    ]
    assert layered(parsed("--critic-model", "null"), {"critic.model": "MLP"}, None).critic.model is None
