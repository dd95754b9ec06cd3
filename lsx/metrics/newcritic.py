"""How well a new critic learns from explanations: what LSX trains them for, measured on held-out ones."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsx.metrics.accuracy import at_a_time
from lsx.metrics.encoder import fit
from lsx.metrics.score import Score, unusable
from lsx.models import evaluating

FIT_SHARE = 0.8


class Learnt(NamedTuple):
    """What a critic says about explanations that it was not trained on.

    Attributes:
        accuracy: share of them whose class it finds, 0–1.
        loss_to_chance: its mean cross entropy over ln K; ≥ 0, 1 for a critic that knows nothing, above 1 for one that
            is surely wrong.
    """

    accuracy: Score
    loss_to_chance: Score


def learn(critic: nn.Module, explanations: Tensor, labels: Tensor, epochs: int, seed: int = 0) -> Learnt:
    """Train a critic on the first 80 % of explanations, score it on the last 20 %.

    After the critic of Stammer et al. (arXiv 2309.08395), but trained by Adam for several epochs: what can be learnt
    rather than what one short pass learns. Explanations that merely resemble their image teach a critic too; compare
    with the same number of an untrained learner's explanations and of the images themselves.

    Both scores are NaN without two classes among the fitted samples, without a sample to score, or when no map has any
    structure.

    Args:
        critic: explanations (B, C, H, W) to log-probabilities (B, K), freshly initialised; trained in place.
        explanations: (N, C, H, W), in an order that mixes the classes. Normalize them per sample: under batch
            normalization the number depends on what shares a batch.
        labels: int64 (N,).
        epochs: passes over the fitted samples.
        seed: of their order.
    """
    count = int(FIT_SHARE * len(labels))
    if reason := unusable(explanations):
        return _undefined(reason)
    if len(labels[:count].unique()) < 2:
        return _undefined(f"the first {count} of {len(labels)} samples hold fewer than two classes")
    fit(critic.train(), explanations[:count], labels[:count], epochs, seed)
    held = explanations[count:]
    with evaluating(critic), torch.no_grad():
        outputs = torch.cat([critic(batch) for batch in held.split(at_a_time(held, len(held)))])
    hits = (outputs.argmax(dim=1) == labels[count:]).float().mean()
    loss = F.nll_loss(outputs, labels[count:]) / math.log(outputs.shape[1])
    return Learnt(Score(float(hits)), Score(float(loss)))


def _undefined(reason: str) -> Learnt:
    return Learnt(Score.undefined(reason), Score.undefined(reason))
