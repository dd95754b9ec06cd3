"""The end of a study: its front, tested once, chosen from, drawn and tagged. Safe to repeat."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from lsx import data, figures, metrics
from lsx.config import Config
from lsx.errors import CheckpointError, ConfigError, DataError
from lsx.study import results
from lsx.study.folder import CHECKPOINT
from lsx.study.recorder import Recorder
from lsx.study.spec import StudySpec
from lsx.training import load_learner
from lsx.training.device import resolve_device


def conclude(
    recorder: Recorder, say: Callable[[str], None], check: Callable[[], None], ui_line: str, command: str | None = None
) -> Any:
    """Test, choose, draw and tag; end the study's run.

    Args:
        recorder: no trial is left to run.
        say: shows what is happening.
        check: called between two steps; may raise to interrupt.
        ui_line: command that opens MLflow's UI.
        command: what continues the study in a shell.

    Returns:
        What to show a person at the end.
    """
    ledger, tracker, folder = recorder.ledger, recorder.tracker, recorder.folder
    spec, view = ledger.spec, ledger.view()
    front, first = results.front(view, spec), results.baseline(view, spec)
    kept = {trial.number: trial for trial in (*front, *([first] if first else []))}
    for trial in kept.values():
        if "test" not in trial.user_attrs:
            check()
            say(f"testing trial {trial.number}")
            _test(recorder, trial)
    view = ledger.view()
    check()
    say("writing results")
    _mark(recorder, view, {trial.number for trial in front})
    _drop_checkpoints(recorder, view, kept)
    best = results.write_best(view, spec, folder.path)
    _draw(recorder, view)
    for file in (best, folder.path / "front.png"):
        if file is not None:
            tracker.attach(tracker.parent, file)
    tracker.log(tracker.parent, _summary(view, spec), tags={"lsx.answer": results.answer(view, spec)})
    tracker.end(tracker.parent, "FINISHED")
    return results.closing(view, spec, folder.path, tracker.uri, ui_line, command)


def _test(recorder: Recorder, trial: FrozenTrial) -> None:
    """Measure a trial on the test images, once; a trial whose checkpoint or data is gone stays untested."""
    path = recorder.folder.path / trial.user_attrs.get("checkpoint", CHECKPOINT)
    try:
        config = Config.build(trial.user_attrs["config"])
        dataset = data.load(config).to(resolve_device(config.device))
        learner, _ = load_learner(path, dataset)
    except (CheckpointError, ConfigError, DataError) as error:
        recorder.tracker.log(trial.user_attrs["run_id"], {}, tags={"lsx.untested": error})
        return
    values = metrics.evaluate(learner, dataset, "test", config)
    plain = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    recorder.tracker.log(trial.user_attrs["run_id"], {f"test/{name}": value for name, value in plain.items()})
    recorder.ledger.note_late(trial.number, test=plain)


def _mark(recorder: Recorder, view: Study, front: set[int]) -> None:
    """Tag what is on the front, and give those runs their checkpoint; only what changed since the last time."""
    ledger, tracker = recorder.ledger, recorder.tracker
    before = set(ledger.study.user_attrs.get("front", ()))
    for trial in view.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if (trial.number in before) == (trial.number in front):
            continue
        tracker.log(trial.user_attrs["run_id"], {}, tags={"lsx.front": str(trial.number in front).lower()})
        if trial.number in front:
            tracker.attach(trial.user_attrs["run_id"], recorder.folder.trial(trial.number) / CHECKPOINT)
    ledger.note_study(front=sorted(front))


def _drop_checkpoints(recorder: Recorder, view: Study, kept: Iterable[int]) -> None:
    """Delete the checkpoints of trials that are off the front: more trials never bring them back."""
    kept = set(kept)
    for trial in view.get_trials(deepcopy=False):
        if trial.number not in kept and trial.state.is_finished():
            (recorder.folder.trial(trial.number) / CHECKPOINT).unlink(missing_ok=True)


def _draw(recorder: Recorder, view: Study) -> None:
    """front.png: the first two objectives of all complete trials; nothing where there is one objective only."""
    spec = recorder.ledger.spec
    trials = results.complete(view, spec)
    if len(spec.objectives) < 2 or not trials:
        return
    x, y = (figures.Objective(one.metric.replace("_", " "), one.direction) for one in spec.objectives[:2])
    points = {trial.number: figures.Point(trial.number, trial.values[0], trial.values[1]) for trial in trials}
    first = results.baseline(view, spec)
    figures.front(
        recorder.folder.path / "front.png",
        list(points.values()),
        {trial.number for trial in results.front(view, spec)},
        x,
        y,
        baseline=points[first.number] if first else None,
        baseline_name=spec.baseline or "",
        title=f"{spec.study_name}, validation images",
    )


def _summary(view: Study, spec: StudySpec) -> dict[str, float]:
    """Counts, and the best value of every objective."""
    states = [trial.state for trial in view.get_trials(deepcopy=False)]
    counts = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    summary = {f"trials/{name}": float(states.count(state)) for name, state in counts.items()}
    for index, objective in enumerate(spec.objectives):
        values = [trial.values[index] for trial in results.front(view, spec)]
        if values:
            summary[f"best/{objective.metric}"] = max(values) if objective.direction == "maximize" else min(values)
    return summary
