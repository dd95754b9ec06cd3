"""Studies that have been run, found in their folder and read without holding anybody up."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from lsx.errors import StudyError, unknown
from lsx.study.declared.spec import StudySpec, load
from lsx.study.environment.folder import StudyFolder
from lsx.study.search import optunastore
from lsx.study.search.ledger import view


@dataclass(frozen=True)
class Past:
    """A study as it stands.

    Attributes:
        spec: as it was last declared.
        folder: its folder; the lock is not held.
        study: Optuna's view, in memory, with late findings.
    """

    spec: StudySpec
    folder: StudyFolder
    study: optuna.Study

    @property
    def counts(self) -> Counter[str]:
        """Trials by state, in lower case."""
        return Counter(trial.state.name.lower() for trial in self.study.get_trials(deepcopy=False))

    @property
    def seconds(self) -> float:
        """For which drivers have run it."""
        return float(self.study.user_attrs.get("seconds_used", 0.0))

    @property
    def touched(self) -> str:
        """When something last happened, as local time."""
        journal = self.folder.journal if self.folder.journal.exists() else self.folder.path
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(journal.stat().st_mtime))

    def trial(self, number: int) -> FrozenTrial:
        """One trial.

        Raises:
            StudyError: there is none of that number.
        """
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            valid = f"0 to {len(trials) - 1}" if trials else "none"
            raise StudyError(f"study {self.spec.name!r} has no trial {number}; valid: {valid}")
        return trials[number]


def names(root: str | Path) -> list[str]:
    """Of the studies below a folder, the last touched first."""
    found = [path for path in Path(root).glob("*") if (path / "study.yaml").is_file()]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def open_past(root: str | Path, name: str, optuna_storage: str | None = None) -> Past:
    """A study that was started.

    Args:
        root: folder of all studies.
        name: of the study, profile included (``decoy_mnist-quick``).
        optuna_storage: URL of its database, where the noted one had credentials.

    Raises:
        StudyError: there is none of that name, or it cannot be read.
    """
    folder = StudyFolder(root, name)
    if not names(root):
        raise StudyError(f"unknown study {name!r}: no study was run in {str(root)!r}; --folder names another folder")
    if name not in names(root):
        raise StudyError(f"{unknown('study', name, names(root))} (those that were run, in {str(root)!r})")
    known: dict[str, Any] = dict(folder.surroundings)
    url = optuna_storage or known.get("optuna_storage")
    if url is not None and "***" in url and optuna_storage is None:
        raise StudyError(f"the study's Optuna storage is {url!r}; give --optuna-storage, with its credentials")
    spec = load(folder.path / "study.yaml")
    stored = known.get("optuna_study", spec.study_name)  # one that was set aside has another name than its folder
    return Past(spec, folder, view(optunastore.load_study(stored, folder.journal, url)))


def all_past(root: str | Path) -> Iterator[tuple[str, Past | StudyError]]:
    """Every study below a folder, or why it cannot be read."""
    for name in names(root):
        try:
            yield name, open_past(root, name)
        except StudyError as error:
            yield name, error
