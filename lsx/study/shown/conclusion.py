"""The end of a study: its front, tested once, chosen from, drawn, tagged and reported on. Safe to repeat."""

import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from lsx import data, figures, metrics
from lsx.config import Config
from lsx.errors import CheckpointError, ConfigError, DataError
from lsx.study.declared.spec import StudySpec
from lsx.study.environment.credentials import redacted
from lsx.study.environment.folder import StudyFolder
from lsx.study.environment.places import learner_file
from lsx.study.running.recorder import Recorder
from lsx.study.shown import notes, report, results
from lsx.study.shown.archive import Past
from lsx.study.tracked import models
from lsx.study.tracked.tracking import Ending
from lsx.study.tracked.views import NOTE
from lsx.study.worker import repeats
from lsx.training import load_learner
from lsx.training.device import resolve_device

REPORT = "report.html"


def conclude(
    recorder: Recorder,
    say: Callable[[str], None],
    check: Callable[[], None],
    tracking_uri: str,
    ui_line: str,
    command: str | None = None,
    ending: Ending = "FINISHED",
) -> Any:
    """Test, choose, draw, tag and report; end the study's run.

    Args:
        recorder: no trial runs.
        say: shows what is happening.
        check: called between two steps; may raise to interrupt.
        tracking_uri: where results are tracked, for people.
        ui_line: command that opens MLflow's UI.
        command: what continues the study in a shell.
        ending: of the study's run.

    Returns:
        What to show a person at the end.
    """
    ledger, outbox, folder = recorder.ledger, recorder.outbox, recorder.folder
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
    draw_front(view, spec, folder.path / "front.png")
    ledger.note_study(planned=ledger.planned)
    check()
    say("writing the report")
    page = report.write(Past(spec, folder, ledger.view()), folder.path / REPORT)
    for file in (best, folder.path / "front.png", page):
        if file is not None:
            outbox.attach(None, file)
    ends = [one for trial in view.get_trials(deepcopy=False) if (one := _end(trial)) is not None]
    answer = {"lsx.answer": results.answer(view, spec), NOTE: redacted(notes.study(view, spec))}
    outbox.describe_experiment(notes.experiment(view, spec))
    recorder.log_inputs(None, spec.configure({}), ("train", "validation", "test"))
    outbox.log(None, _summary(view, spec), len(ends), answer, at=max(ends, default=None))
    outbox.end(None, ending)
    return results.closing(view, spec, folder.path, tracking_uri, ui_line, command)


def _end(trial: FrozenTrial) -> int | None:
    """When a trial ended, in ms since 1970: a driver that is killed between two steps of this says the same again."""
    return None if trial.datetime_complete is None else int(trial.datetime_complete.timestamp() * 1000)


def _last_step(trial: FrozenTrial) -> int:
    """The last epoch, at which everything final stands: one axis for all of a trial's metrics."""
    return int(trial.user_attrs.get("progress", {}).get("position", 0))


def _test(recorder: Recorder, trial: FrozenTrial) -> None:
    """Measure a trial's learners on the test images, once; if files or data are gone, it stays untested."""
    try:
        found = measure_test(trial, recorder.folder, recorder.ledger.spec.repeats)
    except (CheckpointError, ConfigError, DataError) as error:
        recorder.outbox.log(trial.number, {}, tags={"lsx.untested": redacted(str(error))})
        return
    means = {name: repeats.mean(values) for name, values in found.items()}
    plain = {name: value for name, value in means.items() if math.isfinite(value)}
    logged = plain | repeats.flat(found)
    named = {f"test/{name}": value for name, value in logged.items()}
    recorder.outbox.log(trial.number, named, _last_step(trial), at=_end(trial))
    recorder.log_inputs(trial.number, Config.build(trial.user_attrs["config"]), ("test",))
    recorder.ledger.note_late(trial.number, test=plain, test_seeds=found)


def measure_test(trial: FrozenTrial, folder: StudyFolder, count: int) -> dict[str, list[float]]:
    """Test metrics of a trial's learners, by name, a value per seed.

    Raises:
        CheckpointError, ConfigError, DataError: a learner or the data cannot be had.
    """
    config = Config.build(trial.user_attrs["config"])
    dataset = data.load(config).to(resolve_device(config.device))
    found: dict[str, list[float]] = {}
    for index in range(count):
        learner, _ = load_learner(folder.trial(trial.number) / learner_file(index), dataset)
        own = config.replace({"seed": config.seed + index})
        for name, value in metrics.evaluate(learner, dataset, "test", own).items():
            found.setdefault(name, []).append(float(value))
    return found


def _mark(recorder: Recorder, view: Study, front: set[int]) -> None:
    """Tag what is on the front, and give those runs their learners; only what changed since the last time."""
    ledger, outbox, spec = recorder.ledger, recorder.outbox, recorder.ledger.spec
    first = results.baseline(view, spec)
    before = set(ledger.study.user_attrs.get("front", ()))
    for trial in view.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if (trial.number in before) == (trial.number in front):
            continue
        on_front, is_baseline = trial.number in front, first is not None and trial.number == first.number
        tags = {"lsx.front": str(on_front).lower(), NOTE: notes.judged(trial, spec, on_front, is_baseline)}
        outbox.log(trial.number, _against(trial, first, spec), _last_step(trial), tags, at=_end(trial))
        if on_front:
            for index in range(spec.repeats):
                outbox.attach(trial.number, recorder.folder.trial(trial.number) / learner_file(index))
                _attach_model(recorder, trial, index)
    ledger.note_study(front=sorted(front))


def _attach_model(recorder: Recorder, trial: FrozenTrial, index: int) -> None:
    """The learner as an MLflow model, which is another's format: a network that it cannot hold does without."""
    folder, config = recorder.folder.trial(trial.number), Config.build(trial.user_attrs["config"])
    try:
        dataset = data.load(config)
        learner, _ = load_learner(folder / learner_file(index), dataset)
        facts = {"normalised by": {"mean": list(dataset.mean), "std": list(dataset.std)}, "output": "log-probabilities"}
        files = models.write(learner, dataset.image_shape, folder / models.folder_of(index), facts)
    except Exception as error:  # torch.export raises dozens of types
        reason = redacted(" ".join(str(error).split()))[:300] or type(error).__name__
        recorder.outbox.log(trial.number, {}, tags={"lsx.no_model": reason}, at=_end(trial))
        return
    for name, file in files.items():
        place = Path(models.folder_of(index)) / name
        recorder.outbox.attach(trial.number, file, place.parent.as_posix())


def _against(trial: FrozenTrial, first: FrozenTrial | None, spec: StudySpec) -> dict[str, float]:
    """``vs_baseline/<objective>`` and its 95 % interval: differences paired by seed, where there are several."""
    if first is None or trial.number == first.number or spec.repeats == 1:
        return {}
    found = results.paired(trial, first, spec)
    return {f"vs_baseline/{name}": one.mean for name, one in found.items()} | {
        f"vs_baseline/{name}_ci95": one.interval for name, one in found.items()
    }


def _drop_checkpoints(recorder: Recorder, view: Study, kept: Iterable[int]) -> None:
    """Delete the learners of trials that are off the front: more trials never bring them back.

    Constraints may: where a study has some, the learners stay.
    """
    kept = set(kept)
    for trial in view.get_trials(deepcopy=False):
        if trial.number not in kept and trial.state.is_finished() and not recorder.ledger.spec.constraints:
            for index in range(recorder.ledger.spec.repeats):
                (recorder.folder.trial(trial.number) / learner_file(index)).unlink(missing_ok=True)
                shutil.rmtree(recorder.folder.trial(trial.number) / models.folder_of(index), ignore_errors=True)


def draw_front(view: Study, spec: StudySpec, path: Path) -> None:
    """The first two objectives of all complete trials; nothing is drawn where there is one objective only."""
    trials = results.complete(view, spec)
    if len(spec.objectives) < 2 or not trials:
        return
    x, y = (figures.Objective(one.metric.replace("_", " "), one.direction) for one in spec.objectives[:2])
    points = {trial.number: _point(trial, spec) for trial in trials}
    first = results.baseline(view, spec)
    figures.front(
        path,
        list(points.values()),
        {trial.number for trial in results.front(view, spec)},
        x,
        y,
        baseline=points[first.number] if first else None,
        baseline_name=spec.baseline or "",
        title=f"{spec.study_name}, validation images",
    )


def _point(trial: FrozenTrial, spec: StudySpec) -> figures.Point:
    """The first two objectives, with their intervals over the seeds."""
    seeds = trial.user_attrs.get("seeds", {})
    halves = [repeats.spread(seeds.get(one.metric, ())).interval for one in spec.objectives[:2]]
    dx, dy = (half if math.isfinite(half) else 0.0 for half in halves)
    return figures.Point(trial.number, trial.values[0], trial.values[1], dx, dy)


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
