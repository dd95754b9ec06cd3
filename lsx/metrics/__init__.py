"""Metrics of a learner and its explanations: pure, batched functions on tensors, and one call for all of them.

Whatever is not defined (constant maps, empty masks, one class) is NaN with a reason, never a silent 0.
"""

from lsx.metrics import catalogue
from lsx.metrics.accuracy import accuracy
from lsx.metrics.complexity import sparseness
from lsx.metrics.context import SPLITS, Context
from lsx.metrics.encoder import encoder
from lsx.metrics.evaluation import Evaluation, evaluate, evaluate_with_reasons
from lsx.metrics.localization import pointing_game, rank_accuracy, relevance_mass
from lsx.metrics.maps import Maps, explain
from lsx.metrics.newcritic import learn
from lsx.metrics.perturbation import infidelity, max_sensitivity
from lsx.metrics.randomisation import cosine_similarity, rank_correlation
from lsx.metrics.registry import METRICS, Metric, NotApplicable, register, select
from lsx.metrics.removal import deletion_auc, insertion_auc
from lsx.metrics.score import Score, mean
from lsx.metrics.separability import iies, ridge

__all__ = [
    "METRICS",
    "SPLITS",
    "Context",
    "Evaluation",
    "Maps",
    "Metric",
    "NotApplicable",
    "Score",
    "accuracy",
    "catalogue",
    "cosine_similarity",
    "deletion_auc",
    "encoder",
    "evaluate",
    "evaluate_with_reasons",
    "explain",
    "iies",
    "infidelity",
    "insertion_auc",
    "learn",
    "max_sensitivity",
    "mean",
    "pointing_game",
    "rank_accuracy",
    "rank_correlation",
    "register",
    "relevance_mass",
    "ridge",
    "select",
    "sparseness",
]
