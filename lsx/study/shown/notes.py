"""What MLflow's pages say of a study and its trials: Markdown, and tags of the experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from lsx.study.declared.sections import Objective
from lsx.study.declared.spec import StudySpec
from lsx.study.shown import results
from lsx.study.tracked import views

CRITIC = "joint/critic_loss_last_to_chance"
SETTINGS = ("explainer.method", "loss.lambda_c", "loss.lambda_e", "loss.lambda_ft", "critic.images")
LABELS = ("lsx.status", "lsx.front", "lsx.baseline")
SEARCHED_COLUMNS = 6
HEADERS = ("explainer", "λ_c", "λ_e", "λ_ft", "critic")
PADDING = "\u00a0"
"""A space that HTML keeps: MLflow shows tables without any."""
LONGEST_NOTE = 4500
"""MLflow's tags hold 8,000 characters, servers with older databases 5,000."""


def study(view: optuna.Study, spec: StudySpec) -> str:
    """The study's own run: answer, front, question, and how to go on; no paths, since others may read it.

    Args:
        view: with what was learnt after the trials' ends.
        spec: of the study.
    """
    parts = [
        f"**Answer.** {_flat(results.answer(view, spec))}",
        front(view, spec),
        f"**Question.** {_flat(spec.question)}" if spec.question else "",
        f"**Notes.** {_flat(spec.notes)}" if spec.notes else "",
        f"**Go on.** `{spec.command}` continues the study, or extends it with `--trials N`.",
        "**A model.** `mlflow.pytorch.load_model('runs:/RUN_ID/model')` or `lsx explain --run-id RUN_ID`, for every "
        "run of the front.",
    ]
    return "\n\n".join(part for part in parts if part)[:LONGEST_NOTE]


def experiment(view: optuna.Study, spec: StudySpec) -> dict[str, str]:
    """Tags of the experiment: saved views, and the description above all its pages, the first line of which is seen."""
    names = [one.metric for one in spec.objectives]
    searched = [key for key in spec.space if key not in SETTINGS][:SEARCHED_COLUMNS]
    columns = [
        *(views.column("metrics", f"final/{name}") for name in names),
        *(views.column("params", key) for key in SETTINGS),
        *(views.column("metrics", name) for name in (CRITIC, *(f"test/{name}" for name in names))),
        *(views.column("tags", name) for name in LABELS),
        *(views.column("params", key) for key in searched),
    ]
    found = views.tags(columns, descending=spec.objectives[0].direction == "maximize")
    links = " · ".join(f"[{name}]({views.address(key)})" for key, name in views.NAMES.items())
    parts = [
        f"{links} — study {spec.study_name}",
        f"**Answer.** {_flat(results.answer(view, spec))}",
        front(view, spec),
    ]
    return found | {views.NOTE: "\n\n".join(part for part in parts if part)[:LONGEST_NOTE]}


def front(view: optuna.Study, spec: StudySpec) -> str:
    """The Pareto front as a Markdown table, the baseline in its first row; empty without a complete trial."""
    first, chosen, trials = results.baseline(view, spec), results.choose(view, spec), results.front(view, spec)
    rows = ([first] if first else []) + [one for one in trials if first is None or one.number != first.number]
    if not rows:
        return ""
    arrows = {"maximize": "↑", "minimize": "↓"}
    header = ["trial", *(f"{one.metric}{PADDING}{arrows[one.direction]}" for one in spec.objectives), "on test images"]
    header += HEADERS
    lines = [header]
    for trial in rows:
        marks = ["baseline"] if trial is first else []
        marks += ["chosen"] if chosen is not None and trial.number == chosen.number else []
        name = f"{trial.number:03d}" + (f" ({', '.join(marks)})" if marks else "")
        lines.append(
            [
                name.replace(" ", PADDING),
                *(f"{value:.4f}" for value in trial.values),
                _tested(trial, spec),
                *_settings(trial),
            ]
        )
    head, *rest = (f"|{'|'.join(f'{PADDING}{cell}{PADDING}' for cell in line)}|" for line in lines)
    return "\n".join([head, "|---" * len(header) + "|", *rest])


def trial(status: str, reason: str | None, metrics: Mapping[str, Any], objectives: Sequence[Objective]) -> str:
    """One trial's run, when it ends.

    Args:
        status: complete, pruned or failed.
        reason: why it did not complete.
        metrics: final ones.
        objectives: of the study.
    """
    if reason:
        return f"**{status.capitalize()}**: {_flat(reason)}"
    found = [f"{one.metric} {metrics[one.metric]:.4f}" for one in objectives if one.metric in metrics]
    return f"**{status.capitalize()}**: {', '.join(found) or 'no figures'} on validation images."


def judged(one: FrozenTrial, spec: StudySpec, on_front: bool, is_baseline: bool) -> str:
    """One complete trial's run, when the study ends."""
    values = {objective.metric: value for objective, value in zip(spec.objectives, one.values, strict=True)}
    words = trial("complete", None, values, spec.objectives)
    tested = _tested(one, spec, named=True)
    words += f" On test images: {tested}." if tested else ""
    words += " **On the Pareto front.**" if on_front else " Not on the Pareto front."
    return words + (" This is the baseline." if is_baseline else "")


def _tested(one: FrozenTrial, spec: StudySpec, named: bool = False) -> str:
    test = one.user_attrs.get("test", {})
    names = [objective.metric for objective in spec.objectives if objective.metric in test]
    return ", ".join(f"{name} {test[name]:.4f}" if named else f"{test[name]:.4f}" for name in names)


def _settings(one: FrozenTrial) -> list[str]:
    flat = one.user_attrs.get("config", {})
    if "joint" not in flat.get("stages", ()):
        return [results.NONE] * len(SETTINGS)
    return [_short(flat.get(key, results.NONE)) for key in SETTINGS]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _flat(text: str) -> str:
    return " ".join(text.split())
