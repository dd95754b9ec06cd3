"""Whether what a study asks for is measured, and can be in the processes that run its trials."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lsx.config import Config
from lsx.errors import ConfigError
from lsx.study.declared.sections import Constraint, Objective
from lsx.study.declared.yamlines import Fault

if TYPE_CHECKING:
    from lsx.study.declared.spec import StudySpec

PLAIN = ("mnist", "fashion_mnist", "color_mnist", "chest_mnist", "image_folder")
"""Datasets without a mask of a confounder, unless a patch is asked for."""

DECOYED = ("decoy_mnist", "decoy_fashion_mnist")
WITHOUT_FOREGROUND = ("chest_mnist", "image_folder")


def comes_along(entry: object) -> bool:
    """Whether importing lsx registers the entry, as workers do."""
    return str(getattr(entry, "__module__", "")).partition(".")[0] == "lsx"


def stays_behind(key: str, name: str) -> ConfigError:
    """What to say of an entry that workers cannot find."""
    return ConfigError(
        f"{key} = {name!r} is not valid: it is registered in this process only, which a study's workers do "
        "not share; put it into a module and name it as package.module:Name"
    )


def check_metrics(config: Config) -> None:
    """Refuse ``evaluation.metrics`` that no evaluation has, or that workers cannot find.

    Raises:
        ConfigError: naming the first such metric.
    """
    from lsx.metrics import select

    try:
        chosen = select(config.evaluation.metrics)
    except ConfigError as error:
        raise ConfigError(f"evaluation.metrics is not valid: {error}") from None
    for name, by_name in chosen.items():
        if by_name:
            check_metric("evaluation.metrics", name)


def check_metric(key: str, name: str) -> None:
    """Refuse a metric that workers cannot find.

    Raises:
        ConfigError: no such metric, or one that is registered in this process only.
    """
    from lsx.metrics import METRICS

    function = METRICS.find(name).function
    if ":" not in name and not comes_along(function):
        raise stays_behind(key, name)


def check_names(spec: "StudySpec") -> None:
    """Refuse objectives and constraints that no evaluation has; before all else: they are added to what trials measure.

    Raises:
        Fault: the first such metric, with its place.
    """
    seen: set[str] = set()
    for section, index, metric in _asked(spec):
        path, label = (section, index, "metric"), f"{section}.{index}"
        try:
            check_metric("metric", metric)
        except ConfigError as error:
            raise Fault(path, str(error), label) from None
        if section == "objectives" and metric in seen:
            raise Fault(path, f"{metric} is an objective already", label)
        seen.add(metric)


def check_objectives(spec: "StudySpec") -> None:
    """Refuse objectives and constraints that cannot be had from the study's data and settings.

    Raises:
        Fault: the first such metric, with its place.
    """
    for section, index, metric in _asked(spec):
        reason = _unmeasured(metric, spec.configure({}))
        if reason:
            raise Fault((section, index, "metric"), f"{metric} is not measured here: {reason}", f"{section}.{index}")


def _asked(spec: "StudySpec") -> Iterator[tuple[str, int, str]]:
    """Section, index and metric of all that is asked of a trial's final metrics."""
    sections: dict[str, tuple[Objective | Constraint, ...]] = {
        "objectives": spec.objectives,
        "constraints": spec.constraints,
    }
    for section, entries in sections.items():
        for index, one in enumerate(entries):
            yield section, index, one.metric


def _unmeasured(metric: str, config: Config) -> str | None:
    from lsx.metrics import METRICS

    groups, dataset = METRICS.find(metric).groups, config.data.dataset
    if "separability" in groups and "iies" in metric and config.evaluation.encoder_epochs == 0:
        return "it needs evaluation.encoder_epochs above 0"
    if "foreground" in groups:
        return f"dataset {dataset!r} has no mask of the object itself" if dataset in WITHOUT_FOREGROUND else None
    if "localization" in groups and _without_confounder(config):
        return f"dataset {dataset!r} has no mask of what an explanation should not point at"
    return None


def _without_confounder(config: Config) -> bool:
    """Whether it is known, before anything is loaded, that no confounder's place is."""
    if config.confounder.kind == "default":
        return config.data.dataset in PLAIN
    return config.confounder.kind != "patch" and config.data.dataset in (*PLAIN, *DECOYED)
