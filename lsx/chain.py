"""A network as a chain of layers, differentiated by hand.

LSX needs gradients of input gradients. Autograd gets them by differentiating a
backward pass, in which the weight gradient of a convolution becomes another
convolution, with a kernel as large as the image; it also goes through the
network again for what other losses need of it. A chain of convolutions,
rectifiers, pools and linear layers is piecewise linear, so its layers' linear
maps and their transposes are enough:

* g = ∂log p_y/∂x is a forward and a transposed pass;
* ∇_θ⟨u, g⟩ for a cotangent u is one more pass of each kind: ⟨u, g⟩ is the
  derivative of log p_y in the direction u, whose tangent pass meets the stored
  transposed one at every layer, and what it owes to the logits goes back through
  the chain as the gradient of any loss does (Pearlmutter 1994, *Fast Exact
  Multiplication by the Hessian*).

A model is a chain if it has a ``layers`` method (see :func:`chain_of`); others are
differentiated by autograd.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lsx.links import Link, links

_METHODS = ("layers", "forward")


@dataclass(frozen=True)
class Tape:
    """What a forward pass remembers of every layer.

    Attributes:
        inputs: of the layers, in the precision of the pass.
        seen: masks, indices and shapes, as each layer wants them.
        log_probabilities: float32 (B, K).
    """

    inputs: list[Tensor]
    seen: list[Any]
    log_probabilities: Tensor


class Chain:
    """Layers in their order; log-softmax follows the last one.

    Passes take the parameters as an argument, in the order of :attr:`parameters`, since
    they may be wanted in another precision; they change neither these nor the images.

    Attributes:
        parameters: of all layers.
    """

    def __init__(self, links: Sequence[Link[Any]]) -> None:
        self.links = links
        self.parameters = [parameter for one in links for parameter in one.parameters]
        ends = accumulate((len(one.parameters) for one in links), initial=0)
        self._slices = [slice(first, last) for first, last in pairwise(ends)]
        self._first = next(index for index, one in enumerate(links) if one.parameters)

    def forward(self, images: Tensor, parameters: Sequence[Tensor]) -> Tape:
        """(B, C, H, W) images in the parameters' precision to the tape of a pass."""
        inputs, seen = [], []
        x = images
        for one, own in zip(self.links, self._slices, strict=True):
            inputs.append(x)
            x, memory = one.forward(x, parameters[own])
            seen.append(memory)
        return Tape(inputs, seen, F.log_softmax(x.float(), dim=1))

    def transposed(self, g: Tensor, tape: Tape, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """The gradient of the images, and of the output of every layer with weights, from that of the logits (B, K)."""
        gradients: list[Tensor | None] = []
        for index in range(len(self.links) - 1, -1, -1):
            gradients.append(g if self.links[index].parameters else None)
            g = self.links[index].transposed(g, tape.inputs[index], tape.seen[index], parameters[self._slices[index]])
        return g, gradients[::-1]

    def backward(
        self, g: Tensor, tape: Tape, parameters: Sequence[Tensor], *, to_images: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """The gradients of the images and of the parameters from that of the logits (B, K).

        With ``to_images`` off, the way from the first layer with weights to the images is not gone, and the first of
        the two is that layer's output's.
        """
        found: list[list[Tensor]] = []
        for index in range(len(self.links) - 1, -1 if to_images else self._first - 1, -1):
            one, own = self.links[index], parameters[self._slices[index]]
            found.append(one.products(tape.inputs[index], g, own, bias=True))
            if to_images or index > self._first:
                g = one.transposed(g, tape.inputs[index], tape.seen[index], own)
        return g, [gradient for layer in reversed(found) for gradient in layer]

    def tangent(
        self, u: Tensor, tape: Tape, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The derivative of the logits (B, K) in the direction u of the images, and what the weights get on the way.

        Args:
            u: (B, C, H, W).
            tape: of the forward pass.
            gradients: of the layers' outputs, from :meth:`transposed`.
            parameters: as in both.
        """
        found: list[Tensor | None] = []
        for one, own, x, seen, g in zip(self.links, self._slices, tape.inputs, tape.seen, gradients, strict=True):
            if g is not None:
                found += one.products(u, g, parameters[own], bias=False)
                found += [None] * (len(one.parameters) - 1)
            u = one.tangent(u, x, seen, parameters[own])
        return u, found


def chain_of(model: nn.Module) -> Chain | None:
    """The chain that a model is: its ``layers()``, if all of them can be differentiated by hand.

    ``layers()`` gives the modules that the images go through, in order, up to a final ``nn.LogSoftmax(dim=1)``. It is
    taken at its word. A layer with hooks, or in a precision other than float32, makes it no chain.
    """
    if not _describes_itself(type(model)) or model._forward_hooks or model._forward_pre_hooks:
        return None
    *body, last = model.layers()  # type: ignore[operator]
    if not isinstance(last, nn.LogSoftmax) or last.dim != 1:
        return None
    found = links(body)
    return None if found is None else Chain(found)


def _describes_itself(kind: type[nn.Module]) -> bool:
    """Whether a class has ``layers``, and no subclass has changed ``forward`` without changing them too."""
    owners = {name: next((i for i, one in enumerate(kind.__mro__) if name in vars(one)), None) for name in _METHODS}
    layers, forward = (owners[name] for name in _METHODS)
    return layers is not None and forward is not None and layers <= forward


def explained(chain: Chain, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log p and ∂log p_y/∂x, both differentiable, once, with respect to the weights.

    Args:
        chain: the learner.
        images: (B, C, H, W).
        targets: int64 (B,).

    Returns:
        (B, K), and (B, C, H, W) which keeps its digits where p_y is nearly 1.
    """
    both: tuple[Tensor, Tensor] = _Explained.apply(chain, images, targets, *chain.parameters)
    return both


def cross_entropy(
    chain: Chain, images: Tensor, labels: Tensor, class_weights: Tensor, *, count: int = 1, to_images: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    """CE_w of a batch, its gradients by the parameters (float32), and by the images, all without autograd.

    Args:
        chain: the network, or several in a stack (:mod:`lsx.training.stacked`), of which each has its own loss.
        images: (B · S, C, H, W).
        labels: int64 (B · S,).
        class_weights: (K,), see :func:`lsx.optim.weighted_cross_entropy`.
        count: S.
        to_images: whether the last of the three is wanted; it has no meaning otherwise.

    Returns:
        Losses (S,), and the gradients of their sum.
    """
    with torch.no_grad():
        x, parameters = working(images, chain.parameters)
        tape = chain.forward(x, parameters)
        shares = class_weights[labels].view(-1, count)
        shares = shares / shares.sum(dim=0)
        losses = -(shares * tape.log_probabilities.gather(1, labels.unsqueeze(1)).view(-1, count)).sum(dim=0)
        at_logits = of_log_probability(tape.log_probabilities, labels).mul_(-shares.view(-1, 1))
        cotangent, found = chain.backward(at_logits.to(x.dtype), tape, parameters, to_images=to_images)
        return losses, [one.to(like.dtype) for one, like in zip(found, chain.parameters, strict=True)], cotangent


def of_log_probability(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """∂log p_y/∂z (B, K) by the logits z: −p_j, and for y the sum of the others', which 1 − p_y would lose."""
    others = log_probabilities.exp().scatter(1, targets.unsqueeze(1), 0.0)
    return others.neg().scatter(1, targets.unsqueeze(1), others.sum(dim=1, keepdim=True))


def working(images: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Images and parameters as a pass wants them: in autocast's precision, channels last."""
    kind = images.device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else images.dtype
    return channels_last(images.detach().to(precision)), [each.detach().to(precision) for each in parameters]


def channels_last(images: Tensor) -> Tensor:
    """(B, C, H, W) with the channels' stride 1, also for one channel, where torch would call any order that."""
    batch, channels, height, width = images.shape
    if channels > 1:
        return images.contiguous(memory_format=torch.channels_last)
    return images.contiguous().as_strided((batch, 1, height, width), (height * width, 1, width, 1))


class _Explained(torch.autograd.Function):
    """See :func:`explained`."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, images: Tensor, targets: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        x, own = working(images, parameters)
        tape = chain.forward(x, own)
        delta = of_log_probability(tape.log_probabilities, targets)
        gradient, ctx.outputs = chain.transposed(delta.to(x.dtype), tape, own)
        ctx.chain, ctx.tape, ctx.own = chain, tape, own
        ctx.save_for_backward(targets, *parameters)  # so that a change in between is noticed
        ctx.set_materialize_grads(False)
        return tape.log_probabilities.clone(), gradient.to(images.dtype, memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_outputs: Tensor | None, u: Tensor | None) -> tuple[Tensor | None, ...]:
        targets, *parameters = ctx.saved_tensors
        chain, tape, own = ctx.chain, ctx.tape, ctx.own
        log_probabilities = tape.log_probabilities
        direct: list[Tensor | None] = [None] * len(own)
        at_logits = torch.zeros_like(log_probabilities)
        if u is not None:
            tau, direct = chain.tangent(channels_last(u.to(own[0].dtype)), tape, ctx.outputs, own)
            at_logits += _curvature(log_probabilities, targets, tau.float())
        if of_outputs is not None:
            at_logits += _to_logits(log_probabilities, of_outputs)
        _, through = chain.backward(at_logits.to(own[0].dtype), tape, own, to_images=False)
        sums = [_sum(one, two, like) for one, two, like in zip(direct, through, parameters, strict=True)]
        return (None, None, None, *sums)


def _to_logits(log_probabilities: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the logits from that of the log-probabilities, both (B, K)."""
    return gradient - log_probabilities.exp() * gradient.sum(dim=1, keepdim=True)


def _sum(direct: Tensor | None, through: Tensor, like: Tensor) -> Tensor | None:
    if not like.requires_grad:
        return None
    total = through.to(like.dtype)
    return total if direct is None else total.add_(direct)


def _curvature(log_probabilities: Tensor, targets: Tensor, tau: Tensor) -> Tensor:
    """∂²log p_y/∂z² · τ, (B, K), from differences to τ_y, so that it keeps its digits where p_y is nearly 1."""
    chosen = targets.unsqueeze(1)
    differences = tau - tau.gather(1, chosen)  # exactly 0 at y
    p = log_probabilities.exp()
    return -p * (differences - (p * differences).sum(dim=1, keepdim=True))
