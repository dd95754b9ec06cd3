"""What is wrong with a study, found before anything starts."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lsx.config import Config, keys
from lsx.errors import ConfigError, unknown
from lsx.registry import Registry
from lsx.study.space import Dimension
from lsx.study.spec import StudySpec
from lsx.study.yamlines import Fault

GUARDS = ("classification_loss", "loss", "validation_accuracy")
"""Metrics that every epoch of every stage reports; see :class:`lsx.training.report.Report`."""


def check(spec: StudySpec) -> None:
    """Check everything that the file's structure does not say by itself.

    Raises:
        Fault: the first fault, with its place.
    """
    _check_config(spec, {}, ("settings",), spec.settings)
    _check_space(spec)
    for name, settings in spec.reference_trials.items():
        _check_config(spec, settings, ("reference_trials", name), settings)
    if spec.baseline is not None and spec.baseline not in spec.reference_trials:
        raise Fault(("baseline",), unknown("reference trial", spec.baseline, spec.reference_trials))
    if len(spec.reference_trials) > spec.budget.trials:
        count = len(spec.reference_trials)
        raise Fault(("budget", "trials"), f"{spec.budget.trials} is less than the {count} reference trials")
    _check_objectives(spec)
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
        if key in spec.settings:
            raise Fault(("space", key), "is set under settings too; a setting is either fixed or searched")
        for index, dimension in enumerate(dimensions):
            _check_values(spec, key, index, dimension)
    _ = spec.search_space  # its construction checks conditions


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


def _check_objectives(spec: StudySpec) -> None:
    from lsx.metrics import METRICS

    seen: set[str] = set()
    for index, objective in enumerate(spec.objectives):
        path = ("objectives", index, "metric")
        if objective.metric not in METRICS:
            raise Fault(path, unknown("metric", objective.metric, METRICS), f"objectives.{index}")
        if objective.metric in seen:
            raise Fault(path, f"{objective.metric} is an objective already", f"objectives.{index}")
        seen.add(objective.metric)
        reason = _unmeasured(objective.metric, spec.configure({}))
        if reason:
            raise Fault(path, f"{objective.metric} is not measured here: {reason}", f"objectives.{index}")


def _unmeasured(metric: str, config: Config) -> str | None:
    if "iies" in metric and config.evaluation.encoder_epochs == 0:
        return "it needs evaluation.encoder_epochs above 0"
    localization = ("relevance_mass", "rank_accuracy", "pointing_game")
    if metric.endswith(localization) and config.data.dataset == "mnist":
        return "dataset 'mnist' has no mask of what an explanation should or should not point at"
    return None


def _check_scheduler(spec: StudySpec) -> None:
    scheduler = spec.scheduler
    if scheduler.metric not in GUARDS:
        raise Fault(("scheduler", "metric"), unknown("metric", scheduler.metric, GUARDS))
    longest = _longest(spec)
    if scheduler.type != "none" and scheduler.grace_epochs > longest:
        raise Fault(
            ("scheduler", "grace_epochs"), f"{scheduler.grace_epochs} is more than the {longest} epochs of a trial"
        )


def _longest(spec: StudySpec) -> int:
    """Most epochs that a searched trial can have over all stages."""
    config = spec.configure({})
    total = 0
    for stage in config.stages:
        values = [
            value
            for dimension in spec.space.get(f"{stage}.epochs", ())
            for value in dimension.samples().values()
            if isinstance(value, int)
        ]
        total += max(values, default=getattr(config, stage).epochs)
    return total
