"""A run's folder: what is in it, when it is written, and what a resumed run finds."""

import contextlib
import itertools
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsx.config import Config
from lsx.errors import ConfigError

CONTENTS = "config.yaml, checkpoint.pt, metrics.json, history.jsonl, explanations.png (and .pt), run.json"


class RunFolder:
    """One run's files.

    Attributes:
        path: the folder.
        config, checkpoint, metrics, history, picture: its files.
        memory: how the run was started and where it is tracked, plain data; kept by :meth:`remember`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.checkpoint = self.path / "checkpoint.pt"
        self.metrics = self.path / "metrics.json"
        self.history = self.path / "history.jsonl"
        self.picture = self.path / "explanations.png"
        self._run = self.path / "run.json"
        self.memory: dict[str, Any] = {}

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return self.checkpoint.exists() or self.config.exists()

    def recall(self) -> None:
        """Read what an earlier start of this run remembered; without it, the run goes on untracked."""
        try:
            content = json.loads(self._run.read_text())
        except (OSError, ValueError):
            content = {}
        self.memory = content if isinstance(content, dict) else {}

    def begin(self, config: Config) -> None:
        """Make the folder and keep the configuration, from which alone the run can be resumed.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            part = self.path / f".config.{os.getpid()}"
            config.save(part)
            part.replace(self.config)
        except (OSError, ValueError) as error:  # ValueError: a null character
            raise ConfigError(f"--out {str(self.path)!r} cannot be written: {error}") from None
        self.remember()

    def remember(self, **more: Any) -> None:
        """Add to :attr:`memory` and keep it."""
        self.memory |= more
        replace_text(self._run, json.dumps(self.memory, indent=1))

    def rewind(self, position: int) -> None:
        """Drop the history after an epoch, counted over all stages, and a line that was cut."""
        kept = []
        for line in self.history.read_text().splitlines() if self.history.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["position"] <= position:
                kept.append(f"{line}\n")
        if kept or self.history.exists():
            replace_text(self.history, "".join(kept))

    def append(self, row: Mapping[str, Any]) -> None:
        """One epoch to the history.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            with self.history.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise ConfigError(f"{str(self.history)!r} cannot be written: {error}") from None

    def continuation(self) -> str:
        """The command that continues this run."""
        program = "lsx" if Path(sys.argv[0]).name == "lsx" else "python -m lsx"
        return f"{program} train --resume --out {shlex.quote(str(self.path))}"


@dataclass
class Order:
    """What a command line asks for: settings, where the run lies, and the state to continue from."""

    config: Config
    folder: RunFolder
    state: dict[str, Any] | None = None

    @property
    def position(self) -> int:
        """Finished epochs."""
        return 0 if self.state is None else int(self.state["position"])


def board(logdir: str, name: str, before: str | None = None) -> str:
    """The folder of a run's TensorBoard events, absolute: that of an earlier start, else one without another's events.

    Args:
        logdir: the folder of all runs.
        name: of the run, as one part of a path.
        before: where this run wrote when it was started earlier.
    """
    base = Path(logdir).absolute()
    if before is not None and Path(before).parent == base:
        return before
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return str(next(base / one for one in names if not any((base / one).glob("events.out.tfevents.*"))))


def absolute_uri(uri: str) -> str:
    """A SQLite URI that means the same file from every folder; others as they are."""
    path = uri.removeprefix("sqlite:///")
    return uri if path in (uri, "", ":memory:") else f"sqlite:///{Path(path).absolute()}"


def checkpoint_of(path: str) -> str:
    """The checkpoint that a path means: itself, or that of a run's folder."""
    return str(RunFolder(path).checkpoint) if Path(path).is_dir() else path


def replace_text(path: Path, text: str) -> None:
    """Write a text whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text)
        part.replace(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error}") from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            part.unlink(missing_ok=True)


def plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for JSON, which has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}
