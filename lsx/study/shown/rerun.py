"""A trial once more, from its configuration alone: does it give the same figures?"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.text import Text
from torch import nn

from lsx import data, metrics
from lsx.config import Config
from lsx.data import Dataset
from lsx.errors import StudyError
from lsx.progress import Progress
from lsx.study.running.recorder import MANIFEST
from lsx.study.shown.archive import Past
from lsx.study.worker.manifest import TOGETHER, compare, differences, manifest
from lsx.training import Trainer
from lsx.training.device import resolve_device
from lsx.training.together import Together

EQUAL, DIFFERENT = 0, 1


def rerun(past: Past, trial: FrozenTrial, console: Console) -> int:
    """Train all seeds of a trial again, here, on as many threads as it had, and say whether its figures come out.

    Returns:
        0 when they do, 1 when they do not.

    Raises:
        StudyError: the trial was not finished, so that there is nothing to compare with.
    """
    recorded = trial.user_attrs.get("seeds")
    if not recorded:
        raise StudyError(f"trial {trial.number} is {trial.state.name.lower()} and has no final metrics to compare with")
    known = _manifest(past, trial.number)
    config = Config.build(trial.user_attrs["config"])
    threads = int(known.get("threads", max(1, int(past.spec.resources.cpus_per_trial))))
    before, here = torch.get_num_threads(), resolve_device(config.device).type
    torch.set_num_threads(threads)
    try:
        together = (known.get("training") or {}).get("seeds") == TOGETHER
        found, now = _train(config, past.spec.repeats, threads, console, together=together)
    finally:
        torch.set_num_threads(before)
    for line in differences(known, now) if known else []:
        console.print(Text(f"lsx: not as then: {line}", style="yellow"), soft_wrap=True)
    return _verdict(trial.number, recorded, found, here, console)


def _train(
    config: Config, count: int, threads: int, console: Console, *, together: bool
) -> tuple[dict[str, list[float]], Mapping[str, Any]]:
    """Final validation metrics by name, a value per seed; and the manifest of this run."""
    dataset = data.load(config).to(resolve_device(config.device))
    seeds = [config.seed + index for index in range(count)]
    found: dict[str, list[float]] = {}
    for seed, learner in zip(seeds, _learners(config, seeds, dataset, console, together=together), strict=True):
        for name, value in metrics.evaluate(learner, dataset, "validation", config.replace({"seed": seed})).items():
            found.setdefault(name, []).append(float(value))
    device, apart = resolve_device(config.device).type, None if together else ""
    return found, manifest(config, dataset.provenance, seeds=seeds, threads=threads, device=device, apart=apart)


def _learners(
    config: Config, seeds: Sequence[int], dataset: Dataset, console: Console, *, together: bool
) -> Iterator[nn.Module]:
    if together:
        console.print(Text(f"lsx: {len(seeds)} seeds together"))
        with Progress(console=console) as progress:
            learners = Together(config, seeds, dataset, lambda reports: progress(reports[0])).run()
        yield from learners
        return
    for index, seed in enumerate(seeds):
        console.print(Text(f"lsx: seed {seed}, {index + 1} of {len(seeds)}"))
        with Progress(console=console) as progress:
            learner = Trainer(config.replace({"seed": seed}), dataset, progress).run()
        yield learner


def _verdict(
    number: int,
    recorded: Mapping[str, Sequence[float]],
    found: Mapping[str, Sequence[float]],
    device: str,
    console: Console,
) -> int:
    result = compare(_by_seed(recorded), _by_seed(found), device)
    count = len(_by_seed(recorded))
    if result.equal:
        how = "exactly" if not result.tolerance else f"within {result.tolerance:.0%}"
        console.print(Text(f"lsx: trial {number}: all {count} final figures came out {how} as recorded", style="green"))
        return EQUAL
    assert result.worst is not None
    name, old, new = result.worst
    text = f"lsx: trial {number} gives other figures: {name} was {old}, and is {new} now"
    console.print(Text(text, style="red"), soft_wrap=True)
    return DIFFERENT


def _by_seed(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {f"{name}, seed {index}": value for name, row in values.items() for index, value in enumerate(row)}


def _manifest(past: Past, number: int) -> Mapping[str, Any]:
    try:
        known: Mapping[str, Any] = json.loads((past.folder.trial(number) / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return known
