"""What is wrong with a study, found before anything starts."""

import itertools
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lsx.config import Config, keys
from lsx.errors import ConfigError, LSXError, StudyError, unknown
from lsx.registry import Registry
from lsx.study.declared import grid, measured
from lsx.study.declared.space import Dimension, Parameter
from lsx.study.declared.spec import StudySpec
from lsx.study.declared.yamlines import Fault

if TYPE_CHECKING:
    from lsx.data import Dataset

GUARDS = ("classification_loss", "loss", "validation_accuracy")
"""Metrics that every epoch of every stage reports; see :class:`lsx.training.report.Report`."""

PROBE_IMAGES = 8
CORNERS = 4096  # of the space, that are looked at before the start; hardly a space has more
SIZES = ("critic.batches", "critic.batch_size")
DECIDING = (
    *SIZES,
    *("critic.set", "critic.model", "data.dataset", "data.few_shot_fraction", "data.image_size", "data.mask_kind"),
    *("model.name", "explainer.method"),
    *("joint.epochs", "finetune.epochs", "loss.lambda_e", "loss.lambda_ft"),
)
"""Searched settings that decide what a trial loads and builds."""

SHARED = (
    *("seed", "device", "data.source", "data.root", "data.seed"),
    *("data.validation_fraction", "data.test_fraction"),
)
"""Settings, besides those of evaluation, that name the machine or decide what trials are scored on."""


def check(spec: StudySpec) -> None:
    """Check everything that the file's structure does not say by itself.

    Raises:
        Fault: the first fault, with its place.
    """
    measured.check_names(spec)
    _check_config(spec, {}, ("settings",), spec.settings)
    _check_space(spec)
    for name, settings in spec.reference_trials.items():
        _check_config(spec, settings, ("reference_trials", name), settings)
    if spec.baseline is not None and spec.baseline not in spec.reference_trials:
        raise Fault(("baseline",), unknown("reference trial", spec.baseline, spec.reference_trials))
    if len(spec.reference_trials) > spec.budget.trials:
        count = len(spec.reference_trials)
        raise Fault(("budget", "trials"), f"{spec.budget.trials} is less than the {count} reference trials")
    measured.check_objectives(spec)
    _check_scheduler(spec)


def _check_config(spec: StudySpec, values: Mapping[str, Any], place: tuple[str, ...], own: Iterable[str]) -> None:
    """Refuse what Config, a registry or training refuses; the fault falls on one of the ``own`` keys."""
    try:
        _usable(spec.configure(values))
    except ConfigError as error:
        message = str(error)
        raise Fault((*place, *_culprit(message, own)), message, ".".join(place)) from None


def _culprit(message: str, own: Iterable[str]) -> tuple[str, ...]:
    """The key that a message of Config is about; what comes after ';' are suggestions."""
    words = set(re.findall(r"[\w.]+", message.split(";")[0].split(" is not valid")[0]))
    section = message.split(":")[0]
    named = [key for key in own if key in words] or [key for key in own if key.split(".")[0] == section]
    return tuple(named[:1])


def _usable(config: Config) -> None:
    from lsx.data import DATASETS
    from lsx.explainers import EXPLAINERS
    from lsx.models import MODELS
    from lsx.training.stages import uses_explanations

    measured.check_metrics(config)
    names: list[tuple[str, Registry[Any], str | None]] = [
        ("explainer.method", EXPLAINERS, config.explainer.method),
        ("evaluation.reference_explainer", EXPLAINERS, config.evaluation.reference_explainer),
        ("model.name", MODELS, config.model.name),
        ("critic.model", MODELS, config.critic.model),
        ("data.dataset", DATASETS, config.data.dataset),
    ]
    for key, registry, name in names:
        try:
            entry = registry.get(name) if name is not None else None
        except ConfigError as error:
            raise ConfigError(f"{key} = {name!r} is not valid: {error}") from None
        if name is not None and ":" not in name and not measured.comes_along(entry):
            raise measured.stays_behind(key, name)
        trains = getattr(entry, "trains_learner", True)
        if key == "explainer.method" and not trains and any(uses_explanations(config).values()):
            raise ConfigError(
                f"{key} = {name!r} is not valid: its explanations give the learner no gradient, "
                "so an explanation loss could not train it"
            )


def _check_space(spec: StudySpec) -> None:
    for key, dimensions in spec.space.items():
        if key not in keys():
            raise Fault(("space", key), _unknown_setting(key), "space")
        if key in SHARED or key.startswith("evaluation."):
            raise Fault(("space", key), "must be the same for all trials; put it under settings")
        if key in spec.settings:
            raise Fault(("space", key), "is set under settings too; a setting is either fixed or searched")
        for index, dimension in enumerate(dimensions):
            _check_values(spec, key, index, dimension)
    space = spec.search_space  # its construction checks conditions
    if spec.sampler.type == "grid":
        grid.check_grid(space)


def _unknown_setting(key: str) -> str:
    try:
        Config.build({key: None})
    except ConfigError as error:
        if str(error).startswith("unknown"):
            return str(error)
    return f"{key!r} is a section of settings; name one of them, such as {_first_below(key)!r}"


def _first_below(section: str) -> str:
    return next((key for key in keys() if key.startswith(f"{section}.")), keys()[0])


def _check_values(spec: StudySpec, key: str, index: int, dimension: Dimension) -> None:
    """Try both bounds, a value between them, and every choice."""
    conditions = {other: values[0] for other, values in dimension.when.items() if other in keys()}
    for name, value in dimension.samples().items():
        try:
            _usable(spec.configure({**conditions, key: value}))
        except ConfigError as error:
            field = name.split()[0]
            path = ("space", key, index, field if field in ("low", "high") else "choices")
            raise Fault(path, f"{name} is refused: {error}", f"space.{key}") from None


def _check_scheduler(spec: StudySpec) -> None:
    scheduler = spec.scheduler
    if scheduler.metric not in GUARDS:
        raise Fault(("scheduler", "metric"), unknown("metric", scheduler.metric, GUARDS))
    longest = spec.longest
    if scheduler.type != "none" and scheduler.grace_epochs > longest:
        raise Fault(
            ("scheduler", "grace_epochs"), f"{scheduler.grace_epochs} is more than the {longest} epochs of a trial"
        )


def preflight(spec: StudySpec) -> Mapping[str, Any]:
    """Try what every trial will need: its data, its devices, its networks, and explanations that can train them.

    Returns:
        Where the data comes from, :attr:`lsx.data.Dataset.provenance`.

    Raises:
        StudyError: one line: what the trials would fail of.
    """
    from lsx import data
    from lsx.critic import CriticSet
    from lsx.training.device import resolve_device

    provenance: Mapping[str, Any] = {}
    seen: set[tuple[str | None, ...]] = set()
    for group in _loads(spec):
        place, config = max(group, key=lambda one: one[1].critic.size)
        try:
            resolve_device(config.device)
            dataset = data.load(config)
            if config.uses_critic:
                CriticSet.of(dataset.critic, config.critic)
            for asked, one in group:
                place = asked
                _try_networks(one, dataset, seen)
        except LSXError as error:
            raise StudyError(f"study {spec.study_name}: {place}{error}") from None
        provenance = provenance or dataset.provenance
    return provenance


def _loads(spec: StudySpec) -> list[list[tuple[str, Config]]]:
    """Configurations, and where the study asks for them, those together that differ in no more of their data than the
    size of the critic set."""
    asked = [("", spec.configure({}))]
    asked += [(f"reference_trials.{name}: ", spec.configure(own)) for name, own in spec.reference_trials.items()]
    asked += [("space: ", config) for config in _corners(spec)]
    groups: dict[str, list[tuple[str, Config]]] = {}
    for place, config in asked:
        key = repr((config.data, config.device, config.uses_critic, config.critic.set))
        groups.setdefault(key, []).append((place, config))
    return list(groups.values())


def _corners(spec: StudySpec) -> list[Config]:
    """Configurations that the search can reach: every choice that decides what is loaded, at the numbers' ends."""
    space = spec.search_space
    wanted = set(DECIDING)
    for parameter in reversed(space.parameters):  # conditions stand before what depends on them
        if parameter.key in wanted:
            wanted |= set(parameter.dimension.when)
    options = {parameter.name: _ends(parameter) for parameter in space if parameter.key in wanted}
    configs = []
    for chosen in itertools.islice(itertools.product(*options.values()), CORNERS):
        values: dict[str, Any] = {}
        named = dict(zip(options, chosen, strict=True))
        for parameter in space:
            if parameter.exists(values):
                values[parameter.key] = named.get(parameter.name, _ends(parameter)[-1])
        with suppress(ConfigError):  # a combination that Config refuses is a trial that fails by itself
            configs.append(spec.configure(values))
    return configs


def _ends(parameter: Parameter) -> tuple[Any, ...]:
    dimension = parameter.dimension
    if dimension.choices is not None:
        return dimension.choices
    return (dimension.high,) if parameter.key in SIZES else (dimension.low, dimension.high)


def _try_networks(config: Config, dataset: "Dataset", seen: set[tuple[str | None, ...]]) -> None:
    """Build the learner and the critic, and let the learner's weights be reached through its explanations."""
    import torch

    from lsx import explainers, models
    from lsx.critic import require_gradient
    from lsx.training.stages import uses_explanations

    trains = any(uses_explanations(config).values())
    key = (config.data.dataset, config.model.name, config.critic.model, config.explainer.method, str(trains))
    if key in seen:
        return
    seen.add(key)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        learner = models.build(config.model.name, dataset.image_shape, dataset.num_classes)
        if config.uses_critic and config.critic.model is not None:
            models.build(config.critic.model, dataset.image_shape, dataset.num_classes)
        # Two quadrature points show as well as fifty that there is a gradient.
        quick = config.explainer.model_copy(update={"steps": 2, "samples": 2})
        few = dataset.train.take(slice(0, PROBE_IMAGES))
        models.require_log_probabilities(learner, few.images, dataset.num_classes)
        for method in (config.explainer.method, config.evaluation.reference_explainer):
            with models.evaluating(learner):
                explainers.build(quick, method=method)(learner, few.images, few.labels)
        if trains:
            require_gradient(explainers.build(quick), learner, few.images, few.labels)
