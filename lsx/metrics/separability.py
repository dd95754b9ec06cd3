"""Separability: how well explanations of different classes can be told apart.

Both numbers depend strongly on how the explanations were normalized; compare them under one normalization only.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from lsx.metrics.score import Score, unusable

FIT_SHARE = 0.8


def ridge(explanations: Tensor, labels: Tensor) -> Score:
    """Accuracy of scikit-learn's ``RidgeClassifier()`` on flattened explanations: first 80 % fit, last 20 % score.

    In 0–1, higher is better. NaN without at least two classes among the fitted samples, without a sample to score,
    or when no map has any structure.

    Args:
        explanations: (N, C, H, W).
        labels: int64 (N,), in an order that mixes the classes.
    """
    from sklearn.linear_model import RidgeClassifier  # slow to import

    fit = int(FIT_SHARE * len(labels))
    features, classes = explanations.flatten(1).cpu().numpy(), labels.cpu().numpy()
    if reason := unusable(explanations):
        return Score.undefined(reason)
    if len(set(classes[:fit].tolist())) < 2:
        return Score.undefined(f"the first {fit} of {len(labels)} samples hold fewer than two classes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LinAlgWarning: sparse maps make ill-conditioned systems
        model = RidgeClassifier().fit(features[:fit], classes[:fit])
    return Score(float(model.score(features[fit:], classes[fit:])))


def iies(explanations: Tensor, labels: Tensor, encode: Callable[[Tensor], Tensor], batch_size: int = 256) -> Score:
    """Inter- versus intra-class explanation similarity (Stammer et al., arXiv 2309.08395); ≥ 0, lower is better.

    (1/K) Σ_k [ mean_{i∈k} ‖h(e_i) − μ_k‖₂ / mean_{j≠k} ‖μ_j − μ_k‖₂ ], μ_k the class means of the encodings h(e).
    K counts the classes that occur. NaN with fewer than two classes, with a class of one sample (whose spread would
    be a silent 0), when no map has any structure, or when the class means coincide.

    Args:
        explanations: (N, C, H, W).
        labels: int64 (N,).
        encode: h, (B, C, H, W) to (B, D), of a network trained independently of the explained one.
    """
    classes, member, counts = labels.unique(return_inverse=True, return_counts=True)
    if reason := unusable(explanations):
        return Score.undefined(reason)
    if len(classes) < 2:
        return Score.undefined("the samples hold fewer than two classes")
    if single := classes[counts < 2].tolist():
        return Score.undefined(f"class {single[0]} has one sample; every class needs two")
    with torch.no_grad():
        encodings = torch.cat([encode(batch) for batch in explanations.split(batch_size)]).flatten(1)
    ratios = _spread_ratios(encodings, member, counts)
    value = float(ratios.mean())
    return Score(value) if torch.isfinite(ratios).all() else Score.undefined("the class means coincide")


def _spread_ratios(encodings: Tensor, member: Tensor, counts: Tensor) -> Tensor:
    """(K,) from encodings (N, D) and class positions (N,); infinite or NaN where a class mean equals all others."""
    sums = encodings.new_zeros(len(counts), encodings.shape[1]).index_add_(0, member, encodings)
    means = sums / counts.unsqueeze(1)
    distances = (encodings - means[member]).norm(dim=1)
    within = encodings.new_zeros(len(counts)).index_add_(0, member, distances) / counts
    # Differences rather than cdist: its matrix product loses digits for near means.
    between = torch.stack([(means - mean).norm(dim=1).sum() for mean in means]) / (len(counts) - 1)
    return within / between
