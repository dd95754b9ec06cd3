"""Gradients averaged over noisy copies of each image, differentiable with respect to the weights on request.

Captum's NoiseTunnel, and GradientShap which is built on it, average under
``no_grad`` and take random points from NumPy's global generator: nothing of
them could train a learner or be resumed. Here the copies of a batch are one
pass of :func:`input_gradients`.
"""

import torch
from torch import Tensor, nn

from lsx.explainers.base import Explainer, register
from lsx.explainers.gradient import input_gradients

MEASURING_SEED = 0


class _NoisyExplainer(Explainer):
    """Draws of noise, and the gradient at many points of each image.

    An explanation with a graph is a training step's: its noise is new for every
    image and comes from torch's global generator of the device. One without is
    a measurement: the same noise for every image and every call, so that its map
    depends on neither the batch around it nor the random state, which stays as it is.
    """

    @property
    def evaluations(self) -> int:
        """One per noisy copy."""
        return self.config.samples

    def _noisy(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, S, C, H, W): copies of each image, the noise's deviation a share of the image's value range."""
        noise = self._empty(images, generator, *images.shape[1:]).normal_(generator=generator)
        span = images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True)
        return images.unsqueeze(1) + noise * (self.config.noise * span).unsqueeze(1)

    def _empty(self, images: Tensor, generator: torch.Generator | None, *shape: int) -> Tensor:
        """Room for one draw per copy: of every image, or of one that stands for all."""
        return images.new_empty((len(images) if generator is None else 1, self.config.samples, *shape))


def _generator(images: Tensor, create_graph: bool) -> torch.Generator | None:
    """None is torch's global generator of the device."""
    return None if create_graph else torch.Generator(images.device).manual_seed(MEASURING_SEED)


def _gradients_at(model: nn.Module, points: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
    """∂f_y/∂x at S points of each image: (B, S, C, H, W), with targets (B,), to the same shape."""
    leaf = points.flatten(0, 1).requires_grad_()
    repeated = targets.unsqueeze(1).expand(points.shape[:2]).flatten()
    (gradients,) = input_gradients(model, (leaf,), repeated, create_graph=create_graph)
    return gradients.reshape(points.shape)


@register("smoothgrad")
class SmoothGradExplainer(_NoisyExplainer):
    """Mean of ∂f(x + ε)_y/∂x over S copies, ε ~ N(0, σ²), σ a share of the image's value range (Smilkov et al. 2017).

    Signed, as the paper defines it; it leaves it open whether to show absolute values, and finds positive gradients
    the telling ones on digits, which are always white. Clipping negatives keeps these.
    """

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        copies = self._noisy(images.detach(), _generator(images, create_graph))
        return _gradients_at(model, copies, targets, create_graph=create_graph).mean(dim=1)


@register("gradient_shap")
class GradientShapExplainer(_NoisyExplainer):
    """Mean of (x' − x₀) ⊙ ∂f(x₀ + α(x' − x₀))_y/∂x over S copies x' = x + ε, α ~ U(0, 1), x₀ = 0.

    Expected gradients (Lundberg and Lee 2017, in Captum's form) from one baseline, that of integrated gradients.
    """

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        generator = _generator(images, create_graph)
        copies = self._noisy(images.detach(), generator)
        alpha = self._empty(images, generator, 1, 1, 1).uniform_(generator=generator)
        gradients = _gradients_at(model, copies * alpha, targets, create_graph=create_graph)
        return (copies * gradients).mean(dim=1)
