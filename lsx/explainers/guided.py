"""Guided Grad-CAM, for measuring only."""

import warnings
from functools import partial
from typing import Any

import torch
from captum.attr import GuidedGradCam
from torch import Tensor, nn

from lsx.errors import ConfigError
from lsx.explainers.base import Explainer, register
from lsx.explainers.gradient import input_gradients
from lsx.models import gradcam_layer


@register("guided_gradcam")
class GuidedGradCamExplainer(Explainer):
    """Grad-CAM at the last convolution, rectified, ⊙ guided backpropagation (Selvaraju et al. 2017).

    For evaluation only. Guided backpropagation is made by hooks that clip the gradient at every ReLU; they would clip
    its derivative as well, and the learner would be taught something else than the gradient of its explanations.
    """

    trains_learner = False

    def attribute(self, model: nn.Module, images: Tensor, targets: Tensor, *, create_graph: bool) -> Tensor:
        """See :meth:`Explainer.attribute`.

        Raises:
            ConfigError: ``create_graph``, a network without a convolution, or one whose ReLUs are not all modules.
        """
        name = self.config.method
        if create_graph:
            raise ConfigError(
                f"explainer {name!r} is for evaluation only: its gradient is overridden at every ReLU; "
                "choose a differentiable explainer to train with"
            )
        method = GuidedGradCam(model, gradcam_layer(model))
        method.guided_backprop.forward_func = partial(_guided_forward, model, name)
        method.guided_backprop.gradient_func = partial(input_gradients, create_graph=False)
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting backward hooks")
            attribution: Tensor = method.attribute(images.detach().requires_grad_(), targets)
        return attribution.detach()


def _guided_forward(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """The network's output, once it is sure that every ReLU on the way is a module and so has its hook."""
    calls: list[None] = []

    def count(*_: Any) -> None:
        calls.append(None)

    hooks = [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.ReLU)]
    try:
        outputs: Tensor = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    unseen = _relus(outputs) - len(calls)
    if unseen > 0 or not calls:
        has = f"computes {unseen} ReLU(s) by function calls" if unseen > 0 else "has none"
        raise ConfigError(
            f"explainer {name!r} needs every ReLU to be an nn.ReLU module; model {type(model).__name__} {has}"
        )
    return outputs


def _relus(outputs: Tensor) -> int:
    """ReLUs in the graph of a network's output, whether modules or function calls."""
    seen: set[Any] = set()
    open_nodes = [outputs.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            open_nodes += [parent for parent, _ in node.next_functions]
    return sum(node.name().startswith("Relu") for node in seen)
