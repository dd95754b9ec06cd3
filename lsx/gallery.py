"""What a learner looks at: explanations of the same few images, as tensors and as a picture by stage."""

import contextlib
import os
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from lsx import explainers, figures
from lsx.config import Config
from lsx.data import Dataset, Split
from lsx.models import evaluating
from lsx.training.device import isolated_randomness, seed_everything

EXAMPLES = 6
PICTURE = "explanations.png"
TITLES = {"pretrain": "after pretraining", "joint": "after joint training", "finetune": "after finetuning"}


def draw(learner: nn.Module, stage: str, config: Config, dataset: Dataset, folder: Path) -> None:
    """Add a column of explanations to a run's picture: the same validation images after every stage."""
    examples = dataset.validation.take(spread(dataset.validation.labels, EXAMPLES))
    store = folder / "explanations.pt"
    columns: dict[str, Tensor] = {}
    if store.is_file():
        with contextlib.suppress(Exception):  # half a file of a worker that was lost: earlier stages stay undrawn
            columns = torch.load(store, weights_only=True)
    columns[TITLES[stage]] = explain(learner, config, examples).cpu()
    part = store.with_name(f"{store.name}.{os.getpid()}.part")
    torch.save(columns, part)
    part.replace(store)
    images = dataset.raw(examples.images).cpu()
    masks = None if examples.masks is None else examples.masks.cpu()
    title = f"{config.explainer.method}, validation images"
    figures.explanations(folder / PICTURE, images, columns, masks=masks, title=title)


def spread(labels: Tensor, count: int) -> Tensor:
    """Rows, int64 (at most ``count``,): the first image of each class as they come, then the second of each, ..."""
    seen: Counter[int] = Counter()
    ranked = []
    for row, label in enumerate(labels.tolist()):
        ranked.append((seen[label], row))
        seen[label] += 1
    return torch.tensor([row for _, row in sorted(ranked)[:count]], dtype=torch.int64, device=labels.device)


def explain(learner: nn.Module, config: Config, examples: Split, method: str | None = None) -> Tensor:
    """Explanations (N, C, H, W) in 0–1 by the learner's own explainer or another, each image scaled by itself.

    The class of ``config.evaluation.target`` is explained. The global random state is left as it was, so that looking
    at a learner in training does not change what becomes of it; explainers that draw noise draw the same every time.
    """
    settings = config.explainer.model_copy(update={"target": config.evaluation.target})
    explainer = explainers.build(settings, method=method, normalization="sample")
    device = examples.images.device
    with isolated_randomness(device), evaluating(learner):
        seed_everything(0, device)
        batches = torch.arange(len(examples), device=device).split(config.evaluation.batch_size)
        maps = [explainer(learner, examples.images[rows], examples.labels[rows]) for rows in batches]
    return torch.cat(maps)
