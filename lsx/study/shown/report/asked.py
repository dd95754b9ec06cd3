"""What was asked, and the answer in two sentences."""

import time
from collections.abc import Iterator

from lsx.study.declared.sections import Constraint
from lsx.study.declared.space import Dimension
from lsx.study.declared.spec import StudySpec
from lsx.study.shown import results
from lsx.study.shown.display import ARROWS, duration
from lsx.study.shown.report.markup import folded, grid, number, readable, table, text
from lsx.study.shown.report.subject import STATES, Subject


def asked(subject: Subject) -> Iterator[str]:
    """Question, objectives, constraints, references, budget, and the space."""
    spec = subject.spec
    if spec.question:
        yield f'<p class="question">{text(" ".join(spec.question.split()))}</p>'
    yield grid([(name, text(value)) for name, value in _facts(subject).items()])
    if spec.space:
        rows = [[f"<code>{text(key)}</code>", *_dimension(one)] for key, some in spec.space.items() for one in some]
        yield f"<h3>Space</h3>{table(('setting', 'values', 'where'), rows)}"
    if spec.notes:
        yield f"<p>{text(' '.join(spec.notes.split()))}</p>"
    for edit in subject.past.study.user_attrs.get("edits", []):
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(edit["time"]))
        said = f"Edited {when}, after {edit['trials']} trials: {'; '.join(edit['changes'])}"
        yield f'<p class="notice">{text(said)}</p>'
    file = subject.past.folder.path / "study.yaml"
    if file.is_file():
        yield folded("The study, as it was declared", file.read_text(encoding="utf-8"))


def answer(subject: Subject) -> Iterator[str]:
    """The two sentences, and what they rest on."""
    yield f'<p class="answer">{text(results.answer(subject.past.study, subject.spec))}</p>'
    if subject.unfinished:
        finished = subject.planned - subject.unfinished
        running = subject.past.counts["running"]
        yield (
            f'<p class="notice" id="interrupted">Not complete: {finished} of {subject.planned} planned trials are '
            f"finished, {running} running or interrupted. This is how the study stood when the page was written.</p>"
        )
    states = ", ".join(f"{count} {STATES.get(name, name)}" for name, count in sorted(subject.past.counts.items()))
    said = f"Trials: {states or 'none'}; ran for {duration(subject.past.seconds)}."
    yield f'<p class="quiet">{text(said)}</p>'


def _facts(subject: Subject) -> dict[str, str]:
    spec = subject.spec
    facts = {
        "objectives": ", ".join(f"{readable(one.metric)} {ARROWS[one.direction]}" for one in spec.objectives)
        + ", on validation images",
        "constraints": " and ".join(map(_bounds, spec.constraints)),
        "reference trials": ", ".join(
            f"{name} (the baseline)" if name == spec.baseline else name for name in spec.reference_trials
        ),
        "budget": _budget(subject),
        "seeds": f"{spec.repeats} per trial" + ("" if spec.repeats > 1 else ", so there are no intervals"),
        "sampler": spec.sampler.type,
        "scheduler": spec.scheduler.type if spec.scheduler.type == "none" else _scheduler(spec),
        "data": " ".join(str(spec.settings.get(key, "")) for key in ("data.dataset", "data.source")).strip(),
    }
    return {name: value for name, value in facts.items() if value}


def _bounds(one: Constraint) -> str:
    low = "" if one.low is None else f"{one.low:g} ≤ "
    high = "" if one.high is None else f" ≤ {one.high:g}"
    return f"{low}{readable(one.metric)}{high}"


def _budget(subject: Subject) -> str:
    budget = subject.spec.budget
    return f"{subject.planned} trials" + (f", {duration(budget.time)} of running" if budget.time is not None else "")


def _scheduler(spec: StudySpec) -> str:
    one = spec.scheduler
    return f"{one.type}, by {readable(one.metric)} {ARROWS[one.direction]}, after {one.grace_epochs} epochs"


def _dimension(one: Dimension) -> tuple[str, str]:
    """Its values and its conditions."""
    if one.choices is not None:
        values = ", ".join(map(str, one.choices))
    else:
        scale = ", log" if one.log else f", step {number(one.step)}" if one.step else ""
        values = f"{number(one.low)} to {number(one.high)}{scale}"
    where = " and ".join(f"{key} is {' or '.join(map(str, allowed))}" for key, allowed in one.when.items())
    return text(values), text(where)
