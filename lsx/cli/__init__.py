"""``lsx``: train, evaluate and explain in the foreground, and the data it needs."""

import argparse
import difflib
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from lsx.errors import ConfigError, LSXError, unknown

USAGE_ERROR, INTERRUPTED = 2, 130
DESCRIPTION = "Learning by Self-Explaining: train, evaluate and explain in the foreground, and the data for it."
COMMANDS = {
    "train": "train one learner, score it on validation images, keep everything",
    "evaluate": "metrics of checkpoints, side by side",
    "explain": "explanations of checkpoints, as a picture and as arrays",
    "data": "download a dataset, or show one and its splits",
    "doctor": "what is installed and found here, and what a study would use",
}


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """As argparse does, with a suggestion."""
        if action.choices is not None and value not in action.choices:
            kind = "command" if isinstance(action, argparse._SubParsersAction) else f"value of {action.dest}"
            raise ConfigError(unknown(kind, value, action.choices))

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `{self.prog} --help` says more")


def show_all() -> None:
    """Let a terminal that has no λ or ✓ show a question mark there, where Python would end with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: words after the program's name; the process's own by default.

    Returns:
        0; 2 after a user's mistake, which is one line on stderr; 130 when interrupted.
    """
    show_all()
    if os.getcwd() not in sys.path:  # for package.module:Name, as `python -m lsx` has it
        sys.path.append(os.getcwd())
    try:
        from lsx.cli.flags import normalized

        args = _parsed(normalized(sys.argv[1:] if argv is None else argv))
        status: int = args.run(args)
        sys.stdout.flush()
    except LSXError as error:
        print(f"lsx: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("lsx: interrupted; the same command starts again", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # a reader such as head that has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _parsed(words: list[str]) -> argparse.Namespace:
    command = next((word for word in words if not word.startswith("-")), "")
    parser = Parser(prog="lsx", description=DESCRIPTION, epilog="`lsx COMMAND --help` says what each takes.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="{" + ",".join(COMMANDS) + "}")
    for name, meaning in COMMANDS.items():
        if name == command:  # the others' modules need not be imported
            import_module(f"lsx.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=meaning)
    args, unknown = parser.parse_known_args(words)
    if unknown:
        _complain(unknown, command, subparsers.choices[command])
    return args


def _complain(words: list[str], command: str, parser: argparse.ArgumentParser) -> NoReturn:
    """Refuse what no flag or argument takes."""
    word = next((word for word in words if word.startswith("-")), words[0]).partition("=")[0]
    if not word.startswith("-"):
        parser.error(f"unexpected argument {word!r}")
    near = difflib.get_close_matches(word, _flags(parser), n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"unknown flag {word!r}; {hint}`lsx {command} --help` lists all")


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    """All flags of a parser and of the parsers below it."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*(_flags(below) for below in action.choices.values()))
    return found
