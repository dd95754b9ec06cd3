"""The sections of a study file that are not settings: aims, search, budget, resources."""

import math
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lsx.study.shown.snapshot import Direction

UNITS = (86400.0, 3600.0, 60.0, 1.0)


class Section(BaseModel):
    """Frozen; unknown keys and non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Objective(Section):
    """A final validation metric and which way is better."""

    metric: str
    direction: Direction


def seconds(value: object) -> object:
    """``90``, ``45s``, ``30m``, ``2h``, ``1h30m`` or ``3d`` as seconds.

    Raises:
        ValueError: it is none of these, or not above 0.
    """
    parts = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", str(value)
    )
    number = not isinstance(value, bool) and isinstance(value, int | float | str)
    total = sum(float(part or 0) * size for part, size in zip(parts.groups(), UNITS, strict=True)) if parts else 0.0
    if not number or not 0 < total < math.inf:
        raise ValueError(f"{value!r} is no duration above 0, such as 45s, 30m, 2h or 1h30m")
    return total


Duration = Annotated[float, BeforeValidator(seconds)]


class Constraint(Section):
    """Bounds of a final validation metric; a trial outside of them is not feasible: never on the front, never chosen.

    Attributes:
        metric: its name.
        low, high: inclusive bounds; one of both may be missing.
    """

    metric: str
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("a constraint needs low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low} must not be above high {self.high}")
        return self

    def violation(self, value: float) -> float:
        """How far a value lies outside; 0 or less is inside, as Optuna counts it."""
        below = -math.inf if self.low is None else self.low - value
        above = -math.inf if self.high is None else value - self.high
        return max(below, above)


class Scheduler(Section):
    """What stops hopeless trials.

    Attributes:
        type: asha (Li et al. 2020), median (Golovin et al. 2017: below the median of the other trials' running means
            at the same epoch), or none.
        metric, direction: the guard, reported at every epoch of every stage.
        grace_epochs: epochs, over all stages, before a trial can be stopped.
        reduction_factor: of asha; the share that survives a rung is 1 / reduction_factor.
        least_trials: of median; trials that must have reached an epoch before one is stopped there.
    """

    type: Literal["asha", "median", "none"] = "asha"
    metric: str = "validation_accuracy"
    direction: Direction = "maximize"
    grace_epochs: Annotated[int, Field(ge=1)] = 1
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    least_trials: Annotated[int, Field(ge=1)] = 3


class Sampler(Section):
    """What proposes parameters.

    Attributes:
        type: tpe (multivariate, grouped), nsga2, nsga3, random, or grid: every point once, in the file's order.
        startup_trials: of tpe; trials sampled at random before it models anything.
        population: of nsga2 and nsga3; trials of one generation.
    """

    type: Literal["tpe", "nsga2", "nsga3", "random", "grid"] = "tpe"
    startup_trials: Annotated[int, Field(ge=0)] = 10
    population: Annotated[int, Field(ge=2)] = 20


class Budget(Section):
    """How much is run.

    Attributes:
        trials: all trials, reference trials included.
        attempts: starts of one trial, resumes included, before it counts as failed; the loss of a node is no start.
        time: seconds of running, over all drivers, after which the study stops; time between drivers is not counted.
        stalled_after: seconds without a step, after which a trial's worker is killed.
    """

    trials: Annotated[int, Field(ge=1)] = 20
    attempts: Annotated[int, Field(ge=1)] = 3
    time: Duration | None = None
    stalled_after: Duration = 3600.0


def _share(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "auto" and not number:
        raise ValueError(f"{value!r} is neither auto nor a number")
    return value


def _either(value: object) -> object:
    if value != "auto" and not isinstance(value, bool):
        raise ValueError(f"{value!r} is none of auto, true and false")
    return value


class Resources(Section):
    """What one trial occupies; fractions of a GPU are shares of one.

    Attributes:
        cpus_per_trial, gpus_per_trial: shares of the machine.
        max_concurrent: trials at once.
        seeds_together: whether a trial trains its seeds as one program where that is possible; auto: on a CUDA GPU.
    """

    cpus_per_trial: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_trial: Annotated[Annotated[float, Field(ge=0)] | Literal["auto"], BeforeValidator(_share)] = "auto"
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    seeds_together: Annotated[bool | Literal["auto"], BeforeValidator(_either)] = "auto"
