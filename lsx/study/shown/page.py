"""A study as one HTML page that needs nothing else: the question, the answer, the front, the trials, explanations."""

import base64
import html
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, RenderableType

from lsx.errors import StudyError
from lsx.study.commands import trials_table
from lsx.study.environment.credentials import redacted
from lsx.study.environment.places import PICTURE
from lsx.study.running.recorder import MANIFEST
from lsx.study.shown import conclusion, results
from lsx.study.shown.archive import Past
from lsx.study.shown.display import duration

WIDTH = 118
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1f2937 }
pre { font: 12px/1.35 ui-monospace, monospace; overflow-x: auto; background: #f8fafc; padding: .8rem }
img { max-width: 100% } h1, h2 { line-height: 1.2 } .quiet { color: #6b7280 }
"""


def write(past: Past, path: Path) -> Path:
    """Write the page, whole or not at all.

    Raises:
        StudyError: the file cannot be written.
    """
    text = "\n".join(_page(past))
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise StudyError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None
    return path


def _page(past: Past) -> Iterator[str]:
    spec, study = past.spec, past.study
    title = _text(f"lsx study {spec.name}")
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
    yield f"<p>{_text(spec.question)}</p>"
    states = ", ".join(f"{count} {name}" for name, count in sorted(past.counts.items()))
    yield f'<p class="quiet">{_text(f"{states}; ran for {duration(past.seconds)}; {past.touched}")}</p>'
    yield f"<h2>Answer</h2><p>{_text(results.answer(study, spec))}</p>"
    yield from _front(past)
    yield f"<h2>Trials</h2>{_rendered(trials_table(past))}"
    yield from _explanations(past)
    yield from _files(past)
    yield "</body></html>"


def _front(past: Past) -> Iterator[str]:
    if results.choose(past.study, past.spec) is None:
        return
    yield f"<h2>Pareto front</h2>{_rendered(results.table(past.study, past.spec))}"
    with tempfile.TemporaryDirectory(prefix="lsx-") as folder:
        drawn = Path(folder) / "front.png"
        conclusion.draw_front(past.study, past.spec, drawn)
        if drawn.is_file():
            yield _image(drawn, "Pareto front of all complete trials, with the baseline")


def _explanations(past: Past) -> Iterator[str]:
    """Of the baseline and of the chosen trial."""
    shown = {"baseline": results.baseline(past.study, past.spec), "chosen": results.choose(past.study, past.spec)}
    for name, trial in shown.items():
        picture = None if trial is None else past.folder.trial(trial.number) / PICTURE
        if trial is not None and picture is not None and picture.is_file():
            yield f"<h2>Explanations, {name} trial {trial.number}</h2>"
            yield _image(picture, f"explanations of validation images, trial {trial.number}, stage by stage")


def _files(past: Past) -> Iterator[str]:
    """The study and the chosen trial's manifest, folded."""
    chosen = results.choose(past.study, past.spec)
    files = {"The study": past.folder.path / "study.yaml"}
    if chosen is not None:
        files["Manifest of the chosen trial"] = past.folder.trial(chosen.number) / MANIFEST
    for name, file in files.items():
        if file.is_file():
            content = _text(file.read_text(encoding="utf-8"))
            yield f"<details><summary>{name}</summary><pre>{content}</pre></details>"


def _text(text: str) -> str:
    """Redacted first: the markup around a URI must not be taken for a part of it."""
    return html.escape(redacted(text))


def _rendered(table: RenderableType) -> str:
    console = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=False)
    console.print(table)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def _image(path: Path, text: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{data}"></p>'
