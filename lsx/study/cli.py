"""``python tune.py``: one study in the foreground."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from lsx.errors import LSXError

if TYPE_CHECKING:
    from lsx.study.runner import StudyResult

USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run or continue a study.

    Returns:
        0 when it is complete, 2 after a user's mistake (one line on stderr), 130 when interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except LSXError as error:
        _say(f"lsx: {error}", Console(stderr=True))
        return USAGE_ERROR
    except KeyboardInterrupt:
        _say("lsx: interrupted", Console(stderr=True))
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tune.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--study", required=True, metavar="NAME|FILE", help="a study's name (in studies/), or its file")
    parser.add_argument("--profile", metavar="NAME", help="one of the file's profiles, e.g. paper")
    parser.add_argument("--trials", type=_at_least_one, metavar="N", help="planned trials, reference trials included")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow store or server (default: ./mlflow.db)")
    parser.add_argument("--max-concurrent", type=_at_least_one, metavar="N", help="trials at once")
    parser.add_argument("--gpus-per-trial", type=_share, metavar="F", help="GPUs of one trial, fractions included")
    parser.add_argument("--folder", default="lsx-studies", metavar="DIR", help="of all studies (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="set an earlier study of this name aside, start over")
    return parser


def _run(args: argparse.Namespace) -> int:
    from lsx.study.display import Display
    from lsx.study.spec import load

    spec = load(args.study, args.profile)
    display = Display()
    _say(f"lsx: study {spec.study_name}: loading Ray, Optuna and MLflow", display.console)
    from lsx.study.runner import run

    result = run(
        spec,
        folder=args.folder,
        tracking_uri=args.tracking_uri,
        trials=args.trials,
        max_concurrent=args.max_concurrent,
        gpus_per_trial=args.gpus_per_trial,
        fresh=args.fresh,
        display=display,
        command=_command(without=("--fresh", "--trials")),
    )
    if result.aside:
        _say(f"lsx: the earlier study lies in {result.aside}", display.console)
    if result.status == "interrupted":
        _say(_resume_line(result), display.console)
        return INTERRUPTED
    if result.started == 0:
        _say(
            f"lsx: study {spec.study_name} is complete: {result.finished} of {result.planned} trials; "
            f"extend it with --trials {2 * result.planned}",
            display.console,
        )
    display.console.print(result.report)
    return 0


def _say(line: str, console: Console) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _resume_line(result: "StudyResult") -> str:
    command = _command(without=("--fresh",))
    return f"lsx: interrupted after {result.finished} of {result.planned} trials; continue with: {command}"


def _command(without: tuple[str, ...]) -> str:
    """The running command line less some flags and their values."""
    words: list[str] = []
    value_follows = False
    for word in sys.orig_argv[1:]:
        flag = word.split("=", 1)[0]
        if flag in without:
            value_follows = flag == "--trials" and "=" not in word
        elif value_follows:
            value_follows = False
        else:
            words.append(word)
    return f"python {shlex.join(words)}"


def _at_least_one(text: str) -> int:
    value = _number(text, int)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return int(value)


def _share(text: str) -> float:
    value = _number(text, float)
    if not (0 <= value < 1 or value == int(value)):
        raise argparse.ArgumentTypeError(f"{text} must be between 0 and 1, or a whole number of GPUs")
    return value


def _number(text: str, kind: type[int] | type[float]) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0 and below 1,000,000")
    return value
