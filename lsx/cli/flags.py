"""Settings as flags: every key of the configuration, and the spellings that the method's authors gave them."""

import argparse
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from lsx.cli.spellings import EVERY_STAGE, MODES, ONLY_CLASSIFICATION, SPELLINGS, SWITCHES
from lsx.config import STAGES, Config, flatten, settings
from lsx.errors import ConfigError
from lsx.yamlfile import YAMLFault, load_plain

_TITLES = {
    "": "run",
    "pretrain": "pretrain: stage 1, classification",
    "joint": "joint: stage 2, classification and the critic's explanation loss",
    "finetune": "finetune: stage 3, a new learner towards the joint model's explanations",
}


class Given(NamedTuple):
    """One setting from the command line; ``wide`` where a flag sets it for every stage: a stage's own flag wins."""

    flag: str
    key: str
    value: Any
    wide: bool = False


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Room for long flags."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)


class _Collect(argparse.Action):
    """Keeps a flag and its text; what it means is read when all are there."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        namespace.given = [*namespace.given, (option_string, values)]


def add_settings(
    parser: argparse.ArgumentParser, sections: Iterable[str] | None = None, *, config: bool = True
) -> None:
    """Add a flag for every setting, grouped by section, with its default and its other spellings.

    Args:
        parser: that gets them.
        sections: of these only; single keys may be among them. All by default.
        config: whether ``--config FILE`` is offered.
    """
    parser.set_defaults(given=[], config=None)
    chosen = parser.add_argument_group("settings", "any setting below may also be given as --set KEY=VALUE")
    if config:
        chosen.add_argument("--config", metavar="FILE", help="YAML of settings; defaults where it is silent")
    chosen.add_argument(
        "--set",
        action=_Collect,
        metavar="KEY=VALUE",
        default=argparse.SUPPRESS,
        help="e.g. loss.lambda_e=10; repeatable",
    )
    fields = {key: field for key, field in settings().items() if sections is None or _among(key, sections)}
    _add_shared(chosen, fields)
    for section in dict.fromkeys(key.rpartition(".")[0] for key in fields):
        group = parser.add_argument_group(_title(section))
        for key in fields:
            if key.rpartition(".")[0] == section:
                _add(group, key, fields[key])


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that a command line gives, by dotted key.

    Raises:
        ConfigError: a value that cannot be read, or a setting given twice with different values.
    """
    found: dict[str, Given] = {}
    for flag, text in args.given:
        for one in _read(flag, text):
            before = found.get(one.key)
            if before is None or (before.wide and not one.wide):
                found[one.key] = one
            elif before.wide == one.wide and before.value != one.value:
                raise ConfigError(
                    f"{before.flag} and {one.flag} give {one.key} different values, {before.value!r} and "
                    f"{one.value!r}; leave one out"
                )
    return {key: one.value for key, one in found.items()}


def layered(args: argparse.Namespace, base: Mapping[str, Any], mode: str | None) -> Config:
    """The configuration of a training: the base's, the file's, the mode's stages, the flags'.

    Args:
        args: as parsed.
        base: settings of the checkpoint that training starts from; empty without one.
        mode: of :data:`MODES`, or None for what the file says.

    Raises:
        ConfigError: a setting is not valid, or given twice with different values.
    """
    flags = given_settings(args)
    if mode is not None and flags.get("stages", MODES[mode]) != MODES[mode]:
        raise ConfigError(f"--training_mode {mode} and --stages name different stages; leave one out")
    if mode == "only_classification":
        flags = {to: flags[key] for key, to in ONLY_CLASSIFICATION.items() if key in flags} | flags
    stages = {} if mode is None else {"stages": MODES[mode]}
    return Config.build(base, _file(args.config, base), stages, flags)


def flag(key: str) -> str:
    """The flag of a setting: ``critic.batch_size`` to ``--critic-batch-size``."""
    return f"--{key.replace('.', '-').replace('_', '-')}"


def normalized(words: Iterable[str]) -> list[str]:
    """Flags with dashes where they have underscores, values as they are."""
    changed = []
    for word in words:
        name, equals, value = word.partition("=")
        changed.append(name.replace("_", "-") + equals + value if name.startswith("--") else word)
    return changed


def _among(key: str, sections: Iterable[str]) -> bool:
    return key in sections or key.rpartition(".")[0] in sections


def _add_shared(group: Any, fields: Mapping[str, FieldInfo]) -> None:
    """The flags that set several settings, or one to a fixed value."""
    for name, attribute in EVERY_STAGE.items():
        field = fields.get(f"pretrain.{attribute}")
        if field is not None:
            text = f"{attribute.replace('_', ' ')} of all three stages; a stage's own flag wins"
            group.add_argument(name, action=_Collect, metavar=_metavar(field), default=argparse.SUPPRESS, help=text)
    for name, (key, value, meaning) in SWITCHES.items():
        if key.replace("*", "pretrain") in fields:
            shown = f"{meaning} ({key.removeprefix('*.')}={value})"
            group.add_argument(name, action=_Collect, nargs=0, default=argparse.SUPPRESS, help=shown)


def _add(group: Any, key: str, field: FieldInfo) -> None:
    default = field.get_default()
    shown = ",".join(default) if isinstance(default, tuple) else default
    text = "; ".join(filter(None, [field.description or "", "" if default is None else f"default: {shown}"]))
    names = dict.fromkeys((flag(key), *SPELLINGS.get(key, ())))
    group.add_argument(
        *names, action=_Collect, metavar=_metavar(field), default=argparse.SUPPRESS, help=text.replace("%", "%%")
    )


def _title(section: str) -> str:
    if section in _TITLES:
        return _TITLES[section]
    kind = Config.model_fields[section].annotation
    meaning = str(kind.__doc__).splitlines()[0].rstrip(".")
    return f"{section}: {meaning[0].lower()}{meaning[1:]}"


def _read(name: str, text: Any) -> list[Given]:
    """What one flag sets."""
    if name == "--set":
        return [Given(f"--set {key}", key, value) for key, value in _assignments(text).items()]
    if name in SWITCHES:
        key, value, _ = SWITCHES[name]
        if not key.startswith("*."):
            return [Given(name, key, value)]
        return [Given(name, f"{stage}.{key[2:]}", value, wide=True) for stage in STAGES]
    fields = settings()
    if name in EVERY_STAGE:
        keys = [f"{stage}.{EVERY_STAGE[name]}" for stage in STAGES]
        return [Given(name, key, _value(name, text, fields[key]), wide=True) for key in keys]
    key = next(key for key in fields if name == flag(key) or name in SPELLINGS.get(key, ()))
    return [Given(name, key, _value(name, text, fields[key]))]


def _assignments(text: str) -> dict[str, Any]:
    """What one ``--set`` gives: several settings where its value is a mapping."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text!r} must be KEY=VALUE, e.g. loss.lambda_e=10")
    try:
        read = load_plain(value)
    except YAMLFault as fault:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML: {fault.reason}") from None
    listed = {name for name, field in settings().items() if isinstance(field.get_default(), tuple)}
    return {
        name: tuple(one) if name in listed and isinstance(one, list) else one
        for name, one in flatten({key: read}).items()
    }


def _value(name: str, text: str, field: FieldInfo) -> Any:
    """A flag's text as its setting's type wants it; what does not fit is left for the configuration to refuse."""
    kinds = _kinds(field.annotation)
    if type(None) in kinds and text == "null":
        return None
    if isinstance(field.get_default(), tuple):
        return tuple(part.strip() for part in text.split(","))
    if str in kinds:
        return text
    try:
        value = load_plain(text)
    except YAMLFault as fault:
        raise ConfigError(f"{name} {text!r} is no value: {fault.reason}") from None
    return float(value) if float in kinds and type(value) is int else value


def _kinds(annotation: Any) -> set[type]:
    """The plain types that a setting takes."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(_kinds(part) for part in get_args(annotation)))
    if hasattr(annotation, "__metadata__"):
        return _kinds(get_args(annotation)[0])
    return {annotation}


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(get_args(field.annotation)) + "}"
    if isinstance(field.get_default(), tuple):
        return "A,B"
    kinds = _kinds(field.annotation)
    return "N" if int in kinds else "X" if float in kinds else "TEXT"


def _file(path: str | None, base: Mapping[str, Any]) -> Mapping[str, Any]:
    """A settings file as it is written: what it leaves out does not override the base."""
    if path is None:
        return {}
    try:
        content = load_plain(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLFault) as error:
        raise ConfigError(f"config {path!r} cannot be read: {error}") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"config {path!r} must be a mapping of settings, not {type(content).__name__}")
    try:
        Config.build(base, content)
    except ConfigError as error:
        raise ConfigError(f"config {path!r}: {error}") from None
    return content
