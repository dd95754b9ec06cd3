"""A run in TensorBoard: curves, explanations, settings and final metrics."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import make_grid

from lsx import gallery
from lsx.config import Config
from lsx.data import Dataset
from lsx.errors import ConfigError
from lsx.figures import MAP_COLORS
from lsx.training import Report
from lsx.yamlfile import dump_plain

PICTURES = 10
"""Of a stage: its explanations are drawn at every tenth of it, and at its end."""
ENLARGED = 4


class TensorBoard:
    """A callback that writes TensorBoard's event files.

    Scalars are ``<stage>/<metric>`` over the epochs of the whole run (``Report.position``), images
    ``<stage>/explanations``: validation images above their explanations by the learner's own explainer, each map
    scaled by itself. Settings are the text ``config`` and, with the final metrics, the hyperparameters.

    Args:
        folder: of the event files.
        config: of the run.
        dataset: whose validation images are explained.
        position: epochs that are finished; what was written to the folder about later ones is dropped. A run at its
            beginning (0) drops nothing.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, config: Config, dataset: Dataset, position: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._config, self._dataset = config, dataset
        self._position = position
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._writer: Any = SummaryWriter(str(folder), purge_step=position + 1 if position else None)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--logdir: {str(folder)!r} cannot be written: {error}") from None
        self._writer.add_text("config", f"```yaml\n{dump_plain(config.plain())}```", position)

    def __call__(self, report: Report) -> None:
        """Write one finished epoch."""
        self._position = report.position
        for name, value in report.metrics.items():
            self._writer.add_scalar(f"{report.stage}/{name}", value, report.position)
        if report.ends_stage or report.epoch % math.ceil(report.epochs / PICTURES) == 0:
            rows = gallery.spread(self._dataset.validation.labels, gallery.EXAMPLES)
            examples = self._dataset.validation.take(rows)
            maps = gallery.explain(report.learner, self._config, examples)
            picture = _grid(self._dataset.raw(examples.images), maps)
            self._writer.add_image(f"{report.stage}/explanations", picture, report.position)

    def saved(self) -> None:
        """Put everything on disk."""
        self._writer.flush()

    def final(self, values: Mapping[str, float], reasons: Mapping[str, str]) -> None:
        """The finished run's metrics as ``final/<metric>`` beside its settings; those that are NaN as text."""
        settings = {
            key: value if isinstance(value, int | float | str) else str(value)
            for key, value in self._config.flat().items()
        }
        metrics = {f"final/{name}": value for name, value in values.items() if math.isfinite(value)}
        self._writer.add_hparams(settings, metrics, run_name=".", global_step=self._position)
        if reasons:
            text = "\n".join(f"- {name}: {reason}" for name, reason in reasons.items())
            self._writer.add_text("final/reasons", text, self._position)

    def close(self, ending: Literal["FINISHED", "KILLED", "FAILED"]) -> None:
        """Close the files; TensorBoard has no state of a run."""
        self._writer.close()


def _grid(images: Tensor, maps: Tensor) -> Tensor:
    """float (3, ...): images (N, C, H, W) in 0–1 in a row, their explanations in colour below them."""
    shown = images if images.shape[1] == 3 else images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    relevance = maps.amax(dim=1).cpu().numpy()
    colored = torch.from_numpy(matplotlib.colormaps[MAP_COLORS](relevance)[..., :3]).permute(0, 3, 1, 2).float()
    grid = make_grid(torch.cat([shown.cpu(), colored]), nrow=len(images), padding=1, pad_value=1.0)
    return F.interpolate(grid[None], scale_factor=ENLARGED)[0]
