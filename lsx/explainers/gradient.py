"""Gradient attributions, by Captum, differentiable with respect to the weights on request.

Captum differentiates with ``create_graph=False``; its gradient methods expose the
function that does so as ``gradient_func``, its layer methods as ``grad_kwargs``.
Both are set here per call, from an explicit argument.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import InputXGradient, IntegratedGradients, LayerAttribution, LayerGradCam, Saliency
from torch import Tensor, nn

from lsx.chain import chain_of, explained
from lsx.explainers.base import Explainer, register
from lsx.models import gradcam_layer

MIN_MAX_EPSILON = 1e-6  # the authors' code divides by the span plus this


def log_probability(outputs: Tensor, targets: Tensor) -> Tensor:
    """log p_y with derivatives that keep their digits where p_y is nearly 1: −log(1 + Σ_{j≠y} p_j / p_y).

    Differentiating ``outputs[:, y]`` itself computes 1 − p_y. In float32 that is rounding noise for the images that a
    network is sure of, which training makes of nearly all, and scaling a map to its maximum makes noise of the map.

    Args:
        outputs: log-probabilities (B, K).
        targets: int64 (B,).

    Returns:
        (B,).
    """
    chosen = targets.unsqueeze(1)
    ratios = outputs - outputs.gather(1, chosen)
    others = ratios.scatter(1, chosen, torch.finfo(outputs.dtype).min / 2)
    return -F.softplus(others.logsumexp(dim=1))


def input_gradients(
    forward_fn: Any,
    inputs: tuple[Tensor, ...],
    target_ind: Any = None,
    additional_forward_args: Any = None,
    *,
    create_graph: bool,
) -> tuple[Tensor, ...]:
    """∂f(x)_y/∂x for each input tensor, in Captum's ``gradient_func`` form."""
    (images,) = inputs
    # Captum leaves the target of a single image as it is, however many quadrature points it made of the image.
    targets = target_ind.expand(len(images)) if target_ind.numel() == 1 else target_ind
    chain = chain_of(forward_fn) if isinstance(forward_fn, nn.Module) else None
    if chain is not None:
        with torch.set_grad_enabled(create_graph):
            return (explained(chain, images, targets)[1],)
    with torch.enable_grad():
        outputs = forward_fn(images)
        chosen = log_probability(outputs, targets).sum()
        return torch.autograd.grad(chosen, inputs, create_graph=create_graph)


@register("input_x_gradient")
class InputXGradientExplainer(Explainer):
    """x ⊙ ∂f(x)_y/∂x (Shrikumar et al. 2016)."""

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        method = InputXGradient(model)
        method.gradient_func = partial(input_gradients, create_graph=create_graph)
        leaf = images.detach().requires_grad_()
        attribution: Tensor = method.attribute(leaf, target=targets)
        return attribution

    def attribute_with_outputs(self, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Explainer.attribute_with_outputs`; a chain's gradient knows its outputs."""
        chain = chain_of(model)
        if chain is None or type(self).attribute is not InputXGradientExplainer.attribute:
            return super().attribute_with_outputs(model, images, targets)
        outputs, gradients = explained(chain, images, targets)
        return outputs, images * gradients


@register("saliency")
class SaliencyExplainer(Explainer):
    """|∂f(x)_y/∂x| (Simonyan et al. 2014): nothing to clip, so signs are lost, which the paper means."""

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        """See :meth:`Explainer.attribute`; nowhere negative."""
        method = Saliency(model)
        method.gradient_func = partial(input_gradients, create_graph=create_graph)
        leaf = images.detach().requires_grad_()
        attribution: Tensor = method.attribute(leaf, target=targets)
        return attribution


@register("integrated_gradient")
class IntegratedGradientExplainer(Explainer):
    """(x − x₀) ⊙ ∫ ∂f(x₀ + α(x − x₀))_y/∂x dα, x₀ = 0, Gauss–Legendre (Sundararajan et al. 2017)."""

    @property
    def evaluations(self) -> int:
        """One per quadrature point."""
        return self.config.steps

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        method = IntegratedGradients(model)
        method.gradient_func = partial(input_gradients, create_graph=create_graph)
        attribution: Tensor = method.attribute(
            images.detach(), target=targets, n_steps=self.config.steps, method="gausslegendre"
        )
        return attribution


@register("input_x_integrated_gradient")
class InputXIntegratedGradientExplainer(IntegratedGradientExplainer):
    """Integrated gradients after post-processing, then ⊙ x."""

    def postprocess(self, attribution: Tensor, images: Tensor, group: int) -> Tensor:
        """See :meth:`Explainer.postprocess`; the product is not scaled again."""
        return super().postprocess(attribution, images, group) * images


@register("gradcam")
class GradCamExplainer(Explainer):
    """Grad-CAM at the last convolution, no ReLU, min-max normalised per map (Selvaraju et al. 2017)."""

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        """See :meth:`Explainer.attribute`; one map per image, repeated over its channels."""

        def chosen(inputs: Tensor) -> Tensor:
            # Captum would read the target of a single image from the device, and wait for it.
            return log_probability(model(inputs), targets)

        method = LayerGradCam(chosen, gradcam_layer(model))
        with torch.enable_grad():
            maps = method.attribute(images.detach(), grad_kwargs={"create_graph": create_graph})
        resized = LayerAttribution.interpolate(_min_max(maps), tuple(images.shape[2:]))
        attribution: Tensor = resized.expand(-1, images.shape[1], -1, -1)
        return attribution

    def postprocess(self, attribution: Tensor, images: Tensor, group: int) -> Tensor:
        """The maps are normalised already, each by itself."""
        return attribution


def _min_max(maps: Tensor) -> Tensor:
    """Each map to 0–1; a constant map to zero."""
    low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
    return (maps - low) / (high - low + MIN_MAX_EPSILON)


@register("input")
class InputExplainer(Explainer):
    """x itself: the control. No learner is in it, so it cannot train one."""

    trains_learner = False

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        return images

    def postprocess(self, attribution: Tensor, images: Tensor, group: int) -> Tensor:
        """None."""
        return attribution
