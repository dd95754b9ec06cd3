"""``python -m lsx``: one run in the foreground, and the data it needs."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lsx.config import Config, settings
from lsx.errors import ConfigError, LSXError
from lsx.yamlfile import YAMLFault, load_plain

USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; a user's mistake is one line on stderr and status 2."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except LSXError as error:
        print(f"lsx: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("lsx: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    from lsx import cli_data

    parser = argparse.ArgumentParser(prog="lsx", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="{train,data}")
    train = subparsers.add_parser(
        "train",
        help="train one learner, score it on validation images, keep everything",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("--config", metavar="FILE", help="YAML of settings; defaults where it is silent")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, e.g. loss.lambda_e=10; repeatable"
    )
    train.add_argument("--out", default="lsx-run", metavar="DIR", help="where results go (default: %(default)s)")
    train.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    train.set_defaults(run=run_train)
    cli_data.add_parser(subparsers)
    return parser


def _settings_help() -> str:
    """Every setting with its default and meaning, from the configuration itself."""
    lines = ["settings (for --config and --set):"]
    for key, field in settings().items():
        default = field.get_default(call_default_factory=True)
        shown = ", ".join(default) if isinstance(default, tuple) else default
        lines.append(f"  {key:34} {shown!s:18} {field.description or ''}".rstrip())
    return "\n".join(lines)


def run_train(args: argparse.Namespace) -> int:
    """``lsx train``: a run that ends with its validation metrics, or with the line that continues it."""
    # Imported late: help and mistakes in flags need no torch.
    from lsx import Progress, Report, Trainer, load_data
    from lsx.metrics import evaluate_with_reasons
    from lsx.training import checkpoint

    out, console = Path(args.out), Console(stderr=True)
    state, config = _start(args, out)
    dataset = load_data(config)
    console.print(f"[bold]lsx train[/]: {dataset.provenance['description']}, {len(dataset.train)} training images")
    with Progress(console) as progress:

        def report(epoch: Report) -> None:
            progress(epoch)
            checkpoint.save(epoch.checkpoint(), out / "checkpoint.pt")

        trainer = Trainer.resume(state, dataset, report) if state else Trainer(config, dataset, report)
        _prepare(out, config)
        try:
            learner = trainer.run()
        except KeyboardInterrupt:
            console.print(_continuation(out))
            return INTERRUPTED
    evaluation = evaluate_with_reasons(learner, trainer.dataset, "validation", config)
    _finish(out, evaluation.values, evaluation.reasons)
    Console().print(_table(evaluation.values))
    for name, reason in evaluation.reasons.items():
        console.print(f"{name}: {reason}", markup=False, style="dim")
    console.print(f"in [bold]{out}/[/]: config.yaml, checkpoint.pt, metrics.json")
    return 0


def _start(args: argparse.Namespace, out: Path) -> tuple[dict[str, Any] | None, Config]:
    """The state to continue from, if asked to, and the configuration."""
    from lsx.training import checkpoint

    if args.resume:
        if args.config or args.set:
            raise ConfigError("--resume continues with the checkpoint's own settings; leave out --config and --set")
        state = checkpoint.load(out / "checkpoint.pt")
        return state, Config.build(state["config"])
    if (out / "checkpoint.pt").exists():
        raise ConfigError(
            f"--out {str(out)!r} holds a run already; add --resume to continue it, or choose another --out"
        )
    config = Config.load(args.config) if args.config else Config()
    return None, config.replace(dict(_assignment(text) for text in args.set))


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text!r} must be KEY=VALUE, e.g. loss.lambda_e=10")
    try:
        return key, load_plain(value)
    except YAMLFault as fault:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML: {fault.reason}") from None


def _prepare(out: Path, config: Config) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        config.save(out / "config.yaml")
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise ConfigError(f"--out {str(out)!r} cannot be written: {error}") from None


def _continuation(out: Path) -> str:
    if (out / "checkpoint.pt").exists():
        return f"interrupted; continue with: python -m lsx train --resume --out {out}"
    return "interrupted before the first epoch ended; nothing to continue from"


def _finish(out: Path, scores: dict[str, float], reasons: dict[str, str]) -> None:
    """metrics.json: numbers, null where a metric is not defined, and why."""
    plain = {name: None if math.isnan(value) else value for name, value in scores.items()}
    (out / "metrics.json").write_text(json.dumps(plain | {"reasons": reasons}, indent=1))


def _table(scores: dict[str, float]) -> Table:
    from lsx.metrics import METRICS

    table = Table("metric", "validation", "better", "meaning", box=None, pad_edge=False)
    for name, value in scores.items():
        metric = METRICS[name]
        table.add_row(name, f"{value:.4f}", "↑" if metric.direction == "maximize" else "↓", metric.meaning)
    return table
