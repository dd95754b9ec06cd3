"""CNN-LSX, *Learning by Self-Explaining* (arXiv 2309.08395): a learner taught by a critic of its explanations."""

from lsx import data, explainers, metrics, models
from lsx.config import STAGES, Config
from lsx.data import Dataset, Split
from lsx.data import load as load_data
from lsx.errors import LSXError
from lsx.explainers import Explainer
from lsx.metrics import evaluate
from lsx.progress import Progress
from lsx.training import Report, Trainer, fit, load_learner

__version__ = "0.1.0"

__all__ = [
    "STAGES",
    "Config",
    "Dataset",
    "Explainer",
    "LSXError",
    "Progress",
    "Report",
    "Split",
    "Trainer",
    "data",
    "evaluate",
    "explainers",
    "fit",
    "load_data",
    "load_learner",
    "metrics",
    "models",
]
