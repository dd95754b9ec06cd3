"""Everything about one learner, in one call."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lsx import explainers
from lsx.config import Config, ExplainerConfig
from lsx.data.types import Dataset, Split
from lsx.errors import ConfigError, unknown
from lsx.explainers import Explainer
from lsx.explainers.base import predicted
from lsx.metrics import faithfulness, localization, separability
from lsx.metrics.accuracy import accuracy, at_a_time
from lsx.metrics.encoder import cached, encoder, fingerprint, fresh
from lsx.metrics.faithfulness import FRACTIONS, KINDS, THRESHOLDS, Curve, Form, Kind, Subject
from lsx.metrics.score import Score, informative, mean
from lsx.models import encode, evaluating

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

UNRANKED = "constant, without positive attribution, or without a mask"


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name (:data:`lsx.metrics.METRICS`), and why some are NaN or leave samples out."""

    values: dict[str, float]
    reasons: dict[str, str]


class Maps(NamedTuple):
    """Explanations (N, C, H, W) of the same images: normalized as in training, and per sample."""

    own: Tensor
    sample: Tensor


def evaluate(
    learner: nn.Module,
    dataset: Dataset,
    split: SplitName,
    config: Config,
    *,
    encoder: nn.Module | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Metrics of a learner by name; see :func:`evaluate_with_reasons`, :data:`lsx.metrics.METRICS`."""
    return evaluate_with_reasons(learner, dataset, split, config, encoder=encoder, seed=seed).values


def evaluate_with_reasons(
    learner: nn.Module,
    dataset: Dataset,
    split: SplitName,
    config: Config,
    *,
    encoder: nn.Module | None = None,
    seed: int = 0,
) -> Evaluation:
    """Metrics of a learner on one split.

    Accuracy counts every image. Explanation metrics use the first ``config.evaluation.max_images`` of a shuffle by
    ``seed``, faithfulness the first ``config.evaluation.faithfulness_images`` of these. Nothing global changes: modes
    of networks and random states are as before.

    Args:
        learner: images (B, C, H, W) to log-probabilities (B, K); its device is used.
        dataset: the split's images, and the training images of IIES's encoder.
        split: train, validation or test.
        config: the learner's explainer, and how to evaluate.
        encoder: encodes explanations for IIES, instead of one trained on the training split.
        seed: of the image selection and the random baselines; keep it equal for learners that are compared.

    Raises:
        ConfigError: an unknown split or explainer.
    """
    if split not in SPLITS:
        raise ConfigError(unknown("split", split, SPLITS))
    device = next((weight.device for weight in learner.parameters()), dataset.train.images.device)
    part = getattr(dataset, split).to(device)
    scores = {"accuracy": Score(accuracy(learner, part, config.evaluation.batch_size))}
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    part = part.take(order[: config.evaluation.max_images].to(device))
    own, reference = _maps(learner, part, config)
    scores |= _faithfulness(learner, part, own, reference, config, seed)
    scores |= _separability(own, reference, part, dataset, config, encoder)
    if part.masks is not None:
        scores |= _localization("", own.own, part.masks) | _localization("reference_", reference, part.masks)
    scores["degenerate_maps"] = Score(1 - float(informative(own.own).float().mean()))
    return Evaluation(
        {name: score.value for name, score in scores.items()},
        {name: score.reason for name, score in scores.items() if score.reason},
    )


def explain(model: nn.Module, part: Split, config: ExplainerConfig, batch_size: int) -> Maps:
    """Explanations of a split's images, batches of ``batch_size`` being the groups of batch normalization."""
    explainer = explainers.build(config)
    with evaluating(model):
        targets = part.labels
        if config.target == "predicted":
            targets = torch.cat([predicted(model, images) for images in part.images.split(batch_size)])
        raw = _attribute(explainer, model, part.images, targets, batch_size)
    groups = [
        (explainer.postprocess(batch, images, len(batch)), explainer.postprocess(batch, images, 1))
        for batch, images in zip(raw.split(batch_size), part.images.split(batch_size), strict=True)
    ]
    own, sample = (torch.cat(maps).detach() for maps in zip(*groups, strict=True))
    return Maps(sample if config.normalization == "sample" else own, sample)


def reference_config(config: Config) -> ExplainerConfig:
    """The explainer that scores every learner alike: nothing in it comes from the learner's own explainer."""
    evaluation = config.evaluation
    settings = {"method": evaluation.reference_explainer, "target": evaluation.target, "normalization": "sample"}
    return ExplainerConfig.model_validate(settings)


def _attribute(explainer: Explainer, model: nn.Module, images: Tensor, targets: Tensor, batch_size: int) -> Tensor:
    # Captum evaluates all quadrature points of a batch at once: fewer images keep memory as it is elsewhere.
    size = max(1, at_a_time(images, batch_size) // explainer.evaluations)
    return torch.cat(
        [
            explainer.attribute(model, batch, classes, create_graph=False).detach()
            for batch, classes in zip(images.split(size), targets.split(size), strict=True)
        ]
    )


def _maps(learner: nn.Module, part: Split, config: Config) -> tuple[Maps, Tensor]:
    """Explanations by the learner's own explainer, and by the reference explainer."""
    settings = config.explainer.model_copy(update={"target": config.evaluation.target})
    reference = reference_config(config)
    own = explain(learner, part, settings, config.evaluation.batch_size)
    if settings.model_copy(update={"normalization": "sample"}) == reference:
        return own, own.sample
    return own, explain(learner, part, reference, config.evaluation.batch_size).sample


def _faithfulness(
    learner: nn.Module, part: Split, own: Maps, reference: Tensor, config: Config, seed: int
) -> dict[str, Score]:
    value = faithfulness.replacement(part.images, config.evaluation.replacement)
    some = part.take(slice(config.evaluation.faithfulness_images))
    batch_size = at_a_time(part.images, config.evaluation.batch_size)
    subject = faithfulness.subject(learner, some.images, some.labels, value, batch_size)
    scores: dict[str, Score] = {}
    for kind in KINDS:
        random = _curve(subject, None, "equal_count", kind, seed)
        # Scaling does not change ranks, so the maps per sample serve, which the reference may share.
        scores[kind] = _contrast(subject, own.sample, random, "equal_count", kind, seed)[1]
        shared = own.sample is reference
        scores[f"reference_{kind}"] = (
            scores[kind] if shared else _contrast(subject, reference, random, "equal_count", kind, seed)[1]
        )
        random = _curve(subject, None, "authors", kind, seed)
        pair = _contrast(subject, own.own, random, "authors", kind, seed)
        scores[f"authors_{kind}"], scores[f"authors_{kind}_probability"] = pair
    return scores


def _contrast(subject: Subject, maps: Tensor, random: Curve, form: Form, kind: Kind, seed: int) -> tuple[Score, Score]:
    some = maps[: len(subject.images)]
    return faithfulness.contrast(_curve(subject, some, form, kind, seed), random, some)


def _curve(subject: Subject, maps: Tensor | None, form: Form, kind: Kind, seed: int) -> Curve:
    """The curve of explanations, or of the random baseline when ``maps`` is None."""
    levels = THRESHOLDS if form == "authors" else FRACTIONS
    maps = faithfulness.random_maps(subject.images, seed) if maps is None else maps
    return faithfulness.curve(subject, maps, form, kind, levels, seed)


def _separability(
    own: Maps, reference: Tensor, part: Split, dataset: Dataset, config: Config, given: nn.Module | None
) -> dict[str, Score]:
    control = _control_maps(dataset, part, config)
    chosen = {"ridge": own.sample, "ridge_own": own.own, "reference_ridge": reference, "control_ridge": control}
    scores = {name: separability.ridge(maps, part.labels) for name, maps in chosen.items()}
    settings = config.evaluation
    if given is None and settings.encoder_epochs == 0:
        return scores
    network = given or encoder(dataset.to(part.images.device), settings.encoder_epochs, config.data.seed)
    with evaluating(network):
        for name, maps in chosen.items():
            scores[name.replace("ridge", "iies")] = separability.iies(
                maps, part.labels, lambda batch: encode(network, batch), settings.batch_size
            )
    return scores


def _control_maps(dataset: Dataset, part: Split, config: Config) -> Tensor:
    """Reference explanations of an untrained learner; the same for a whole study, so made once per process."""
    settings, name, device = reference_config(config), config.model.name, part.images.device
    key = ("control", fingerprint(part.images, part.labels), name, str(settings), config.data.seed, str(device))

    def make() -> Tensor:
        untrained = fresh(name, dataset.image_shape, dataset.num_classes, config.data.seed, device)
        return explain(untrained, part, settings, config.evaluation.batch_size).sample

    return cached(key, make)


def _localization(prefix: str, maps: Tensor, masks: Tensor) -> dict[str, Score]:
    functions = (localization.relevance_mass, localization.rank_accuracy, localization.pointing_game)
    return {f"{prefix}{function.__name__}": mean(function(maps, masks), UNRANKED) for function in functions}
