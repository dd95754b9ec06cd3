"""``python tune.py list | show | best | rerun | report``: a look at what has been run."""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lsx.errors import LSXError, StudyError
from lsx.study.cli import Parser
from lsx.study.environment.credentials import redacted
from lsx.study.shown.display import duration

Action = Callable[[argparse.Namespace, Console], int]
STYLES = {"complete": "green", "pruned": "yellow", "fail": "red", "running": "cyan"}


def main(words: Sequence[str], console: Console | None = None) -> int:
    """Run one of :data:`COMMANDS`.

    Returns:
        0; 1 from ``rerun``, when the figures differ.

    Raises:
        StudyError: one line.
    """
    args = _parser().parse_args(words)
    action: Action = args.action
    return action(args, console or Console())


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="tune.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    where = Parser(add_help=False)
    where.add_argument("--folder", default="lsx-studies", metavar="DIR", help="of all studies (default: %(default)s)")
    which = Parser(add_help=False, parents=[where])
    which.add_argument("--study", required=True, metavar="NAME", help="a study that was run")
    which.add_argument("--profile", metavar="NAME", help="the profile that it was run with")
    which.add_argument("--optuna-storage", metavar="URL", help="its database, if that has credentials")
    entries: dict[str, tuple[Action, Parser, str]] = {
        "list": (_list, where, "all studies that were run, and those that can be"),
        "show": (_show, which, "a study's trials and its front"),
        "best": (_best, which, "the chosen trial and its configuration"),
        "rerun": (_rerun, which, "train a trial again, and compare its final metrics"),
        "report": (_report, which, "one HTML page on the study"),
    }
    for name, (action, parent, text) in entries.items():
        made = commands.add_parser(name, parents=[parent], help=text, description=text, allow_abbrev=False)
        made.set_defaults(action=action)
        if name == "best":
            made.add_argument("--export", metavar="FILE", help="write the configuration there, for lsx train --config")
        if name == "rerun":
            made.add_argument("trial", type=int, metavar="TRIAL", help="its number")
        if name == "report":
            made.add_argument("--out", metavar="FILE", help="default: report.html in the study's folder")
    return parser


def _past(args: argparse.Namespace) -> Any:
    from lsx.study.shown.archive import open_past

    return open_past(args.folder, _study_name(args.study, args.profile), args.optuna_storage)


def _study_name(study: str, profile: str | None) -> str:
    """As its file says, which may be gone since it was run."""
    from lsx.study.declared.spec import load

    with suppress(LSXError):
        return load(study, profile).study_name
    name = Path(study).stem if study.endswith((".yaml", ".yml")) else study
    return f"{name}-{profile}" if profile else name


def _list(args: argparse.Namespace, console: Console) -> int:
    from lsx.study.declared.spec import shipped
    from lsx.study.shown.archive import all_past

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"run, in {args.folder}", title_justify="left")
    for header in ("study", "trials", "state", "ran for", "last change"):
        table.add_column(header, no_wrap=header != "state", overflow="fold")
    for name, past in all_past(args.folder):
        if isinstance(past, StudyError):
            table.add_row(name, "", Text(f"unreadable: {past}", style="red"))
            continue
        counts = past.counts
        state = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        table.add_row(name, str(counts.total()), state, duration(past.seconds), past.touched)
    if table.row_count:
        console.print(table)
    else:
        console.print(Text(f"no study was run in {args.folder}"))
    console.print(Text(f"can be run: {', '.join(shipped())}, or the path of a .yaml file", style="dim"))
    return 0


def _show(args: argparse.Namespace, console: Console) -> int:
    from lsx.study.shown import results

    past = _past(args)
    console.print(Text(" ".join(past.spec.question.split()) or past.spec.name, style="bold"))
    states = ", ".join(f"{count} {name}" for name, count in sorted(past.counts.items()))
    console.print(Text(f"{states}; ran for {duration(past.seconds)}, last change {past.touched}"))
    for edit in past.study.user_attrs.get("edits", []):
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(edit["time"]))
        console.print(
            Text(f"edited {when}, after {edit['trials']} trials: {'; '.join(edit['changes'])}", style="yellow")
        )
    console.print(trials_table(past))
    if results.choose(past.study, past.spec) is not None:
        console.print(results.table(past.study, past.spec))
    console.print(Text(results.answer(past.study, past.spec)))
    for name in ("tracking_uri", "storage", "optuna_storage"):
        if past.folder.surroundings.get(name):
            console.print(Text(f"{name.replace('_', ' ')}: {past.folder.surroundings[name]}", style="dim"))
    return 0


def trials_table(past: Any) -> Table:
    """All trials: number, what they are, state, objectives or the reason that there are none."""
    from lsx.study.shown.results import interval

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title="trials", title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("trial", overflow="fold")
    table.add_column("state")
    for objective in past.spec.objectives:
        table.add_column(objective.metric.replace("_", " "), justify="right")
    for trial in past.study.get_trials(deepcopy=False):
        state, known = trial.state.name.lower(), trial.user_attrs
        name = Text(known.get("name", known.get("role", "")))
        if known.get("reason"):
            name.append(f"\n{redacted(known['reason'])}", style="dim")
        cells = [
            f"{known['metrics'][one.metric]:.4f}{interval(trial, 'seeds', one.metric)}"
            if one.metric in known.get("metrics", {})
            else "–"
            for one in past.spec.objectives
        ]
        table.add_row(str(trial.number), name, Text(state, style=STYLES.get(state, "")), *cells)
    return table


def _best(args: argparse.Namespace, console: Console) -> int:
    from lsx.config import Config
    from lsx.study.shown import results
    from lsx.yamlfile import dump_plain

    past = _past(args)
    chosen = results.choose(past.study, past.spec)
    if chosen is None:
        raise StudyError(f"study {past.spec.name!r} has no trial to choose: {results.answer(past.study, past.spec)}")
    config = Config.build(chosen.user_attrs["config"])
    if args.export is None:
        heading = f"# trial {chosen.number} of {past.spec.name}: {results.said(chosen, past.spec)}"
        console.print(Text(heading), soft_wrap=True)  # wrapped, it would be no comment
        console.print(Text(dump_plain(config.plain())), soft_wrap=True)
        return 0
    export(config, Path(args.export))
    console.print(Text(f"lsx: trial {chosen.number}'s configuration is in {args.export}"), soft_wrap=True)
    return 0


def export(config: Any, path: Path) -> None:
    """Write a configuration, whole or not at all.

    Raises:
        StudyError: the file is there already, or cannot be written.
    """
    if path.exists():
        raise StudyError(f"{str(path)!r} exists; name a file that does not")
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        config.save(part)
        part.replace(path)
    except OSError as error:
        raise StudyError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None


def _rerun(args: argparse.Namespace, console: Console) -> int:
    from lsx.study.shown.rerun import rerun

    past = _past(args)
    return rerun(past, past.trial(args.trial), console)


def _report(args: argparse.Namespace, console: Console) -> int:
    from lsx.study.shown.report import write

    past = _past(args)
    path = write(past, Path(args.out) if args.out else past.folder.path / "report.html")
    console.print(Text(f"lsx: {path}"), soft_wrap=True)
    return 0


COMMANDS = ("list", "show", "best", "rerun", "report")
