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
        ({"loss": 3}, "loss = 3 is not valid"),
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
