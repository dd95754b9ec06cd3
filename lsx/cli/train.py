"""``lsx train``: one run in the foreground that loses nothing when it is stopped."""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lsx.cli.flags import Formatter, add_settings, given_settings, layered
from lsx.cli.folder import CONTENTS, Order, RunFolder, absolute_uri, board, checkpoint_of, plain, replace_text
from lsx.cli.interrupts import Interrupts
from lsx.cli.spellings import IGNORED, MODES
from lsx.config import Config
from lsx.errors import ConfigError, unknown

INTERRUPTED = 130
RUNS = "lsx-runs"
DEFAULT_MODE = "pretrain_and_joint_and_finetuning"
EXPLANATIONS = "expls"
LOOKING = ("test", "faithfulness", "save_expls")
EPILOG = """\
training modes:
  only_classification                 stage 1: pretrain
  joint                               stage 2, from new weights or from those of --model_pt
  pretrain_and_joint                  stages 1 and 2
  pretrain_and_joint_and_finetuning   all three (the default)
  finetuning                          stage 3, with the joint model of --model_pt
  test, faithfulness, save_expls      no training: look at --model_pt on test images

With --model_pt, settings are those of the checkpoint where no file and no flag says otherwise. In mode
only_classification, --n_epochs is pretraining's where --n_pretraining_epochs is not given; --learning_rate
is joint training's and has no effect there, --pretrain_learning_rate has.
A setting given twice with different values is refused. Underscores and dashes in flags mean the same.

examples:
  lsx train --dataset decoy_mnist --explanation_loss_weight 10 --out run
  lsx train --training_mode pretrain_and_joint --n_epochs 50 --run_name pj
  lsx train --training_mode finetuning --model_pt lsx-runs/pj
  lsx train --resume --out run
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand ``train``; its ``run`` default takes the parsed arguments."""
    parser = subparsers.add_parser(
        "train",
        usage="lsx train [--training_mode MODE] [--out DIR] [settings]\n       lsx train --resume --out DIR",
        help="train one learner, score it on validation images, keep everything",
        description="Train one learner, score it on validation images, keep everything in one folder.\n"
        "Ctrl-C at any moment leaves a checkpoint and prints the line that continues.",
        epilog=EPILOG,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    modes = ", ".join([*MODES, *LOOKING])
    parser.add_argument("--training-mode", metavar="MODE", help=f"{modes} (default: {DEFAULT_MODE})")
    parser.add_argument("--run-name", metavar="NAME", help="default: --out's last part, or <dataset>-<mode>-seed<seed>")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help=f"the run's folder (default: {RUNS}/<run name>; without training, the checkpoint's)",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out; it keeps its settings")
    trackers = parser.add_argument_group("tracking", "both may be on; a resumed run goes on where it was tracked")
    trackers.add_argument(
        "--logdir", metavar="DIR", help="TensorBoard: curves, explanations, settings, in DIR/<run name>"
    )
    trackers.add_argument("--tracking-uri", metavar="URI", help="MLflow: a server, or e.g. sqlite:///mlflow.db")
    trackers.add_argument("--experiment", metavar="NAME", help="MLflow experiment (default: lsx)")
    add_settings(parser)
    logging = parser.add_argument_group("the authors' logging", "taken, and without effect")
    for flag, valued in IGNORED.items():
        if valued:
            logging.add_argument(flag, metavar="N", action="append", dest="ignored", default=[], help="ignored")
        else:
            logging.add_argument(flag, action="append_const", const=flag, dest="ignored", default=[], help="ignored")
    parser.add_argument("--vanilla-model-pt", metavar="CKPT", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status.

    Raises:
        LSXError: a user's mistake, before anything is written, or a run that diverged.
    """
    if args.training_mode not in (None, *MODES, *LOOKING):
        raise ConfigError(unknown("training mode", args.training_mode, [*MODES, *LOOKING]))
    if args.vanilla_model_pt is not None:
        raise ConfigError(
            "--vanilla_model_pt is not taken: `lsx evaluate CKPT CKPT` and `lsx explain CKPT CKPT` compare checkpoints"
        )
    if args.ignored:
        _say("logging flags are ignored: the run's folder keeps its history, --logdir and --tracking-uri track it")
    with Interrupts() as interrupts:
        if args.training_mode in LOOKING:
            return _look(args)
        order = _resumed(args) if args.resume else _begun(args)
        try:
            return _run(order, interrupts)
        except KeyboardInterrupt:
            if not order.folder.holds_run:  # settings alone are enough to continue from
                order.folder.begin(order.config)
            print(f"lsx: interrupted; continue with: {order.folder.continuation()}", file=sys.stderr)
            return INTERRUPTED


def _begun(args: argparse.Namespace) -> Order:
    """A new run."""
    start, mode = given_settings(args).get("start"), args.training_mode
    if start is not None and mode is None:
        raise ConfigError("--model_pt needs --training_mode: joint, finetuning, test, faithfulness or save_expls")
    state = None if start is None else _opened(start)
    base = {} if state is None else _settings_of(state) | {"start": start}
    config = layered(args, base, mode)
    if start is not None:
        config = config.replace({"start": checkpoint_of(start)})
    default = f"{_word(config.data.dataset)}-{mode or _mode(config)}-seed{config.seed}"
    name = args.run_name or (Path(args.out).resolve().name if args.out else "") or default
    folder = RunFolder(args.out or Path(RUNS) / _word(name))
    if folder.holds_run:
        raise ConfigError(
            f"--out {str(folder.path)!r} holds a run already; add --resume to continue it, or choose another --out"
        )
    folder.memory = {"name": name} | _tracking(args, name)
    if mode == "finetuning" and state is not None and state["stage"] == "pretrain":
        _say(f"no critic has taught {start!r} to explain, it was trained on classification only")
    return Order(config, folder)


def _resumed(args: argparse.Namespace) -> Order:
    """A run that was begun."""
    from lsx.training import checkpoint

    changes = given_settings(args)
    if args.config or args.training_mode or changes.keys() - {"device"}:
        raise ConfigError(
            "--resume continues with the run's own settings; leave out --config, --set and all settings but --device"
        )
    if not args.out and not args.run_name:
        raise ConfigError("--resume needs --out, the folder of the run")
    folder = RunFolder(args.out or Path(RUNS) / _word(args.run_name))
    if not folder.checkpoint.exists() and folder.config.exists():
        config, state = Config.load(folder.config).replace(changes), None
    else:
        state = checkpoint.load(folder.checkpoint)
        config = Config.build(state["config"], changes)
        state["config"] = config.plain()
    folder.recall()
    name = folder.memory.setdefault("name", folder.path.name)
    # The same store as before keeps its run.
    for key, place in _tracking(args, name, folder.memory.get("logdir")).items():
        known = folder.memory.get(key)
        folder.memory[key] = known | place if isinstance(known, dict) and known["uri"] == place["uri"] else place
    return Order(config, folder, state)


def _opened(path: str) -> dict[str, Any]:
    from lsx.training import checkpoint

    return checkpoint.load(checkpoint_of(path))


def _settings_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a checkpoint."""
    return dict(Config.build(state["config"]).plain())


def _tracking(args: argparse.Namespace, name: str, before: str | None = None) -> dict[str, Any]:
    """Where a run is tracked, as its folder remembers it; ``before`` is its TensorBoard folder so far."""
    if args.experiment and not args.tracking_uri:
        raise ConfigError(f"--experiment {args.experiment!r} is MLflow's; it needs --tracking-uri")
    found: dict[str, Any] = {}
    if args.logdir:
        found["logdir"] = board(args.logdir, _word(name), before)
    if args.tracking_uri:
        found["mlflow"] = {"uri": absolute_uri(args.tracking_uri), "experiment": args.experiment or "lsx"}
    return found


def _run(order: Order, interrupts: Interrupts) -> int:
    # Imported late: help and mistakes in flags need no torch.
    from rich.console import Console

    from lsx import load_data, metrics
    from lsx.cli.keeper import Keeper
    from lsx.progress import Progress

    config, folder, console = order.config, order.folder, Console(stderr=True)
    if folder.metrics.exists() and order.position >= _planned(config):
        print(f"lsx: the run in {folder.path} is complete; its metrics are in {folder.metrics}")
        return 0
    metrics.select(config.evaluation.metrics)  # an unknown metric is refused before the training, not after it
    dataset = load_data(config)
    with Progress(console) as progress:
        keeper = Keeper(order, dataset, progress)
        ending: Literal["FINISHED", "KILLED", "FAILED"] = "FAILED"
        try:
            learner = keeper.train(interrupts)
            console.print("lsx train: scoring validation images", highlight=False)
            found = metrics.evaluate_with_reasons(learner, keeper.dataset, "validation", config)
            replace_text(folder.metrics, json.dumps(plain(found.values) | {"reasons": found.reasons}, indent=1))
            keeper.tell("final", found.values, found.reasons)
            ending = "FINISHED"
        except KeyboardInterrupt:
            ending = "KILLED"
            raise
        finally:
            keeper.tell("close", ending)
    _show(found.values, found.reasons, folder)
    return 0


def _look(args: argparse.Namespace) -> int:
    """The modes that do not train."""
    from lsx.cli.evaluate import evaluate
    from lsx.cli.explain import explain

    flags = given_settings(args)
    path, mode = flags.pop("start", None), args.training_mode
    if path is None:
        raise ConfigError(f"--training_mode {mode} needs --model_pt, the checkpoint of a learner")
    if args.resume or args.logdir or args.tracking_uri:
        raise ConfigError(f"--training_mode {mode} does not train; leave out --resume, --logdir and --tracking-uri")
    config = layered(args, _settings_of(_opened(path)), None)
    overrides = config.plain()
    if mode == "save_expls":
        out = _beside(args, path, EXPLANATIONS)
        return explain([path], out, overrides, split="test", count=config.evaluation.max_images)
    chosen = ("faithfulness",) if mode == "faithfulness" else config.evaluation.metrics
    return evaluate([path], overrides, "test", chosen, _beside(args, path, f"{mode}.json"))


def _beside(args: argparse.Namespace, path: str, name: str) -> Path:
    """Where a mode that does not train writes: beside its checkpoint, so that no other one's results are there."""
    if args.out or args.run_name:
        folder = Path(args.out or Path(RUNS) / _word(args.run_name))
        return folder if name == EXPLANATIONS else folder / name
    file = Path(checkpoint_of(path))
    return file.with_name(name if file.name == "checkpoint.pt" else f"{file.stem}-{name}")


def _say(line: str) -> None:
    print(f"lsx: {line}", file=sys.stderr)


def _planned(config: Config) -> int:
    return sum(int(getattr(config, stage).epochs) for stage in config.stages)


def _mode(config: Config) -> str:
    """The mode that has a configuration's stages, else their names."""
    return next((mode for mode, stages in MODES.items() if stages == config.stages), "_".join(config.stages))


def _word(text: str) -> str:
    """A text as one part of a path."""
    return re.sub(r"[^\w.+=-]+", "-", text).strip(".-") or "run"


def _show(values: Mapping[str, float], reasons: Mapping[str, str], folder: RunFolder) -> None:
    from lsx.cli.evaluate import Column, show

    show([Column("validation", values, reasons)])
    print(f"in {folder.path}/: {CONTENTS}")
    print("`lsx evaluate --list` says what the metrics mean")
    if place := folder.memory.get("logdir"):
        print(f"TensorBoard: tensorboard --logdir {shlex.quote(str(Path(place).parent))}")
    if store := folder.memory.get("mlflow"):
        from lsx.study.tracked.tracking import ui_line

        print(f"MLflow: {ui_line(store['uri'])}")
