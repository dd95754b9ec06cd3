"""Metrics against the numbers of the authors' code."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsx.config import ExplainerConfig
from lsx.data.types import Split
from lsx.explainers import build
from lsx.metrics import explain, faithfulness, separability
from lsx.models import encode
from tests.tiny import REFERENCE, images, load, network, weights

SIMPLE = Path(os.environ.get("LSX_REFERENCE", REFERENCE)) / "simple_conv_net"
CRITIC_BATCH = 64
KEYS = [(kind, how) for kind in ("comprehensiveness", "sufficiency") for how in ("median", "mean", "min", "zero")]


class Simple(nn.Module):
    """The larger reference network, under its own parameter names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.last_conv = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 256), nn.Linear(256, 10)

    def forward(self, batch: Tensor) -> Tensor:
        features = F.max_pool2d(F.relu(self.last_conv(F.max_pool2d(F.relu(self.conv1(batch)), 2))), 2)
        return F.log_softmax(self.fc2(F.relu(self.fc1(features.flatten(1)))), dim=1)


class Case:
    """Evaluation images, their explanations in batches of 64, and the expected numbers."""

    def __init__(self, folder: Path) -> None:
        values = load("metrics", folder)
        self.expected = json.loads((folder / "metrics.json").read_text())
        self.images, self.labels = images(values), values["y"]
        self.values = values
        if folder.name == "tiny":
            self.model: nn.Module = network(values, "learner")
        else:
            self.model = Simple()
            self.model.load_state_dict(weights(values, "learner"))
        explainer = build(ExplainerConfig(method="input_x_gradient", target="true", normalization="batch"))
        batches = zip(self.images.split(CRITIC_BATCH), self.labels.split(CRITIC_BATCH), strict=True)
        self.maps = torch.cat([explainer(self.model, batch, labels) for batch, labels in batches])


@pytest.fixture(scope="module", params=["tiny", "simple_conv_net"])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "simple_conv_net" and not SIMPLE.is_dir():
        pytest.skip("set LSX_REFERENCE to a folder with simple_conv_net/ for the larger reference")
    return Case(SIMPLE if request.param == "simple_conv_net" else REFERENCE / "tiny")


@pytest.mark.parametrize(("kind", "how"), KEYS)
def test_faithfulness_at_every_threshold(case: Case, kind: faithfulness.Kind, how: faithfulness.Replacement) -> None:
    value = faithfulness.replacement(case.images, how)
    subject = faithfulness.subject(case.model, case.images, case.labels, value, batch_size=200)
    curve = faithfulness.curve(subject, case.maps, "authors", kind, case.expected["thresholds"])
    drop = (subject.probability - curve.probability).mean(dim=1).tolist()
    assert curve.correct.mean(dim=1).tolist() == pytest.approx(case.expected[f"{kind}/{how}/accuracy"], rel=1e-4)
    assert drop == pytest.approx(case.expected[f"{kind}/{how}/probability_drop"], rel=1e-4, abs=1e-7)


def test_ridge(case: Case) -> None:
    score = separability.ridge(case.maps, case.labels)
    assert score.value == pytest.approx(case.expected["ridge_accuracy"], rel=1e-4)
    assert score.reason == ""


def test_iies(case: Case) -> None:
    if "iies" not in case.expected:
        pytest.skip("this reference has no encoder")
    encoder = network(case.values, "encoder")
    score = separability.iies(case.maps, case.labels, lambda batch: encode(encoder, batch), batch_size=100)
    assert score.value == pytest.approx(case.expected["iies"], rel=1e-4)


def test_explain_groups_by_batch(case: Case) -> None:
    part = Split(case.images, case.labels, None, torch.arange(len(case.labels)))
    config = ExplainerConfig(method="input_x_gradient", target="true", normalization="batch")
    maps = explain(case.model, part, config, CRITIC_BATCH)
    torch.testing.assert_close(maps.own, case.maps)
    assert maps.sample.flatten(1).amax(dim=1).eq(1).all()
