"""The study file: a study as data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lsx.config import Config, Seed
from lsx.study.snapshot import Direction
from lsx.study.space import Dimension, Space

STUDIES = Path(__file__).parents[2] / "studies"


class Section(BaseModel):
    """Frozen; unknown keys and non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Objective(Section):
    """A final validation metric and which way is better."""

    metric: str
    direction: Direction


class Scheduler(Section):
    """What stops hopeless trials.

    Attributes:
        type: asha (Li et al. 2020), or none.
        metric, direction: the guard, reported at every epoch of every stage.
        grace_epochs: epochs, over all stages, before a trial can be stopped.
        reduction_factor: the share that survives a rung is 1 / reduction_factor.
    """

    type: Literal["asha", "none"] = "asha"
    metric: str = "validation_accuracy"
    direction: Direction = "maximize"
    grace_epochs: Annotated[int, Field(ge=1)] = 1
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0


class Sampler(Section):
    """What proposes parameters.

    Attributes:
        type: tpe (multivariate, grouped), or random.
        startup_trials: trials sampled at random before TPE models anything.
    """

    type: Literal["tpe", "random"] = "tpe"
    startup_trials: Annotated[int, Field(ge=0)] = 10


class Budget(Section):
    """How much is run.

    Attributes:
        trials: all trials, reference trials included.
        attempts: starts of one trial, resumes included, before it counts as failed.
    """

    trials: Annotated[int, Field(ge=1)] = 20
    attempts: Annotated[int, Field(ge=1)] = 3


class Resources(Section):
    """What one trial occupies; fractions of a GPU are shares of one."""

    cpus_per_trial: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    max_concurrent: Annotated[int, Field(ge=1)] | None = None


class StudySpec(Section):
    """A study, validated.

    Attributes:
        name: slug; the file's stem by default.
        profile: the profile that was laid over the file; None for the file as it is.
        question: what the study asks.
        settings: dotted Config key to the value that all trials share.
        space: dotted Config key to its dimensions.
        objectives: one to three.
        reference_trials: name to the settings laid over ``settings``; run first, never stopped early.
        baseline: name of the reference trial that results are compared with; None without reference trials.
        notes: free text that is kept with the results.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    profile: str | None = None
    question: str = ""
    settings: Mapping[str, Any] = {}
    space: Mapping[str, tuple[Dimension, ...]] = {}
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, max_length=3)]
    reference_trials: Mapping[str, Mapping[str, Any]] = {}
    baseline: str | None = None
    scheduler: Scheduler = Scheduler()
    sampler: Sampler = Sampler()
    seed: Seed = 0
    budget: Budget = Budget()
    resources: Resources = Resources()
    notes: str = ""

    @property
    def study_name(self) -> str:
        """``name``, or ``name-profile``: what the folder and the experiment are called."""
        return self.name if self.profile is None else f"{self.name}-{self.profile}"

    @property
    def search_space(self) -> Space:
        """The dimensions, ready to be asked."""
        return Space(self.space)

    def configure(self, values: Mapping[str, Any]) -> Config:
        """The configuration of a trial: ``values`` (Config keys) laid over ``settings``.

        Raises:
            ConfigError: Config refuses the combination.
        """
        return Config.build(self.settings, values)

    def reference(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """A reference trial as (params, overrides), see :meth:`Space.split`; nothing is left to be sampled."""
        raise NotImplementedError

    def plain(self) -> dict[str, Any]:
        """The resolved study as plain data; as YAML it loads to the same study, without its profile."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """Plain data (JSON) of all that must not change between two runs of one study."""
        raise NotImplementedError


def load(name_or_path: str | Path, profile: str | None = None) -> StudySpec:
    """Read and check a study file.

    Args:
        name_or_path: ``NAME`` for ``studies/NAME.yaml`` in the working folder or beside ``tune.py``, or a path.
        profile: one of the file's profiles, laid over it.

    Raises:
        StudyError: one line: file, line number, key, what is wrong and what is valid.
    """
    raise NotImplementedError


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, one readable line each; empty when nothing does."""
    raise NotImplementedError
