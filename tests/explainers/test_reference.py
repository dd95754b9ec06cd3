"""Explanations against the authors' code."""

import pytest

from lsx import explainers
from lsx.config import ExplainerConfig
from tests.tiny import images, load, network, relative_error

METHODS = ["input_x_gradient", "integrated_gradient", "input_x_integrated_gradient", "gradcam"]


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_explanations_match_the_authors(method: str, create_graph: bool) -> None:
    values = load("explanations")
    explainer = explainers.build(ExplainerConfig(method=method))
    explanation = explainer(network(values, "learner"), images(values), values["y"], create_graph=create_graph)
    assert explanation.requires_grad is create_graph
    assert relative_error(explanation, values[f"explanation/{method}"]) < 1e-4


def test_raw_attribution_matches_the_authors() -> None:
    values = load("explanations")
    explainer = explainers.build(ExplainerConfig(method="input_x_gradient"))
    raw = explainer.attribute(network(values, "learner"), images(values), values["y"], create_graph=False)
    assert relative_error(raw, values["raw_input_x_gradient"]) < 1e-4
