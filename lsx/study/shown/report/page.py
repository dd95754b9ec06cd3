"""The page: its parts in order, each made or left out with a sentence why, in one file that loads nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from plotly.offline import get_plotlyjs

from lsx.errors import StudyError
from lsx.study.shown.archive import Past
from lsx.study.shown.report import asked, curves, failures, front, gallery, plots, table
from lsx.study.shown.report.look import SCRIPT, STYLE
from lsx.study.shown.report.markup import text
from lsx.study.shown.report.subject import LeftOut, Subject

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""What a browser lets the page do: nothing but draw. plotly.js knows addresses of map servers, and reaches none."""


class Part(NamedTuple):
    """A section: the id of its element, its heading, its name in the menu, and what makes its HTML."""

    id: str
    heading: str
    short: str
    make: Callable[[Subject], Iterator[str]]


PARTS = (
    Part("asked", "What was asked", "asked", asked.asked),
    Part("answer", "The answer", "answer", asked.answer),
    Part("front", "Pareto front", "front", front.front),
    Part("history", "Optimisation history", "history", plots.history),
    Part("importances", "Importance of the settings", "importances", plots.importances),
    Part("parallel", "Settings and objectives, trial by trial", "parallel", plots.parallel),
    Part("timeline", "Timeline of the trials", "timeline", plots.timeline),
    Part("curves", "Training curves", "curves", curves.curves),
    Part("gallery", "Explanations", "explanations", gallery.gallery),
    Part("failures", "Images that a decoy flips", "failures", failures.failures),
    Part("trials", "All trials", "trials", table.trials),
    Part("manifest", "Manifest", "manifest", table.manifest),
)
"""All sections, in order; the answer comes second so that the question is read first."""


def write(past: Past, path: Path) -> Path:
    """Write the page, whole or not at all.

    Raises:
        StudyError: the file cannot be written.
    """
    content = "\n".join(_page(Subject(past)))
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(content, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise StudyError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None
    return path


def _page(subject: Subject) -> Iterator[str]:
    title = text(f"lsx study {subject.spec.study_name}")
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>'
    yield f'<header><h1>{title}</h1><p class="quiet">{text(f"last change {subject.past.touched}")}</p></header>'
    links = "".join(f'<li><a href="#{one.id}">{one.short}</a></li>' for one in PARTS)
    yield f'<nav aria-label="Parts"><ul>{links}</ul></nav><main>'
    yield "<noscript><p>Charts and sorting need JavaScript; all else is below.</p></noscript>"
    for one in PARTS:
        yield f'<section id="{one.id}"><h2>{one.heading}</h2>{_made(one, subject)}</section>'
    yield f"</main><script>{get_plotlyjs()}</script><script>{SCRIPT}</script></body></html>"


def _made(part: Part, subject: Subject) -> str:
    """A report without a part is better than none, and than the end of a study that fails for its sake."""
    try:
        return "\n".join(part.make(subject))
    except LeftOut as reason:
        return f'<p class="left-out">Left out: {text(reason)}</p>'
    except Exception as error:  # Optuna and plotly raise many types for studies that they did not expect
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return f'<p class="left-out fault">Left out, for it could not be made: {text(said)}</p>'
