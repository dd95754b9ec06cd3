"""The configuration: frozen, validated, and clear about what is wrong."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lsx.config import Config, flatten, keys, nest
from lsx.errors import ConfigError


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = Config.build({"loss.lambda_e": 12.5, "stages": ["pretrain"], "data": {"seed": 7}})
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config
    assert Config.build(config.plain()) == config == Config.build(config.flat())


def test_numbers_are_read_as_a_study_file_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("joint: {learning_rate: 1e-3}\nloss: {lambda_e: +1E2, lambda_c: .5e1}\n")
    config = Config.load(path)
    assert (config.joint.learning_rate, config.loss.lambda_e, config.loss.lambda_c) == (0.001, 100.0, 5.0)


@pytest.mark.parametrize("root", ["1e3", "2024-01-01", "0x10", "null", "~", "Zo\u00eb", "a: b", ".5e3"])
def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path, root: str) -> None:
    config = Config.build({"data.source": "folder", "data.root": root})
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config


def test_it_is_frozen() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        config.seed = 1  # type: ignore[misc]
    changed = config.replace({"loss.lambda_c": 2})
    assert (config.loss.lambda_c, changed.loss.lambda_c) == (1.0, 2.0)


def test_a_partial_section_keeps_that_sections_defaults() -> None:
    config = Config.build({"joint": {"epochs": 3}})
    assert config.joint.learning_rate == Config().joint.learning_rate != Config().pretrain.learning_rate


def test_later_settings_win_and_dotted_equals_nested() -> None:
    assert Config.build({"loss.lambda_e": 1}, {"loss": {"lambda_e": 2}}).loss.lambda_e == 2
    assert nest({"a.b": 1, "a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert flatten(nest({"a.b": 1, "c": 2})) == {"a.b": 1, "c": 2}
    assert "critic.learning_rate" in keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss.lamda_e": 1}, "unknown setting 'loss.lamda_e'; did you mean 'loss.lambda_e'?"),
        ({"los": {"lambda_e": 1}}, "unknown setting 'los'; did you mean 'loss'?"),
        ({"loss.lambda_e": -1}, "loss.lambda_e = -1 is not valid: should be greater than or equal to 0"),
        ({"loss.lambda_e": "much"}, "loss.lambda_e = 'much' is not valid: should be a valid number"),
        ({"loss.lambda_e": float("nan")}, "loss.lambda_e = nan is not valid: should be a finite number"),
        ({"data.few_shot_fraction": 0}, "data.few_shot_fraction = 0 is not valid: should be greater than 0"),
        (
            {"data.few_shot_fraction": 1.5},
            "data.few_shot_fraction = 1.5 is not valid: should be less than or equal to 1",
        ),
        (
            {"explainer.normalization": "none"},
            "explainer.normalization = 'none' is not valid: should be 'batch' or 'sample'",
        ),
        ({"joint.epochs": 1.5}, "joint.epochs = 1.5 is not valid: should be a valid integer"),
        ({"critic.batches": 0}, "critic.batches = 0 is not valid: should be greater than or equal to 1"),
        (
            {"critic.optimizer": "adamw"},
            "critic.optimizer = 'adamw' is not valid: should be 'adadelta', 'adam' or 'sgd'",
        ),
        ({"device": "gpu"}, "device = 'gpu' is not valid"),
        ({"seed": -1}, "seed = -1 is not valid"),
        ({"stages": ["pretrain", "finetune"]}, "stages ['pretrain', 'finetune'] must be neighbours"),
        ({"stages": ["finetune"]}, "alone has no joint model"),
        ({"stages": []}, "stages [] must be neighbours"),
        ({"data.source": "folder"}, "data: source 'folder' needs root"),
        ({"data": {"validation_fraction": 0.6, "test_fraction": 0.5}}, "leave nothing to train on"),
        ({"loss": 3}, "loss = 3 is not valid: should be a mapping of settings"),
        ({"stages": "joint"}, "stages = 'joint' is not valid: should be a list of names, e.g. [pretrain, joint]"),
        ({"device": "gpu:0"}, "device = 'gpu:0' is not valid: should be auto, cpu, mps, cuda or cuda:N"),
    ],
)
def test_bad_settings_are_one_line_with_value_and_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.build(settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("loss: [", "cannot be read"),
        ("- 1", "must be a mapping"),
        ("loss: {lambda_e: -2}", "lambda_e = -2"),
        ("", "mapping"),
        ("seed: 1\nseed: 2", "line 2: 'seed' stands here a second time; remove one"),
        ("loss:\n  lambda_c: 1\n  lambda_c: 2", "line 3: 'lambda_c' stands here a second time"),
        ("seed: 1\ndevice: a\0b", "line 2: the character '\\x00' is not allowed"),
        ("seed: !!int abc", "line 1: 'abc' is no int"),
        ("seed: 1\nloss: {lambda_e: !!float x}", "line 2: 'x' is no float"),
        ("seed: !!bool x", "line 1: 'x' is no bool"),
        ("seed: !!int ''", "line 1: '' is no int"),
        ("device: !!timestamp x", "line 1: could not determine a constructor"),
        ("loss: {lambda_e: 1" + ":1" * 300 + ".5}", "line 1: "),
        ("seed: 0x" + "f" * 5000, "line 1: "),
        ("seed: 2024-01-01", "seed = '2024-01-01' is not valid: should be a valid integer"),
        ("device: 2024-13-45", "device = '2024-13-45' is not valid"),
        ("seed: 1\n? [a, b]\n: 1", "line 2: a key must be a text"),
        ("a: " + "[" * 3000 + "]" * 3000, "too many levels"),
        ("a: " + "{a: " * 3000 + "1" + "}" * 3000, "too many levels"),
        ("&x {b: *x}", "line 1: an alias stands inside of its own anchor"),
        ("seed: 1\nloss: &x\n  lambda_e: *x", "line 2: an alias stands inside of its own anchor"),
    ],
)
def test_bad_files_are_one_line_that_names_the_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="bad.yaml") as caught:
        Config.load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match="nowhere.yaml.* cannot be read: .*No such file"):
        Config.load("nowhere.yaml")
