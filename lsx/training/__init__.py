"""Training: three stages over one loop, reporting through one callback."""

from pathlib import Path

from torch import nn

from lsx import models
from lsx.config import Config
from lsx.data.types import Dataset
from lsx.training import checkpoint
from lsx.training.report import Callback, Pulse, Report, Tick
from lsx.training.trainer import Trainer, load_weights

__all__ = ["Callback", "Pulse", "Report", "Tick", "Trainer", "fit", "load_learner"]


def fit(config: Config, dataset: Dataset | None = None, callback: Callback | None = None) -> nn.Module:
    """Train a learner through the stages that ``config`` names; arguments and errors as for :class:`Trainer`."""
    return Trainer(config, dataset, callback).run()


def load_learner(path: str | Path, dataset: Dataset) -> tuple[nn.Module, Config]:
    """The learner of a checkpoint, on the dataset's device, and the configuration it was trained with.

    Raises:
        CheckpointError: unreadable, or its weights do not fit the dataset's images and classes.
    """
    state = checkpoint.load(path)
    config = Config.build(state["config"])
    device = dataset.train.images.device
    learner = models.build(config.model.name, dataset.image_shape, dataset.num_classes, device)
    load_weights(learner, state["learner"])
    return learner, config
