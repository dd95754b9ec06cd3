"""What must hold at the end of a study, whatever happened to it on the way."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow import MlflowClient

from tests.chaos.study import NAME, Study, front, table
from tests.chaos.trials import EPOCHS

ENDINGS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


def check(
    study: Study, reference: Sequence[Any] | None = None, failed: Mapping[int, str] | None = None, planned: int = 0
) -> list[str]:
    """The violated invariants, one line each; none is how it should be.

    Args:
        study: has come to its end.
        reference: trials of the same study without a fault; what came out must be the same.
        failed: trials that must have failed, and words of their reasons.
        planned: trials; those of the study file by default.
    """
    found, everything = study.trials(), _runs(study)
    runs = [run for run in everything if run.data.tags["lsx.study"] == study.identity]
    return [
        *_counts(found, runs, planned or study.planned),
        *_states(found, runs, failed or {}),
        *(f"run {run.info.run_name} is RUNNING" for run in everything if run.info.status == "RUNNING"),
        *_configurations(found),
        *(line for trial in found for line in _starts(study, trial)),
        *_histories(study, found, runs),
        *(_same(found, reference) if reference is not None else []),
    ]


def interrupted(study: Study) -> list[str]:
    """What is wrong with the runs of a study that was asked to stop; none is how it should be."""
    states = {trial.number: trial.state.name for trial in study.trials()}
    wrong = []
    for run in _runs(study):
        number = int(run.data.tags["lsx.trial"]) if _is_child(run) else None
        if number is not None and states.get(number) != "RUNNING":
            continue
        if run.info.status != "KILLED":
            wrong.append(f"run {run.info.run_name} is {run.info.status} after an interruption")
        if number is not None and run.data.tags["lsx.status"] != "interrupted":
            wrong.append(f"run {run.info.run_name} says {run.data.tags['lsx.status']} after an interruption")
    return wrong


def tag(study: Study, name: str) -> str:
    """A tag of the study's run."""
    return next((str(run.data.tags.get(name, "")) for run in _runs(study) if not _is_child(run)), "")


def _runs(study: Study) -> list[Any]:
    client = MlflowClient(tracking_uri=study.uri)
    experiment = client.get_experiment_by_name(NAME)
    return list(client.search_runs([experiment.experiment_id], max_results=1000)) if experiment else []


def _is_child(run: Any) -> bool:
    return "mlflow.parentRunId" in run.data.tags


def _counts(found: Sequence[Any], runs: Sequence[Any], planned: int) -> Iterator[str]:
    """As many trials as planned, and to each one run below the one study's run."""
    if len(found) != planned:
        yield f"{len(found)} trials of {planned} planned"
    parents = [run for run in runs if not _is_child(run)]
    if len(parents) != 1:
        yield f"{len(parents)} runs of the study"
    numbers = Counter(int(run.data.tags["lsx.trial"]) for run in runs if _is_child(run))
    if numbers != Counter(trial.number for trial in found):
        yield f"runs by trial: {dict(sorted(numbers.items()))}"
    known = {parent.info.run_id for parent in parents}
    yield from (
        f"trial {run.data.tags['lsx.trial']}'s run lies below another one"
        for run in runs
        if _is_child(run) and run.data.tags["mlflow.parentRunId"] not in known
    )
    by_trial = {int(run.data.tags["lsx.trial"]): run.info.run_id for run in runs if _is_child(run)}
    for trial in found:
        noted = trial.user_attrs.get("run_id")
        if noted is not None and noted != by_trial.get(trial.number):
            yield f"trial {trial.number} names the run {noted}, which is not its own"


def _states(found: Sequence[Any], runs: Sequence[Any], failed: Mapping[int, str]) -> Iterator[str]:
    """Nothing is left running, Optuna and MLflow agree, and what failed is what had to."""
    by_trial = {int(run.data.tags["lsx.trial"]): run for run in runs if _is_child(run)}
    for trial in found:
        state = trial.state.name
        if state not in ENDINGS:
            yield f"trial {trial.number} is {state}"
        elif trial.number in by_trial and by_trial[trial.number].info.status != ENDINGS[state]:
            yield f"trial {trial.number} is {state}, its run {by_trial[trial.number].info.status}"
        if (state == "FAIL") != (trial.number in failed):
            yield f"trial {trial.number} is {state}: {trial.user_attrs.get('reason')}"
        elif state == "FAIL" and failed[trial.number] not in trial.user_attrs["reason"]:
            yield f"trial {trial.number} failed for another reason: {trial.user_attrs['reason']}"
    yield from (f"the study's run is {run.info.status}" for run in runs if not _is_child(run) and not _ended(run))


def _ended(run: Any) -> bool:
    return bool(run.info.status == "FINISHED")


def _configurations(found: Sequence[Any]) -> Iterator[str]:
    known = Counter(config for config, _ in table(list(found)).values())
    yield from (f"{count} trials have the configuration {config}" for config, count in known.items() if count > 1)


def _starts(study: Study, trial: Any) -> Iterator[str]:
    """No start behind what the driver has taken note of; not more than one epoch again; none after the end."""
    number, trained, kept = trial.number, 0, [0, 0]
    noted = study.noted(number)
    for one in noted:
        if "start" in one:
            if one["start"] < kept:
                yield f"trial {number} began at {one['start']}, although {kept} was kept"
            if one["start"][0] < trained - 1:
                yield f"trial {number} began at {one['start']}, although {trained} epochs were trained"
        trained, kept = max(trained, one.get("trained", 0)), max(kept, one.get("kept", [0, 0]))
    if trial.state.name == "COMPLETE" and trained != EPOCHS:
        yield f"trial {number} is complete after {trained} epochs"
    starts = study.starts(number)
    if starts > study.finished.get(number, starts):
        yield f"trial {number} was finished after {study.finished[number]} starts, and has {starts} now"


def _histories(study: Study, found: Sequence[Any], runs: Sequence[Any]) -> Iterator[str]:
    """Every step once, in order; the curves of a complete trial are whole."""
    client = MlflowClient(tracking_uri=study.uri)
    complete = {trial.number for trial in found if trial.state.name == "COMPLETE"}
    for run in runs:
        name = f"trial {run.data.tags['lsx.trial']}" if _is_child(run) else "the study"
        curve: list[int] = []
        for key in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, key)
            steps = [one.step for one in sorted(history, key=lambda one: (one.timestamp, one.step))]
            if steps != sorted(set(steps)):
                yield f"{name} has {key} at the steps {steps}"
            curve += steps if key.endswith("/loss") else []
        if _is_child(run) and sorted(curve) != list(range(1, len(curve) + 1)):
            yield f"{name} has its loss at the steps {sorted(curve)}"
        if _is_child(run) and int(run.data.tags["lsx.trial"]) in complete:
            if len(curve) != EPOCHS:
                yield f"{name} is complete with {len(curve)} of {EPOCHS} epochs"
            if "final/accuracy" not in run.data.metrics:
                yield f"{name} is complete without its final figures"


def _same(found: Sequence[Any], reference: Sequence[Any]) -> Iterator[str]:
    if front(list(found)) != front(list(reference)):
        yield "the front is not that of an undisturbed study"
    ours, theirs = table(list(found)), table(list(reference))
    yield from (
        f"trial {number} is not that of an undisturbed study" for number in theirs if ours.get(number) != theirs[number]
    )
