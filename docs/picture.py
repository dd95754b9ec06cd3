"""Draws data.png: the same digits under several confounders, in training and in validation."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import lsx

SHOWN = 6
VARIANTS: dict[str, dict[str, Any]] = {
    "mnist": {},
    "decoy_mnist": {"data.dataset": "decoy_mnist"},
    "ascending,\n8 pixels": {"data.dataset": "decoy_mnist", "confounder": {"intensity": "ascending", "size": 8}},
    "by_class,\nwhite": {"data.dataset": "decoy_mnist", "confounder": {"place": "by_class", "intensity": "white"}},
    "color_mnist": {"data.dataset": "color_mnist"},
    "color_mnist,\ngrey": {"data.dataset": "color_mnist", "data.color": "grey"},
}


def main() -> None:
    """One row per variant: training digits left, validation digits right."""
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(1, 2, wspace=0.03, width_ratios=(1.17, 1))
    for half, name in zip(halves, ("train", "validation"), strict=True):
        says = "follows the class" if name == "train" else "is random"
        half.suptitle(f"{name}: the confounder {says}", fontsize=9)
        axes = half.subplots(len(VARIANTS), SHOWN)
        for row, (title, settings) in zip(axes, VARIANTS.items(), strict=True):
            draw(row, settings, name)
            if name == "train":
                row[0].text(-0.2, 0.5, title, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
    figure.savefig(Path(__file__).with_name("data.png"), dpi=110)


def draw(row: Any, settings: dict[str, Any], name: str) -> None:
    """The first image of each of the first classes."""
    dataset = lsx.load_data(lsx.Config.build({"stages": ["pretrain"]}, settings))
    split = getattr(dataset, name)
    images = dataset.raw(split.images)
    for label, panel in enumerate(row):
        image = images[torch.nonzero(split.labels == label)[0, 0]]
        panel.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_color("#9aa0a6")  # so that white at the rim is seen to be inside


if __name__ == "__main__":
    main()
