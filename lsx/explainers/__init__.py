"""Explanations e_θ(x, y): a raw attribution, then its post-processing."""

from lsx.explainers.base import EXPLAINERS, Explainer, build, register
from lsx.explainers.gradient import (
    GradCamExplainer,
    InputExplainer,
    InputXGradientExplainer,
    InputXIntegratedGradientExplainer,
    IntegratedGradientExplainer,
)

__all__ = [
    "EXPLAINERS",
    "Explainer",
    "GradCamExplainer",
    "InputExplainer",
    "InputXGradientExplainer",
    "InputXIntegratedGradientExplainer",
    "IntegratedGradientExplainer",
    "build",
    "register",
]
