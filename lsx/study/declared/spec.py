"""The study file: a study as data."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from lsx.config import Config, Seed
from lsx.errors import StudyError, unknown
from lsx.study.declared import declaration
from lsx.study.declared.layers import normal, with_profile
from lsx.study.declared.overrides import Overridden, overridden
from lsx.study.declared.sections import Budget, Constraint, Objective, Resources, Sampler, Scheduler, Section
from lsx.study.declared.space import Dimension, Space
from lsx.study.declared.yamlines import Fault, Lines, parse
from lsx.study.environment.credentials import redacted

_NOT_IN_FILES = {"profile", "source", "overrides"}
_SLUG = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
STUDIES = Path(__file__).parents[3] / "studies"


class StudySpec(Section):
    """A study, validated.

    Attributes:
        name: slug; the file's stem by default.
        profile: the profile that was laid over the file; None for the file as it is.
        source: what :func:`load` was asked for; empty for a study that is not from a file.
        overrides: what was laid over file and profile, ``KEY=VALUE``; see
            :func:`lsx.study.declared.overrides.overridden`.
        question: what the study asks.
        settings: dotted Config key to the value that all trials share.
        space: dotted Config key to its dimensions.
        objectives: one to three.
        constraints: what a trial must satisfy to be chosen.
        repeats: seeds of one trial; its objectives are their means, and every trial has the same seeds.
        reference_trials: name to the settings laid over ``settings``; run first, never stopped early.
        baseline: the reference trial that results are compared with; the one called so, if the file names none.
        notes: free text that is kept with the results.
    """

    name: Annotated[str, Field(pattern=_SLUG)]
    profile: Annotated[str, Field(pattern=_SLUG)] | None = None
    source: str = ""
    overrides: tuple[str, ...] = ()
    question: str = ""
    settings: Mapping[str, Any] = {}
    space: Mapping[str, tuple[Dimension, ...]] = {}
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, max_length=3)]
    constraints: tuple[Constraint, ...] = ()
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
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
    def command(self) -> str:
        """What runs, resumes and extends the study in a shell; credentials are left out."""
        profile = "" if self.profile is None else f" --profile {shlex.quote(self.profile)}"
        changes = "".join(f" --set {shlex.quote(redacted(one))}" for one in self.overrides)
        return f"python tune.py --study {shlex.quote(self.source or self.name)}{profile}{changes}"

    @property
    def search_space(self) -> Space:
        """The dimensions, ready to be asked."""
        return Space(self.space)

    @property
    def longest(self) -> int:
        """Most epochs that a searched trial can have over all stages."""
        config = self.configure({})
        total = 0
        for stage in config.stages:
            samples = [one.samples().values() for one in self.space.get(f"{stage}.epochs", ())]
            values = [value for some in samples for value in some if isinstance(value, int)]
            total += max(values, default=getattr(config, stage).epochs)
        return total

    def configure(self, values: Mapping[str, Any]) -> Config:
        """The configuration of a trial: ``values`` (Config keys) laid over ``settings``.

        Objectives and constraints that ``evaluation.metrics`` does not ask for are added to it.

        Raises:
            ConfigError: Config refuses the combination.
        """
        from lsx.metrics import METRICS

        config = Config.build(self.settings, values)
        asked = config.evaluation.metrics
        measured = {name for one in asked for name in (one, *METRICS.group(one))}
        wanted = [*(one.metric for one in self.objectives), *(one.metric for one in self.constraints)]
        missing = [name for name in dict.fromkeys(wanted) if name not in measured]
        return config.replace({"evaluation.metrics": [*asked, *missing]}) if missing else config

    def reference(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """A reference trial as (params, overrides), see :meth:`Space.split`; nothing is left to be sampled.

        Settings that it does not name have the value of ``settings``, or Config's default. A trial that changes
        settings outside of the space (other stages, other epochs) is no point of it and has overrides only: the
        sampler must not learn from it what the searched settings do.
        """
        own = self.reference_trials[name]
        base, values = self.configure({}).flat(), self.configure(own).flat()
        settings = {key: values[key] for key in (*own, *self.space)}
        if any(values[key] != base[key] for key in own if key not in self.space):
            return {}, settings
        return self.search_space.split(settings)

    def plain(self) -> dict[str, Any]:
        """The resolved study as plain data; as YAML it loads to the same study, its profile made part of its name."""
        plain = self.model_dump(mode="json", exclude={*_NOT_IN_FILES, "space"})
        space = {
            key: [one.model_dump(mode="json", exclude_defaults=True) for one in variants]
            for key, variants in self.space.items()
        }
        return plain | {"name": self.study_name, "space": space}

    def fingerprint(self) -> dict[str, Any]:
        """Plain data (JSON) of all that decides results; :mod:`lsx.study.declared.declaration` says what may change."""
        plain, base = self.plain(), self.configure({})
        content = {name: plain[name] for name in declaration.DECIDING} | {
            "settings": {key: value for key, value in base.flat().items() if key not in (*self.space, "device")},
            "reference_trials": {
                name: {key: self.configure(own).flat()[key] for key in own}
                for name, own in self.reference_trials.items()
            },
        }
        fingerprint: dict[str, Any] = json.loads(json.dumps(content))
        return fingerprint

    @classmethod
    def build(
        cls, content: Mapping[str, Any], profile: str | None = None, overrides: Sequence[str] = ()
    ) -> "StudySpec":
        """A study from plain data, as a file would hold it; arguments are those of :func:`load`.

        Raises:
            StudyError: one line: key, what is wrong and what is valid.
        """
        document = with_profile(normal(_named(content), Lines({})), profile)
        return _validated(overridden(document, overrides), profile=profile)


def load(name_or_path: str | Path, profile: str | None = None, overrides: Sequence[str] = ()) -> StudySpec:
    """Read and check a study file.

    Args:
        name_or_path: ``NAME`` for ``studies/NAME.yaml`` in the working folder or beside ``tune.py``, or a path.
        profile: one of the file's profiles, laid over it.
        overrides: texts ``KEY=VALUE``, laid over file and profile in order; see
            :func:`lsx.study.declared.overrides.overridden`.

    Raises:
        StudyError: one line: file, line number, key, what is wrong and what is valid; or ``--set KEY=VALUE``, what is
            wrong and what is valid, where an override is to blame.
    """
    path = find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"study {str(path)!r} cannot be read: {error}") from None
    try:
        content, lines = parse(text)
    except StudyError as error:
        raise StudyError(f"{_shown(path)}:{error}") from None
    try:
        document = normal(_named(content), lines)
        lines = document.lines
        document = overridden(with_profile(document, profile), overrides)
        lines = document.lines
        return _validated(document, path.stem, profile, str(name_or_path))
    except Fault as fault:
        raise StudyError(f"{_shown(path)}:{lines.nearest(fault.path)}: {fault}") from None


def find(name_or_path: str | Path) -> Path:
    """The file of a study.

    Raises:
        StudyError: no such file; the nearest names that exist.
    """
    given = Path(name_or_path)
    if given.suffix in (".yaml", ".yml") or len(given.parts) > 1:
        if not given.is_file():
            raise StudyError(f"study file {str(name_or_path)!r} does not exist")
        return given
    folders = (Path("studies"), STUDIES)
    for folder in folders:
        if (path := folder / f"{given}.yaml").is_file():
            return path
    raise StudyError(f"{unknown('study', name_or_path, shipped())}; or the path of a .yaml file")


def shipped() -> list[str]:
    """Names of the studies in the working folder's ``studies/`` and beside ``tune.py``."""
    return sorted({path.stem for folder in (Path("studies"), STUDIES) for path in folder.glob("*.yaml")})


def _named(content: Any) -> Any:
    """The content with its profiles' names as text, since YAML reads ``1`` as a number.

    Raises:
        Fault: a name that cannot be part of a folder's.
    """
    profiles = content.get("profiles") if isinstance(content, Mapping) else None
    if not isinstance(profiles, Mapping):
        return content
    for name in map(str, profiles):
        if re.fullmatch(_SLUG, name) is None:
            reason = f"{name!r} is no name of a profile: letters, digits, - and _, the first a letter or digit"
            raise Fault(("profiles", name), reason, "profiles")
    return {**content, "profiles": {str(name): profile for name, profile in profiles.items()}}


def _shown(path: Path) -> str:
    absolute, here = path.resolve(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else path)


def _validated(document: Overridden, name: str = "study", profile: str | None = None, source: str = "") -> StudySpec:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_") or "study"
    origin = {"profile": profile, "source": source, "overrides": document.texts}
    try:
        spec = _checked({"name": name} | document.content, origin)
    except Fault as fault:
        raise document.explained(fault) from None
    document.check_left(len(spec.reference_trials), spec.budget.trials)
    return spec


def _checked(content: dict[str, Any], origin: Mapping[str, Any]) -> StudySpec:
    from lsx.study.declared.checks import check

    _check_keys(content)
    if "baseline" in content.get("reference_trials", {}):
        content.setdefault("baseline", "baseline")
    try:
        spec = StudySpec.model_validate({**content, **origin})
    except ValidationError as error:
        raise _fault(error) from None
    check(spec)
    return spec


def _check_keys(content: Mapping[str, Any]) -> None:
    valid = (StudySpec.model_fields.keys() - _NOT_IN_FILES) | {"profiles"}
    for key in content:
        if key not in valid:
            raise Fault((key,), unknown("key", key, valid), "")


_SECTIONS: dict[str, type[BaseModel]] = {
    "space": Dimension,
    "objectives": Objective,
    "constraints": Constraint,
    "scheduler": Scheduler,
    "sampler": Sampler,
    "budget": Budget,
    "resources": Resources,
}


def _fault(error: ValidationError) -> Fault:
    """The first fault of the structure; pydantic adds the tried alternatives to a place, they are cut off."""
    first = error.errors()[0]
    depth = {"space": 4, "objectives": 3, "constraints": 3}.get(str(first["loc"][0]), 2)
    path = first["loc"][:depth]
    label = ".".join(str(part) for part in path if path[0] != "space" or not isinstance(part, int))
    if first["type"] == "extra_forbidden":
        return Fault(path, unknown("key", path[-1], _SECTIONS[str(path[0])].model_fields), label.rpartition(".")[0])
    if first["type"] == "missing":
        return Fault(path, "is missing", label)
    if first["type"] == "value_error":
        return Fault(path, str(first["ctx"]["error"]), label)
    return Fault(path, f"{first['input']!r} is not valid: {first['msg'].removeprefix('Input ')}", label)
