"""What a trial takes along from checkpoint to checkpoint: a folder that any node can go on from."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ray import tune

from lsx.errors import CheckpointError
from lsx.study.environment.places import CHECKPOINT, DONE, download, learner_file
from lsx.study.worker import repeats
from lsx.training import checkpoint


@dataclass(frozen=True)
class Seeded:
    """One finished seed of a trial.

    Attributes:
        seed: its number.
        metrics: final validation metrics by name; NaN where there is none.
        reasons: why some are NaN or leave samples out.
        curves: rows of ``stage``, ``position`` and ``metrics``, some hundred over all stages.
    """

    seed: int
    metrics: Mapping[str, float]
    reasons: Mapping[str, str]
    curves: list[dict[str, Any]]


class Luggage:
    """A trial's files in the worker.

    Attributes:
        folder: holds the running seed's training state, the finished seeds' learners and figures, and the pictures.
        done: seeds that are finished, in order.
        state: of the running seed; None when it begins, or when seeds train together.
        curves: of the running seed, as of its state.
        states: of all seeds, in order, when they train together; else empty.
        all_curves: of each of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[Seeded] = []
        self.curves: list[dict[str, Any]] = []
        self.state: dict[str, Any] | None = None
        self.states: list[dict[str, Any]] = []
        self.all_curves: list[list[dict[str, Any]]] = []
        with contextlib.suppress(OSError, ValueError, TypeError):
            known = json.loads((folder / DONE).read_text())
            self.done = [Seeded(**one) for one in known["done"]]
            self.curves = known["curves"]
            self.all_curves = known.get("together", [])
        with contextlib.suppress(CheckpointError):
            self.state = checkpoint.load(folder / CHECKPOINT)
        if self.state is None:
            self.curves = []
        with contextlib.suppress(CheckpointError):
            self.states = [checkpoint.load(folder / running_file(index)) for index in range(len(self.all_curves))]
        if not self.states:
            self.all_curves = []

    @classmethod
    @contextmanager
    def unpacked(cls, assigned: str | None) -> Iterator[Self]:
        """A folder with what the last checkpoint holds; gone at the end.

        Tune's own checkpoint, after a crash of the worker, is newer than the ``assigned`` one (a path or URI), which
        an earlier driver left. One that cannot be read costs time only.
        """
        with tempfile.TemporaryDirectory(prefix="lsx-trial-") as made:
            newest = tune.get_checkpoint()
            with contextlib.suppress(OSError):
                if newest is not None:
                    newest.to_directory(made)
                elif assigned is not None:
                    download(assigned, Path(made))
            yield cls(Path(made))

    def keep(self, state: dict[str, Any], curves: list[dict[str, Any]]) -> None:
        """The running seed's state and its curves so far."""
        checkpoint.save(state, self.folder / CHECKPOINT)
        self.curves = curves
        self._write()

    def keep_all(self, states: Sequence[dict[str, Any]], curves: Sequence[list[dict[str, Any]]]) -> None:
        """The states of seeds that train together, and their curves so far."""
        for index, state in enumerate(states):
            checkpoint.save(state, self.folder / running_file(index))
        self.states, self.all_curves = list(states), list(curves)
        self._write()

    def finish(self, seeded: Seeded, state: dict[str, Any]) -> None:
        """The next seed is done; its learner stays, as a checkpoint without what only training needs."""
        slim = {**state, "optimizer": {}, "random": {}, "teacher": None}
        checkpoint.save(slim, self.folder / learner_file(len(self.done)))
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        self.done.append(seeded)
        self.state, self.curves = None, []
        if len(self.done) >= len(self.states):  # those that are trained, and not evaluated yet, need all of them
            for index in range(len(self.states)):
                (self.folder / running_file(index)).unlink(missing_ok=True)
            self.states, self.all_curves = [], []
        self._write()

    def packed(self) -> Any:
        """What Tune takes to the study's storage."""
        return tune.Checkpoint.from_directory(self.folder)

    def summary(self) -> dict[str, Any]:
        """The final report: means and single values of all seeds, reasons, and mean curves."""
        values = {
            name: [one.metrics.get(name, float("nan")) for one in self.done]
            for name in dict.fromkeys(name for one in self.done for name in one.metrics)
        }
        reasons: dict[str, str] = {}
        for one in self.done:
            reasons = {**one.reasons, **reasons}
        return {
            "final": {name: repeats.mean(found) for name, found in values.items()},
            "seeds": values,
            "reasons": reasons,
            "curves": repeats.mean_curves([one.curves for one in self.done]) if len(self.done) > 1 else [],
        }

    def _write(self) -> None:
        content = {"done": [asdict(one) for one in self.done], "curves": self.curves, "together": self.all_curves}
        (self.folder / DONE).write_text(json.dumps(content))


def running_file(index: int) -> str:
    """Name of the training state of one of the seeds that train together."""
    path = Path(CHECKPOINT)
    return f"{path.stem}-{index}{path.suffix}"
