"""Training: three stages over one loop, reporting through one callback."""

from lsx.training.report import Callback, Report
from lsx.training.trainer import Trainer

__all__ = ["Callback", "Report", "Trainer"]
