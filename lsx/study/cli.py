"""``python tune.py``: one study in the foreground, and a look at what has been run."""

import argparse
import difflib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from lsx.cli import show_all
from lsx.errors import LSXError, StudyError, unknown

if TYPE_CHECKING:
    from lsx.study.declared.spec import StudySpec
    from lsx.study.running.runner import StudyResult
    from lsx.study.shown.display import Display

USAGE_ERROR, INTERRUPTED = 2, 130
ONCE = ("--fresh", "--dry-run")
"""Flags that do not belong to the command that continues a study."""

EPILOG = "What has been run: tune.py list | show | best | rerun | report (each has --help)."


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        begin = "unrecognized arguments: "
        near = difflib.get_close_matches(message.removeprefix(begin).split()[0].partition("=")[0], _flags(self), n=1)
        hint = f"; did you mean {near[0]}?" if near and message.startswith(begin) else ""
        self.exit(USAGE_ERROR, f"lsx: {message}{hint} (usage: {self.prog} --help)\n")


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    """All flags of a parser and of the parsers below it."""
    below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {*parser._option_string_actions}.union(*(_flags(one) for each in below for one in each.values()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run or continue a study, or look at one.

    Returns:
        0 when it is complete, 2 after a user's mistake (one line on stderr), 130 when interrupted.
    """
    show_all()
    words = list(sys.argv[1:] if argv is None else argv)
    from lsx.study import commands

    try:
        if words and words[0] in commands.COMMANDS:
            return commands.main(words)
        if words and not words[0].startswith("-"):
            known = unknown("command", words[0], commands.COMMANDS)
            raise StudyError(f"{known}; a study is run by: tune.py --study NAME")
        return _run(_parser().parse_args(words))
    except LSXError as error:
        _say(f"lsx: {_redacted(error)}", Console(stderr=True))
        return USAGE_ERROR
    except KeyboardInterrupt:
        _say("lsx: interrupted", Console(stderr=True))
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="tune.py", description=__doc__, epilog=EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("--study", required=True, metavar="NAME|FILE", help="a study's name (in studies/), or its file")
    add("--profile", metavar="NAME", help="one of the file's profiles, e.g. quick or paper")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting or searched setting: a value, a range LOW..HIGH[:log], choices [a, b]; may be repeated",
    )
    add("--trials", type=_at_least_one, metavar="N", help="planned trials, reference trials included; extends a study")
    add("--time-budget", metavar="T", help="of running, after which the study stops, e.g. 2h; time down is not counted")
    add("--repeats", type=_at_least_one, metavar="R", help="seeds of every trial")
    add("--sampler", metavar="NAME", help="tpe, nsga2, nsga3, random or grid")
    add("--seed", type=int, metavar="N", help="of the study's sampler")
    add("--max-concurrent", type=_at_least_one, metavar="N", help="trials at once")
    add("--gpus-per-trial", type=_share, metavar="F|auto", help="GPUs of one trial, fractions included")
    add("--address", metavar="ADDRESS", help="of a Ray cluster, host:port or auto (default: a Ray of its own)")
    add("--tracking-uri", metavar="URI", help="MLflow store or server (default: ./mlflow.db)")
    add("--storage", metavar="DIR|URI", help="where checkpoints go: a shared folder or a bucket (default: the study's)")
    add("--optuna-storage", metavar="URL", help="a database, e.g. postgresql://... (default: a journal in the folder)")
    add("--folder", default="lsx-studies", metavar="DIR", help="of all studies (default: %(default)s)")
    add("--fresh", action="store_true", help="set an earlier study of this name aside, start over")
    add("--dry-run", action="store_true", help="check everything, estimate time, disk and memory; start nothing")
    return parser


def overrides(args: argparse.Namespace) -> list[str]:
    """``KEY=VALUE`` of --set, and of the flags that stand for one."""
    named = {"repeats": args.repeats, "sampler.type": args.sampler, "study.seed": args.seed}
    return [*args.set, *(f"{key}={value}" for key, value in named.items() if value is not None)]


def _run(args: argparse.Namespace) -> int:
    from lsx.study.shown.display import Display

    with Display() as display:
        if display.live:  # plain output has said by now that it starts
            display.prepare(args.study, "reading the study")
        from lsx.study.declared.spec import load

        spec = load(args.study, args.profile, overrides(args))
        display.prepare(spec.study_name, "loading Ray, Optuna and MLflow")
        shown = (_rehearse if args.dry_run else _train)(args, spec, display)
    return shown(display.console)


def _train(args: argparse.Namespace, spec: "StudySpec", display: "Display") -> Callable[[Console], int]:
    """Run the study; returns what tells how it ended."""
    from lsx.study.running.runner import run

    display.prepare(spec.study_name, "checking data, networks and explanations")
    result = run(
        spec,
        folder=args.folder,
        tracking_uri=args.tracking_uri,
        storage=args.storage,
        optuna_storage=args.optuna_storage,
        address=args.address,
        trials=args.trials,
        time_budget=args.time_budget,
        max_concurrent=args.max_concurrent,
        gpus_per_trial=args.gpus_per_trial,
        fresh=args.fresh,
        display=display,
        command=_command(without=(*ONCE, "--trials")),
    )
    return lambda console: _tell(result, spec.study_name, console)


def _rehearse(args: argparse.Namespace, spec: "StudySpec", display: "Display") -> Callable[[Console], int]:
    """Check and estimate; what it returns says 2 when something would keep the study from running."""
    from lsx.study.environment import whereabouts
    from lsx.study.environment.folder import StudyFolder
    from lsx.study.shown.dryrun import dry_run

    display.prepare(spec.study_name, "checking everything, and rehearsing two trials for a few steps")
    where = whereabouts.find(
        StudyFolder(args.folder, spec.study_name),
        tracking_uri=args.tracking_uri,
        storage=args.storage,
        optuna_storage=args.optuna_storage,
        fresh=args.fresh,
    )
    found = dry_run(
        whereabouts.equipped(spec, gpus_per_trial=args.gpus_per_trial, trials=args.trials),
        tracking_uri=where.tracking_uri,
        storage=where.storage,
        folder=args.folder,
        optuna_storage=where.optuna_storage,
        address=args.address,
        slots=args.max_concurrent,
    )

    def tell(console: Console) -> int:
        console.print(found.renderable)
        for fault in found.faults:
            _say(f"lsx: {fault}", Console(stderr=True))
        return USAGE_ERROR if found.faults else 0

    return tell


def _tell(result: "StudyResult", name: str, console: Console) -> int:
    for line in result.notices:
        _say(f"lsx: {line}", console)
    if result.aside:
        _say(f"lsx: the earlier study lies in {result.aside}", console)
    if result.undelivered:
        _say(
            f"lsx: MLflow at {result.tracking_uri} does not take {result.undelivered} entries; they wait in "
            f"{result.folder}, and the same command delivers them",
            console,
        )
    if result.status == "interrupted":
        _say(_resume_line(result), console)
        return INTERRUPTED
    if result.status == "time is up":
        _say(
            f"lsx: the time budget is used after {result.finished} of {result.planned} trials; a larger --time-budget "
            "continues the study",
            console,
        )
    elif result.started == 0:
        _say(
            f"lsx: study {name} is complete: {result.finished} of {result.planned} trials; "
            f"extend it with --trials {2 * result.planned}",
            console,
        )
    console.print(result.report)
    return 0


def _say(line: str, console: Console) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _redacted(error: LSXError) -> str:
    from lsx.study.environment.credentials import redacted

    return redacted(str(error))


def _resume_line(result: "StudyResult") -> str:
    command = _command(without=ONCE)
    return f"lsx: interrupted after {result.finished} of {result.planned} trials; continue with: {command}"


def _command(without: tuple[str, ...]) -> str:
    """The running command line less some flags and their values, and less credentials."""
    from lsx.study.environment.credentials import redacted

    words: list[str] = []
    value_follows = False
    for word in sys.orig_argv[1:]:
        flag = word.split("=", 1)[0]
        if flag in without:
            value_follows = flag == "--trials" and "=" not in word
        elif value_follows:
            value_follows = False
        else:
            words.append(redacted(word))
    return f"python {shlex.join(words)}"


def _at_least_one(text: str) -> int:
    value = _number(text, int)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return int(value)


def _share(text: str) -> float | str:
    if text == "auto":
        return text
    value = _number(text, float)
    if not (0 <= value < 1 or value == int(value)):
        raise argparse.ArgumentTypeError(f"{text} must be auto, between 0 and 1, or a whole number of GPUs")
    return value


def _number(text: str, kind: type[int] | type[float]) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0 and below 1,000,000")
    return value
