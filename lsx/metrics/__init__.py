"""Metrics of a learner and its explanations: pure, batched functions on tensors, and one call for all of them.

Whatever is not defined (constant maps, empty masks, one class) is NaN with a reason, never a silent 0.
"""

from lsx.metrics.accuracy import accuracy
from lsx.metrics.catalogue import METRICS, Metric
from lsx.metrics.encoder import encoder
from lsx.metrics.evaluation import SPLITS, Evaluation, evaluate, evaluate_with_reasons, explain
from lsx.metrics.localization import pointing_game, rank_accuracy, relevance_mass
from lsx.metrics.score import Score, mean
from lsx.metrics.separability import iies, ridge

__all__ = [
    "METRICS",
    "SPLITS",
    "Evaluation",
    "Metric",
    "Score",
    "accuracy",
    "encoder",
    "evaluate",
    "evaluate_with_reasons",
    "explain",
    "iies",
    "mean",
    "pointing_game",
    "rank_accuracy",
    "relevance_mass",
    "ridge",
]
