"""Writes the generated parts of these pages: ``python docs/generate.py``; ``--check`` only says which are stale.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; NAME is a key of ``PARTS``, or ``api`` and a
dotted name, for its signature and docstring.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from lsx.cli.flags import flag
from lsx.cli.spellings import EVERY_STAGE, MODES, ONLY_CLASSIFICATION, SPELLINGS, SWITCHES
from lsx.config import settings
from lsx.data import DATASETS
from lsx.explainers import EXPLAINERS
from lsx.metrics import METRICS, Context, Metric
from lsx.models import MODELS

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields|Example):+\s*(.*)$")


def page(text: str) -> str:
    """A page with its generated parts as they are now."""
    return PART.sub(lambda match: f"{match[1]}{part(match[2])}\n{match[3]}", text)


def part(name: str) -> str:
    """The text of one generated part."""
    kind, _, argument = name.partition(" ")
    return api(argument) if kind == "api" else PARTS[name]()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    """As code, for a table."""
    return f"`{text}`"


def own_metrics() -> dict[str, Metric]:
    """lsx's metrics, without those that anybody else registered in this process."""
    return {name: metric for name, metric in METRICS.items() if metric.function.__module__.startswith("lsx.")}


def metrics() -> str:
    """All metrics."""
    rows = (
        (code(name), metric.arrow, f"{metric.low:g} … {metric.high:g}".replace("inf", "∞"), metric.meaning)
        for name, metric in own_metrics().items()
    )
    return table(("metric", "better", "range", "meaning"), rows)


def groups() -> str:
    """Groups and their metrics."""
    found = own_metrics()
    names = dict.fromkeys(group for metric in found.values() for group in metric.groups)
    rows = [
        (code(name), ", ".join(code(one) for one, metric in found.items() if name in metric.groups)) for name in names
    ]
    return table(("group", "metrics"), [*rows, (code("all"), "all of them")])


def datasets() -> str:
    """Registered datasets."""
    rows = ((code(name), _summary(DATASETS.get(name))) for name in DATASETS if _is_own(DATASETS.get(name)))
    return table(("`data.dataset`", "images"), rows)


def explainers() -> str:
    """Registered explainers."""
    own = {name: EXPLAINERS.get(name) for name in EXPLAINERS if _is_own(EXPLAINERS.get(name))}
    rows = ((code(name), _summary(one), "yes" if one.trains_learner else "no") for name, one in own.items())
    return table(("`explainer.method`", "attribution", "trains the learner"), rows)


def models() -> str:
    """Registered networks."""
    rows = ((code(name), _summary(MODELS.get(name))) for name in MODELS if _is_own(MODELS.get(name)))
    return table(("`model.name`, `critic.model`", "network"), rows)


def context() -> str:
    """What a metric is given."""
    public = [(name, value) for name, value in vars(Context).items() if not name.startswith("_") and value.__doc__]
    rows = [
        (code(f"{name}(…)" if inspect.isfunction(value) else name), _plain(_first(str(value.__doc__))))
        for name, value in public
    ]
    given = _sections(str(inspect.getdoc(Context)))["Attributes"]
    return table(("of `context`", "is"), [*((code(name), text) for name, text in _entries(given)), *rows])


def all_settings() -> str:
    """All settings with their flags."""
    rows = []
    for key, field in settings().items():
        flags = ", ".join(code(name) for name in dict.fromkeys((flag(key), *map(_underscored, SPELLINGS.get(key, ())))))
        text = f"{field.description or ''}{_choices(field.annotation)}"
        rows.append((code(key), flags, _shown(field.get_default()), text))
    return table(("setting", "flags", "default", "meaning"), rows)


def spellings() -> str:
    """The authors' flags and what they set."""
    rows = [(f"{_underscored(name)} X", f"{key}=X") for key, names in SPELLINGS.items() for name in names]
    rows += [
        (f"{_underscored(name)} X", f"pretrain.{field}=X joint.{field}=X finetune.{field}=X")
        for name, field in EVERY_STAGE.items()
    ]
    rows += [
        (_underscored(name), " ".join(f"{one}={value}" for one in _each_stage(key)))
        for name, (key, value, _) in SWITCHES.items()
    ]
    return table(("flag", "settings"), (tuple(map(code, row)) for row in rows))


def modes() -> str:
    """Training modes and their stages."""
    meanings = {mode: f"`stages=[{', '.join(stages)}]`" for mode, stages in MODES.items()}
    moved = ", ".join(f"`{SPELLINGS[old][0]}` is `{new}`" for old, new in ONLY_CLASSIFICATION.items())
    meanings["only_classification"] += f"; {_underscored(moved)}, unless that is given by itself"
    looking = "no training: `--model_pt` on test images, "
    meanings |= {
        "test": f"{looking}the metrics of `--metrics`",
        "faithfulness": f"{looking}the metrics of the group faithfulness",
        "save_expls": f"{looking}explanations as a picture and arrays",
    }
    return table(("`--training_mode`", "meaning"), ((code(mode), text) for mode, text in meanings.items()))


def api(dotted: str) -> str:
    """Signature and docstring of a function, class or method."""
    found = _find(dotted)
    written = inspect.isclass(found) and "__init__" in vars(found) and not is_dataclass(found)
    shown = found.__init__ if written else found
    sections = _sections(inspect.getdoc(found) or "")
    parts = [f"#### `{dotted}`", f"```python no-run\n{_signature(dotted, shown)}\n```", _plain(sections.pop(""))]
    for title, lines in sections.items():
        if title != "Example":
            entries = [f"- `{name}`: {text}" if name else text for name, text in _entries(lines)]
            parts += [f"*{title}*", "\n".join(entries)]
    return "\n\n".join(text for text in parts if text)


PARTS: dict[str, Callable[[], str]] = {
    one.__name__: one
    for one in (metrics, groups, datasets, explainers, models, context, all_settings, spellings, modes)
}


def _find(dotted: str) -> Any:
    """The object of a dotted name; properties are their getters."""
    found: Any = import_module("lsx")
    for word in dotted.split(".")[1:]:
        if inspect.isclass(found):
            found = inspect.getattr_static(found, word)
            found = getattr(found, "__func__", getattr(found, "fget", None) or found)
        else:
            found = getattr(found, word) if hasattr(found, word) else import_module(f"{found.__name__}.{word}")
    return found


def _signature(dotted: str, function: Any) -> str:
    """How it is called, as it is written; a class without a constructor shows its fields."""
    source = textwrap.dedent(inspect.getsource(function))
    node: Any = ast.parse(source).body[0]
    lines = source.splitlines()
    if isinstance(node, ast.ClassDef):
        fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
        return "\n".join([lines[node.lineno - 1], *(f"    {ast.unparse(field)}" for field in fields)])
    text = "\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1])
    text = re.sub(r"^def \w+", dotted, text).removesuffix(":").removesuffix(" -> None")
    text = re.sub(r"\((\n\s+)?(?:self|cls)(?:,\s*)?", r"(\1", text, count=1)
    return re.sub(r"(\n    \*,)?\n    _\w+: .*,", "", text)


def _sections(doc: str) -> dict[str, list[str]]:
    """Lines of a docstring by the section that they stand in; those before the first by the empty name."""
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in doc.splitlines():
        if match := SECTION.match(line):
            current = match[1]
            found[current] = [f"    {match[2]}"] if match[2] else []
        elif line.strip() and current and not line.startswith(" "):
            current = ""
            found[""] += ["", line]
        else:
            found[current].append(line)
    return found


def _entries(lines: Iterable[str]) -> list[tuple[str, str]]:
    """``name: text`` of a section; text without a name where it has none."""
    entries: list[tuple[str, str]] = []
    body = textwrap.dedent("\n".join(lines)).splitlines()
    for line in body:
        name, colon, text = line.partition(": ")
        if not line.strip():
            continue
        if line.startswith(" ") and entries:
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}")
        elif colon and re.fullmatch(r"[\w, ]+", name):
            entries.append((name, text))
        elif entries and not entries[-1][0]:
            entries[-1] = ("", f"{entries[-1][1]} {line}")
        else:
            entries.append(("", line))
    return [(name, _plain([text])) for name, text in entries]


def _plain(lines: Sequence[str]) -> str:
    """A docstring's prose as Markdown."""
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip())
    return re.sub(r"``(.+?)``", r"`\1`", re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text))


def _first(doc: str) -> list[str]:
    """The first paragraph of a docstring."""
    return [" ".join(inspect.cleandoc(doc).split("\n\n")[0].split())]


def _summary(thing: Any) -> str:
    return _plain(_first(str(thing.__doc__)))


def _is_own(thing: Any) -> bool:
    return str(thing.__module__).startswith("lsx.")


def _underscored(text: str) -> str:
    """A flag as the method's authors write it."""
    return re.sub(r"--[\w-]+", lambda match: "--" + match[0][2:].replace("-", "_"), text)


def _each_stage(key: str) -> list[str]:
    return [f"{stage}{key[1:]}" for stage in ("pretrain", "joint", "finetune")] if key.startswith("*") else [key]


def _choices(annotation: Any) -> str:
    """What a setting of few values may be, where it is so."""
    if get_origin(annotation) is not Literal:
        return ""
    return f" ({', '.join(code(value) for value in get_args(annotation))})"


def _shown(default: Any) -> str:
    if default is None:
        return "–"
    return code("[" + ", ".join(default) + "]" if isinstance(default, tuple) else default)


def main() -> int:
    """Write what is stale, or with ``--check`` only say so."""
    stale = {path: new for path in sorted(DOCS.glob("*.md")) if (new := page(old := path.read_text())) != old}
    check = "--check" in sys.argv
    for path, text in stale.items():
        sys.stdout.write(f"{'stale' if check else 'written'}: {path.name}\n")
        if not check:
            path.write_text(text)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
