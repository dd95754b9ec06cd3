"""Explanations e_θ(x, y): a raw attribution, then its post-processing."""

from lsx.explainers.base import EXPLAINERS, Explainer, build, register
from lsx.explainers.gradient import (
    GradCamExplainer,
    InputExplainer,
    InputXGradientExplainer,
    InputXIntegratedGradientExplainer,
    IntegratedGradientExplainer,
    SaliencyExplainer,
)
from lsx.explainers.guided import GuidedGradCamExplainer
from lsx.explainers.noise import GradientShapExplainer, SmoothGradExplainer

__all__ = [
    "EXPLAINERS",
    "Explainer",
    "GradCamExplainer",
    "GradientShapExplainer",
    "GuidedGradCamExplainer",
    "InputExplainer",
    "InputXGradientExplainer",
    "InputXIntegratedGradientExplainer",
    "IntegratedGradientExplainer",
    "SaliencyExplainer",
    "SmoothGradExplainer",
    "build",
    "register",
]
