"""All trials, sortable, with links to their runs in MLflow; the manifest of the chosen one."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from optuna.trial import FrozenTrial

from lsx.study.shown.display import ARROWS, duration
from lsx.study.shown.report.markup import folded, grid, number, readable, text
from lsx.study.shown.report.subject import STATES, LeftOut, Subject
from lsx.study.tracked.stores import ui_line

LOCAL = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` answers."""
MANIFEST = "manifest.json"


def trials(subject: Subject) -> Iterator[str]:
    """The table; its header cells are buttons that sort it."""
    if not subject.trials:
        raise LeftOut("No trial has begun.")
    base, note = _server(subject)
    runs = _runs(subject)
    keys = list(dict.fromkeys(key for trial in subject.trials for key in subject.settings(trial)))
    aims = [f"{readable(one.metric)} {ARROWS[one.direction]}" for one in subject.spec.objectives]
    headers = ["#", "trial", "state", *aims, "took", "MLflow run", *keys]
    before = len(headers) - len(keys)
    head = "".join(_head(one, "setting" if index >= before else "") for index, one in enumerate(headers))
    body = "".join(_row(trial, subject, keys, runs.get(trial.number), base) for trial in subject.trials)
    yield (
        '<div class="scroll tall" tabindex="0" role="region" aria-label="All trials"><table id="trials-table" '
        f'class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
    yield f'<p class="quiet">A header sorts by its column. {note}</p>'


def manifest(subject: Subject) -> Iterator[str]:
    """What the chosen trial was made of."""
    if subject.chosen is None:
        raise LeftOut("No trial is chosen, so there is no manifest to show.")
    try:
        content = subject.file(subject.chosen, MANIFEST).read_text(encoding="utf-8")
    except OSError:
        raise LeftOut(f"Trial {subject.chosen.number} has no manifest in the study's folder.") from None
    chosen = subject.chosen.number
    yield f"<p>Of trial {chosen}, the chosen one; <code>tune.py rerun {chosen}</code> compares a rerun with it.</p>"
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        yield grid([(name, text(value)) for name, value in _facts(json.loads(content)).items()])
    yield folded("The whole manifest", content)


def _facts(content: Mapping[str, Any]) -> dict[str, str]:
    code, machine, packages, data = (content.get(name) or {} for name in ("code", "hardware", "packages", "data"))
    dirty = ", with uncommitted changes" if code.get("dirty") else ""
    gpu = (machine.get("gpu") or {}).get("name")
    shown = ("python", "torch", "torchvision", "numpy", "optuna", "ray", "mlflow")
    facts = {
        "code": f"lsx {code.get('version')}, commit {str(code.get('commit') or 'unknown')[:12]}{dirty}",
        "sources": f"SHA-256 {str(code.get('sha256') or 'unknown')[:16]}…",
        "data": f"{data.get('description', '')} SHA-256 {str(data.get('sha256') or 'unknown')[:16]}…".strip(),
        "seeds": ", ".join(map(str, content.get("seeds") or ())),
        "machine": f"{gpu or machine.get('processor')}, {content.get('device')}, {content.get('threads')} threads",
        "packages": ", ".join(f"{name} {packages[name]}" for name in shown if packages.get(name)),
    }
    return {name: value for name, value in facts.items() if value}


def _row(trial: FrozenTrial, subject: Subject, keys: list[str], run: str | None, base: str | None) -> str:
    known, state = trial.user_attrs, trial.state.name.lower()
    metrics, values, settings = known.get("metrics", {}), subject.values(trial), subject.settings(trial)
    role = subject.role(trial)
    name = text(known.get("name", known.get("role", ""))) + (f" <b>{role}</b>" if role else "")
    if "reason" in known:
        name += f"<br><small>{text(known['reason'])}</small>"
    spent = None if trial.duration is None else trial.duration.total_seconds()
    cells = [
        _cell(trial.number, trial.number),
        f'<td class="name">{name}</td>',
        f'<td class="state {state}">{STATES.get(state, state)}</td>',
        *(_cell(metrics.get(one.metric), values.get(one.metric)) for one in subject.spec.objectives),
        _cell(spent, None if spent is None else duration(spent)),
        f"<td>{_link(run, base)}</td>",
        *(_cell(settings.get(key), number(settings[key]) if key in settings else None, "setting") for key in keys),
    ]
    return f'<tr id="trial-{trial.number}" class="{role}">{"".join(cells)}</tr>'


def _head(name: str, classes: str) -> str:
    button = f'<button type="button">{text(name)}</button>'
    return f'<th scope="col" aria-sort="none" class="{classes}">{button}</th>'


def _cell(value: Any, shown: object, classes: str = "") -> str:
    """A number sorts by its value; what is missing comes last."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if numeric:
        return f'<td class="{f"number {classes}".strip()}" data-value="{value!r}">{text(shown)}</td>'
    return f'<td class="{classes}">{"–" if shown is None else text(shown)}</td>'


def _link(run: str | None, base: str | None) -> str:
    if run is None:
        return "–"
    short = text(run[:8])
    return short if base is None else f'<a href="{text(base)}/#/runs/{text(run)}" rel="noreferrer">{short}</a>'


def _server(subject: Subject) -> tuple[str | None, str]:
    """Where MLflow's pages are, without credentials, and what is to be done for the links to work."""
    uri = str(subject.past.folder.surroundings.get("tracking_uri") or "")
    if uri.startswith(("http://", "https://")):
        parts = urlsplit(uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}", ""
    if uri.startswith("sqlite:"):
        return LOCAL, f"Runs open while <code>{text(ui_line(uri))}</code> runs."
    return None, f"Runs are in <code>{text(uri)}</code>." if uri else ""


def _runs(subject: Subject) -> dict[int, str]:
    """MLflow's run of every trial: as the trial knows it, else as the outbox has noted it."""
    runs: dict[int, str] = {}
    with contextlib.suppress(OSError):
        for line in subject.past.folder.outbox.read_bytes().splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                entry = json.loads(line)
                if "spool" in entry:
                    runs |= {int(trial): run for trial, run in entry["runs"].items()}
                elif "id" in entry:
                    runs[int(entry["run"])] = str(entry["id"])
    known = {one.number: one.user_attrs["run_id"] for one in subject.trials if "run_id" in one.user_attrs}
    return {**runs, **known}
