"""What a study found: its Pareto front beside the baseline, the chosen configuration, and where to go from there.

Validation figures decide everything; test figures, where they were measured, are shown and decide nothing.
"""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lsx.config import Config
from lsx.study.declared.spec import StudySpec
from lsx.study.search.proposer import feasible as is_feasible
from lsx.study.shown.display import ARROWS
from lsx.study.worker import repeats

CRITIC = "critic_loss_last_to_chance"
NONE = "–"


def complete(study: optuna.Study, spec: StudySpec) -> list[FrozenTrial]:
    """Complete trials with a finite value for every objective, by number."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [
        trial for trial in trials if len(trial.values) == len(spec.objectives) and all(map(math.isfinite, trial.values))
    ]


def feasible(study: optuna.Study, spec: StudySpec) -> list[FrozenTrial]:
    """Complete trials within the study's constraints, by number."""
    return [trial for trial in complete(study, spec) if is_feasible(spec, trial.user_attrs.get("metrics", {}))]


def front(study: optuna.Study, spec: StudySpec) -> list[FrozenTrial]:
    """The feasible trials that no other feasible one dominates, the best in the first objective first.

    A trial dominates another if it is at least as good in every objective and better in one. Reference
    trials take part.
    """
    trials = feasible(study, spec)
    losses = {trial.number: _losses(trial, spec) for trial in trials}
    kept = [trial for trial in trials if not any(_dominates(losses[o.number], losses[trial.number]) for o in trials)]
    return sorted(kept, key=lambda trial: (losses[trial.number], trial.number))


def baseline(study: optuna.Study, spec: StudySpec) -> FrozenTrial | None:
    """The complete baseline trial, if there is one."""
    named = [trial for trial in complete(study, spec) if trial.user_attrs.get("role") == spec.baseline]
    return named[0] if spec.baseline is not None and named else None


def choose(study: optuna.Study, spec: StudySpec) -> FrozenTrial | None:
    """The front's knee: the trial nearest to the ideal point.

    Where trials of the front beat the baseline (no objective worse, one better), the choice is among these alone: no
    gain in one objective makes up for a loss in another that could be avoided. The ideal point has the candidates'
    best value of every objective; each objective is scaled to its range over them. Ties go to the higher validation
    accuracy, then to the earlier trial.

    Returns:
        None without a feasible trial.
    """
    first, trials = baseline(study, spec), front(study, spec)
    if first is not None:
        bar = _losses(first, spec)
        trials = [trial for trial in trials if _dominates(_losses(trial, spec), bar)] or trials
    losses = [_losses(trial, spec) for trial in trials]
    lows, highs = ([pick(column) for column in zip(*losses, strict=True)] for pick in (min, max))

    def rank(index: int) -> tuple[float, float, int]:
        scaled = [
            (loss - low) / (high - low) if high > low else 0.0
            for loss, low, high in zip(losses[index], lows, highs, strict=True)
        ]
        # Rounded, so that equal distances are ties whatever the order of their sums.
        return round(math.hypot(*scaled), 9), -_accuracy(trials[index], spec), trials[index].number

    return trials[min(range(len(trials)), key=rank)] if trials else None


def table(study: optuna.Study, spec: StudySpec) -> Table:
    """The Pareto front, the baseline in its first row and the chosen trial marked."""
    first, chosen, trials = baseline(study, spec), choose(study, spec), front(study, spec)
    rows = ([first] if first else []) + [trial for trial in trials if first is None or trial.number != first.number]
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title="Pareto front", title_justify="left")
    result.add_column("trial", no_wrap=True)
    for objective in spec.objectives:
        header = f"{objective.metric.replace('_', ' ')} {ARROWS[objective.direction]}"
        result.add_column(header, justify="right", min_width=max(map(len, header.split())))
    for header in ("λ_c", "λ_e", "λ_ft"):
        result.add_column(header, justify="right", no_wrap=True)
    result.add_column("explainer, normalized by", min_width=10)
    result.add_column("critic images, loss / chance", min_width=11)
    for trial in rows:
        style = "bold" if chosen and trial.number == chosen.number else "dim" if trial is first else ""
        mark = " ←" if chosen and trial.number == chosen.number else ""
        name = "baseline" if trial is first else str(trial.user_attrs.get("role", "search"))
        label = f"#{trial.number}{mark}" + ("" if name == "search" else f"\n{name}")
        result.add_row(label, *_figures(trial, spec), *_settings(trial), style=style)
    return result


def write_best(study: optuna.Study, spec: StudySpec, folder: str | Path) -> Path | None:
    """Write the chosen trial's configuration to ``best.yaml``, in one step, for :meth:`lsx.Config.load`.

    Returns:
        The file; None, and nothing written, without a complete trial.
    """
    chosen = choose(study, spec)
    if chosen is None:
        return None
    path = Path(folder) / "best.yaml"
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    Config.build(chosen.user_attrs["config"]).save(partial)
    partial.write_text(
        f"# Trial {chosen.number} of study {spec.study_name}: {said(chosen, spec)}.\n{partial.read_text()}"
    )
    os.replace(partial, path)
    return path


def closing(
    study: optuna.Study,
    spec: StudySpec,
    folder: str | Path,
    tracking_uri: str,
    ui_line: str,
    command: str | None = None,
) -> RenderableType:
    """All that is said at the end: the table, the answer, and the commands that go on from there.

    Args:
        folder: of the study; the chosen configuration is in its ``best.yaml``.
        tracking_uri: where results are tracked.
        ui_line: command that opens them.
        command: what continues the study in a shell; :attr:`StudySpec.command` by default.
    """
    folder = _short_path(Path(folder))
    report = {"report": str(folder / "report.html")} if (folder / "report.html").is_file() else {}
    more = f"{command or spec.command} --trials {2 * max(spec.budget.trials, len(study.get_trials(deepcopy=False)))}"
    lines = report | {"results tracked in": tracking_uri, "open them": ui_line, "extend the study": more}
    chosen = choose(study, spec)
    if chosen is None:
        return Group(Text(_nothing(study, spec), style="red"), _pairs(lines))
    lines = {
        "chosen configuration": str(folder / "best.yaml"),
        "run it again": f"{_tune(command or spec.command, 'rerun')} {chosen.number}",
    } | lines
    note = "← chosen: nearest to the ideal point, among trials that beat the baseline if there are any"
    if spec.repeats > 1:
        note += f"; ±: 95 % interval over {spec.repeats} seeds"
    if spec.constraints:
        count = len(complete(study, spec)) - len(feasible(study, spec))
        note += f"; {_many(count, 'complete trial')} outside of {_bounds(spec)}"
    if any("test" in trial.user_attrs for trial in front(study, spec)):
        note += "; second line of a cell: the same on test data"
    return Group(table(study, spec), Text(note, style="dim"), Text(), Text(answer(study, spec)), Text(), _pairs(lines))


def _short_path(path: Path) -> Path:
    """Relative to the working folder where it lies below: such a path survives a narrow terminal."""
    return path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path


def _tune(command: str, action: str) -> str:
    """The command that did the study, doing something else with it."""
    words = shlex.split(command)
    first = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
    kept: list[str] = []
    for index, word in enumerate(words):
        if word.partition("=")[0] in ("--study", "--profile", "--folder"):
            kept += [word] if "=" in word else words[index : index + 2]
    return shlex.join([*words[:first], action, *kept])


def _nothing(study: optuna.Study, spec: StudySpec) -> str:
    count = len(complete(study, spec))
    if count:
        return f"None of {_many(count, 'complete trial')} is within {_bounds(spec)}, so there is no front."
    return "No trial completed, so there is no front."


def _bounds(spec: StudySpec) -> str:
    """``accuracy ≥ 0.9``, for people."""
    parts = []
    for one in spec.constraints:
        parts += [f"{one.metric} ≥ {one.low:g}"] if one.low is not None else []
        parts += [f"{one.metric} ≤ {one.high:g}"] if one.high is not None else []
    return " and ".join(parts)


def answer(study: optuna.Study, spec: StudySpec) -> str:
    """Two sentences that compare the baseline with the front, from the numbers and nothing else."""
    chosen, first = choose(study, spec), baseline(study, spec)
    if chosen is None:
        return f"{_nothing(study, spec)} There is nothing to compare."
    count = len(complete(study, spec))
    if first is None:
        return (
            f"No baseline completed, so nothing can be said about what changed. "
            f"Of {_many(count, 'complete trial')}, trial {chosen.number} is chosen: {said(chosen, spec)}."
        )
    better = [t for t in complete(study, spec) if _dominates(_losses(t, spec), _losses(first, spec))]
    beaten = f"{len(better)} of the {count - 1} other complete trials" if better else "no other complete trial"
    opening = (
        f"The baseline reaches {said(first, spec)}; {beaten} {'are' if len(better) > 1 else 'is'} at least as good "
        "in every objective and better in one."
    )
    if chosen.number == first.number:
        return f"{opening} The chosen trial is the baseline itself: this study found no better compromise."
    return f"{opening} The chosen trial {chosen.number} reaches {said(chosen, spec)}{_caveat(chosen, first, spec)}."


def _caveat(trial: FrozenTrial, first: FrozenTrial, spec: StudySpec) -> str:
    names = [
        objective.metric
        for objective, mine, other in zip(spec.objectives, _losses(trial, spec), _losses(first, spec), strict=True)
        if mine > other
    ]
    cost = f", at the cost of {' and '.join(names)}" if names else ""
    if spec.repeats == 1:
        return f"{cost} (one seed each, so small differences may be chance)"
    differences = [
        f"{name} {found.mean:+.4f} ± {found.interval:.4f}" for name, found in paired(trial, first, spec).items()
    ]
    return f"{cost}; seed by seed against the baseline, over {spec.repeats} seeds: {', '.join(differences)}"


def paired(trial: FrozenTrial, first: FrozenTrial, spec: StudySpec) -> dict[str, repeats.Spread]:
    """The objectives' differences, trial − baseline, paired by seed, on validation data."""
    ours, theirs = trial.user_attrs.get("seeds", {}), first.user_attrs.get("seeds", {})
    names = [objective.metric for objective in spec.objectives]
    return {name: repeats.paired(ours[name], theirs[name]) for name in names if name in ours and name in theirs}


def said(trial: FrozenTrial, spec: StudySpec) -> str:
    """``accuracy 0.9500 (test 0.9400), ...``."""
    test = _tested(trial)
    parts = []
    for objective, value in zip(spec.objectives, trial.values, strict=True):
        measured = test.get(objective.metric)
        parts.append(f"{objective.metric} {value:.4f}" + ("" if measured is None else f" (test {measured:.4f})"))
    return ", ".join(parts)


def _figures(trial: FrozenTrial, spec: StudySpec) -> list[str]:
    test = _tested(trial)
    cells = []
    for objective, value in zip(spec.objectives, trial.values, strict=True):
        name = objective.metric
        cell = f"{value:.4f}{interval(trial, 'seeds', name)}"
        cells.append(cell + (f"\n{test[name]:.4f}{interval(trial, 'test_seeds', name)}" if name in test else ""))
    return cells


def interval(trial: FrozenTrial, kind: str, name: str) -> str:
    """`` ±0.0123``, the 95 % interval over a trial's ``seeds`` or ``test_seeds``; empty for one seed."""
    half = repeats.spread(trial.user_attrs.get(kind, {}).get(name, ())).interval
    return f" ±{half:.4f}" if math.isfinite(half) else ""


def _settings(trial: FrozenTrial) -> list[str]:
    """λ_c, λ_e, λ_ft, explainer, critic: a dash for what the trial did not use."""
    flat: Mapping[str, Any] = trial.user_attrs.get("config", {})
    stages: Sequence[str] = flat.get("stages", ())
    joint, finetune = "joint" in stages, "finetune" in stages
    explained = (joint and flat["loss.lambda_e"] > 0) or (finetune and flat["loss.lambda_ft"] > 0)
    critic = joint and flat["loss.lambda_e"] > 0
    weights = [(joint, "loss.lambda_c"), (joint, "loss.lambda_e"), (finetune, "loss.lambda_ft")]
    explainer = f"{flat['explainer.method']}, {flat['explainer.normalization']}" if explained else NONE
    return [
        *(_short(flat[key]) if used else NONE for used, key in weights),
        explainer.replace("_", " "),  # so that it wraps between words
        f"{flat['critic.images']}, {_critic_loss(trial)}" if critic else NONE,
    ]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _critic_loss(trial: FrozenTrial) -> str:
    """Last batch's loss over ln K at the end of joint training: 1 is a critic that learned nothing."""
    for name in ("metrics", "last"):
        for key, value in trial.user_attrs.get(name, {}).items():
            if key.endswith(CRITIC):
                return f"{value:.3f}"
    return NONE


def _tested(trial: FrozenTrial) -> Mapping[str, float]:
    measured: Mapping[str, float] = trial.user_attrs.get("test", {})
    return measured


def _accuracy(trial: FrozenTrial, spec: StudySpec) -> float:
    own = {objective.metric: value for objective, value in zip(spec.objectives, trial.values, strict=True)}
    return float(own.get("accuracy", trial.user_attrs.get("metrics", {}).get("accuracy", 0.0)))


def _losses(trial: FrozenTrial, spec: StudySpec) -> tuple[float, ...]:
    """Objective values, each turned so that less is better."""
    return tuple(
        -value if objective.direction == "maximize" else value
        for objective, value in zip(spec.objectives, trial.values, strict=True)
    )


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


def _pairs(lines: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in lines.items():
        grid.add_row(name, Text(value))
    return grid


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
