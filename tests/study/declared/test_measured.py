"""What a study's objectives add to its trials, and which are refused."""

from pathlib import Path
from typing import Any

import pytest

import lsx
from lsx.study.declared.spec import StudySpec
from lsx.study.declared.yamlines import Fault
from tests.metrics.conftest import registry

__all__ = ["registry"]
OWN = """
import lsx

@lsx.metrics.register("own_of_study", direction="maximize")
def own(context):
    return 1.0
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: None) -> str:
    (tmp_path / "own_study_metrics.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_study_metrics:own"


def study(*objectives: str, **settings: Any) -> StudySpec:
    content = {
        "objectives": [{"metric": name, "direction": "maximize"} for name in objectives],
        "settings": {"data.dataset": "decoy_mnist"} | settings,
    }
    return StudySpec.build(content)


def test_objectives_are_measured(own: str) -> None:
    spec = study("accuracy", "insertion_auc", own)
    assert spec.configure({}).evaluation.metrics == ("standard", "insertion_auc", own)
    assert spec.configure({"loss.lambda_e": 3}).evaluation.metrics == ("standard", "insertion_auc", own)
    assert study("accuracy", "ridge").configure({}).evaluation.metrics == ("standard",)
    chosen = {"evaluation.metrics": ["faithfulness"]}
    assert study("accuracy", "insertion_auc", **chosen).configure({}).evaluation.metrics == ("faithfulness", "accuracy")


def test_study_survives_its_own_file(own: str) -> None:
    spec = study("accuracy", own)
    assert StudySpec.build(spec.plain()).fingerprint() == spec.fingerprint()


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        ("insertion_aux", {}, "unknown metric 'insertion_aux'; did you mean 'insertion_auc'"),
        ("no_such_module:one", {}, "cannot be imported: No module named 'no_such_module'"),
        ("faithfulness", {}, "unknown metric 'faithfulness'"),
        ("relevance_mass", {"data.dataset": "mnist"}, "dataset 'mnist' has no mask of what"),
        ("relevance_mass", {"confounder.kind": "none"}, "dataset 'decoy_mnist' has no mask of what"),
        ("foreground_relevance_mass", {"data.dataset": "chest_mnist"}, "has no mask of the object itself"),
        ("iies", {"evaluation.encoder_epochs": 0}, "it needs evaluation.encoder_epochs above 0"),
        ("accuracy", {"evaluation.metrics": ["acuracy"]}, "evaluation.metrics is not valid: unknown metric 'acuracy'"),
    ],
)
def test_what_is_not_measured_is_refused(objective: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Fault) as caught:
        study(objective, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    place = ("settings", "evaluation.metrics") if "evaluation.metrics" in settings else ("objectives", 0, "metric")
    assert caught.value.path == place


@pytest.mark.parametrize("settings", [{"data.dataset": "mnist", "confounder.kind": "patch"}, {}])
def test_masks_are_known_from_the_confounder(settings: dict[str, Any]) -> None:
    assert study("relevance_mass", "foreground_relevance_mass", **settings).objectives


def test_metric_of_this_process_only_is_refused(registry: None) -> None:
    lsx.metrics.register("here_only", direction="maximize")(lambda context: 1.0)
    for arguments in ({"objectives": ("here_only",)}, {"objectives": ("accuracy",), "metrics": ["here_only"]}):
        settings = {"evaluation.metrics": arguments["metrics"]} if "metrics" in arguments else {}
        with pytest.raises(Fault, match="registered in this process only, .* name it as package.module:Name"):
            study(*arguments["objectives"], **settings)


@pytest.mark.parametrize(
    ("constraint", "settings", "message"),
    [
        ({"metric": "acuracy", "low": 0.5}, {}, "constraints.0: unknown metric 'acuracy'; did you mean 'accuracy'"),
        ({"metric": "loss", "low": 0.5}, {}, "constraints.0: unknown metric 'loss'"),
        (
            {"metric": "relevance_mass", "high": 0.5},
            {"data.dataset": "mnist"},
            "constraints.0: relevance_mass is not measured here: dataset 'mnist' has no mask of what",
        ),
    ],
)
def test_constraints_that_no_trial_can_satisfy_are_refused(
    constraint: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(Fault) as caught:
        StudySpec.build({**study("accuracy", **settings).plain(), "constraints": [constraint]})
    assert str(caught.value).startswith(message)
    assert caught.value.path == ("constraints", 0, "metric")


def test_constraints_are_measured(own: str) -> None:
    spec = StudySpec.build({**study("accuracy").plain(), "constraints": [{"metric": own, "low": 0.5}]})
    assert spec.configure({}).evaluation.metrics == ("standard", own)
