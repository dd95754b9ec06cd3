"""Images whose prediction a decoy flips: right without one, wrong with one that says another class."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from optuna.trial import FrozenTrial
from torch import Tensor, nn

from lsx import data, figures
from lsx.config import Config
from lsx.data import Dataset, Split
from lsx.data.shared import remembering
from lsx.errors import LSXError
from lsx.explainers.base import predicted
from lsx.figures import Cell
from lsx.gallery import spread
from lsx.metrics.localization import relevance_mass
from lsx.metrics.maps import explain, reference_config
from lsx.models import evaluating
from lsx.study.environment.places import learner_file
from lsx.study.shown.report.markup import picture, text
from lsx.study.shown.report.subject import LeftOut, Subject
from lsx.training import load_learner

SHOWN = 8
DECOYS = 5
"""Decoys that every image is tried with: its own, and those of other images."""
MOST_IMAGES = 1000


@dataclass(frozen=True)
class Flips:
    """What decoys do to one learner.

    Attributes:
        images: that were tried.
        right: of them, those classified correctly without a decoy.
        flipped: of those, how many at least one decoy makes wrong.
        clean, decoyed: at most eight of these, (R, C, H, W) in 0–1.
        masks: bool (R, 1, H, W), where the decoy is.
        labels, said: true class, and the one predicted with the decoy.
        maps: (R, C, H, W), explanations with the decoy, by the reference explainer.
    """

    images: int
    right: int
    flipped: int
    clean: Tensor
    decoyed: Tensor
    masks: Tensor
    labels: list[int]
    said: list[int]
    maps: Tensor


def failures(subject: Subject) -> Iterator[str]:
    """Of the baseline and of the chosen trial; where that is the baseline, of the next one of the front."""
    shown = {one.number: one for one in (subject.first, subject.featured) if one is not None}
    if not shown:
        raise LeftOut("No trial is complete, so there is none whose failures could be shown.")
    with remembering():  # the files are read once for both, with and without decoys
        for trial in shown.values():
            yield f"<h3>{text(subject.title(trial))}</h3>"
            yield from _of(trial, subject)
    yield (
        '<p class="quiet">Decoys are those of the image itself and of other images. The last row is the relevance for '
        "the class that is said with the decoy, by the reference explainer; mass: its share inside of the decoy.</p>"
    )


def _of(trial: FrozenTrial, subject: Subject) -> Iterator[str]:
    try:
        found = flips(trial, subject)
    except (LSXError, LeftOut) as error:
        yield f'<p class="left-out">Left out: {text(error)}</p>'
        return
    yield f"<p>{_said(found)}</p>"
    if found.flipped:
        yield _picture(found, f"Images that a decoy flips, {subject.title(trial)}")


def flips(trial: FrozenTrial, subject: Subject) -> Flips:
    """Try a trial's first learner on validation images without and with several decoys.

    Raises:
        LeftOut: the data has no decoy that can be taken away.
        LSXError: the learner or the data are gone.
    """
    config = Config.build(trial.user_attrs["config"]).replace({"device": "cpu"})
    stamped = data.load(config)
    if stamped.validation.masks is None:
        raise LeftOut("The images have no confounder with a place of its own, which could be moved or taken away.")
    clean = data.load(config.replace({"confounder.kind": "none"})).normalised(stamped.mean, stamped.std)
    # Of every class as many, side by side: so the decoys of the images before say other classes.
    rows = spread(stamped.validation.labels, MOST_IMAGES)
    bare, own = clean.validation.take(rows), stamped.validation.take(rows)
    if not torch.equal(bare.index, own.index) or torch.equal(bare.images, own.images):
        raise LeftOut("The data cannot be had without its confounder.")
    learner, _ = load_learner(subject.file(trial, learner_file(0)), stamped)
    with evaluating(learner):
        return _tried(learner, stamped, bare, own, config)


def _tried(learner: nn.Module, dataset: Dataset, bare: Split, own: Split, config: Config) -> Flips:
    size = config.evaluation.batch_size
    right = _classes(learner, bare.images, size) == bare.labels
    flipped = torch.zeros_like(right)
    shown, masks, said = bare.images.clone(), torch.zeros_like(_masks(own)), bare.labels.clone()
    for shift in range(DECOYS):
        left = (right & ~flipped).nonzero().flatten()
        images, places = (one[left] for one in decoyed(bare, own, shift))
        classes = _classes(learner, images, size)
        wrong = classes != bare.labels[left]
        new = left[wrong]
        shown[new], masks[new], said[new] = images[wrong], places[wrong], classes[wrong]
        flipped[new] = True
    every = flipped.nonzero().flatten()
    rows = every[spread(bare.labels[every], SHOWN)]
    part = Split(shown[rows], bare.labels[rows], masks[rows], bare.index[rows])
    # The class that the learner says is the one whose reasons are asked for.
    maps = part.images
    if len(rows):
        maps = explain(learner, part, reference_config(config), size, targets=said[rows]).sample
    return Flips(
        images=len(bare),
        right=int(right.sum()),
        flipped=int(flipped.sum()),
        clean=dataset.raw(bare.images[rows]),
        decoyed=dataset.raw(part.images),
        masks=masks[rows],
        labels=part.labels.tolist(),
        said=said[rows].tolist(),
        maps=maps,
    )


def decoyed(bare: Split, own: Split, shift: int) -> tuple[Tensor, Tensor]:
    """Images with the decoy of the image that is ``shift`` rows before, and its mask; 0: with their own."""
    masks = _masks(own).roll(shift, 0)
    return torch.where(masks, own.images.roll(shift, 0), bare.images), masks


def _masks(own: Split) -> Tensor:
    assert own.masks is not None
    return own.masks


def _classes(learner: nn.Module, images: Tensor, size: int) -> Tensor:
    found = [predicted(learner, some) for some in images.split(size)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def _said(found: Flips) -> str:
    tried = f"Of {found.images} validation images, {found.right} are classified correctly without a decoy"
    if not found.flipped:
        return f"{tried}; none of {DECOYS} decoys makes one of them wrong."
    share = found.flipped / found.right
    more = f" {SHOWN} of them are shown, spread over the classes." if found.flipped > SHOWN else ""
    return f"{tried}; at least one of {DECOYS} decoys flips {found.flipped} of them ({share:.0%}).{more}"


def _picture(found: Flips, caption: str) -> str:
    masses = relevance_mass(found.maps, found.masks).tolist()
    columns = [
        (
            Cell(found.clean[row], f"says {found.labels[row]}", is_map=False),
            Cell(found.decoyed[row], f"says {found.said[row]}", found.masks[row], is_map=False),
            Cell(found.maps[row], "mass –" if mass != mass else f"mass {mass:.2f}", found.masks[row]),
        )
        for row, mass in enumerate(masses)
    ]
    names = ("without\na decoy", "with one", "relevance\nwith it")
    rows = [[*cells, *[None] * (SHOWN - len(cells))] for cells in zip(*columns, strict=True)]
    (light, width), (dark, _) = (figures.grid(rows, names=names, dark=one) for one in (False, True))
    return picture(light, dark, caption, width)
