"""What evidence.py found, as a table and a picture."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

import lsx

METRICS = (
    "accuracy",
    "reference_ridge",
    "reference_iies",
    "reference_critic_accuracy",
    "reference_comprehensiveness",
    "reference_sufficiency",
    "reference_relevance_mass",
    "reference_foreground_relevance_mass",
    "control_ridge",
    "control_iies",
    "control_critic_accuracy",
)
TRAINING = ("critic_loss_last_to_chance",)
SHOWN = {
    "accuracy": "accuracy",
    "reference_ridge": "ridge",
    "reference_iies": "IIES",
    "reference_critic_accuracy": "new critic",
    "reference_comprehensiveness": "comprehen­siveness",
    "reference_sufficiency": "sufficiency",
    "reference_relevance_mass": "mass on the decoy",
    "reference_foreground_relevance_mass": "mass on the digit",
}
DRAWN = {name: title.replace("­", "") for name, title in SHOWN.items()}
NAMES = {
    "classification": "classification only",
    "with_critic_images": "classification, critic's images too",
    "lsx": "LSX",
    "random_critic": "LSX, random critic",
}
COLORS = {"lsx": "#c2410c", "random_critic": "#5b7fa6"}
Rows = Sequence[Mapping[str, Any]]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of Student's 95 % interval; NaN where there are not two values."""
    defined = [value for value in values if not math.isnan(value)]
    if len(defined) < 2:
        return (defined or [math.nan])[0], math.nan
    half = stats.t.ppf(0.975, len(defined) - 1) * np.std(defined, ddof=1) / math.sqrt(len(defined))
    return float(np.mean(defined)), float(half)


def series(rows: Rows, condition: str, method: str, metric: str) -> list[float]:
    """One metric over the seeds, in their order."""
    chosen = [row for row in rows if (row["condition"], row["method"]) == (condition, method)]
    return [row["scores"].get(metric, math.nan) for row in sorted(chosen, key=lambda row: row["seed"])]


def differences(rows: Rows, condition: str, method: str, metric: str, to: str = "classification") -> list[float]:
    """Paired by seed, to another method."""
    base = series(rows, condition, to, metric)
    return [value - other for value, other in zip(series(rows, condition, method, metric), base, strict=True)]


def group(method: str) -> str:
    """Whose candidates a method has."""
    return "lsx" if method in ("lsx", "random_critic") else "classification"


def methods(plan: Mapping[str, Any], condition: str) -> list[str]:
    """What is compared: where the critic has clean images, also what they are worth without explanations."""
    clean = plan["conditions"][condition]["settings"].get("critic.images") == "clean"
    return [name for name in NAMES if clean or name != "with_critic_images"]


def candidates(plan: Mapping[str, Any], condition: str, method: str) -> Sequence[Mapping[str, Any]]:
    """What is tried: LSX may have candidates of its own under a condition."""
    own = plan["conditions"][condition].get("candidates") if group(method) == "lsx" else None
    found: Sequence[Mapping[str, Any]] = own or plan[group(method)]["candidates"]
    return found


def write(
    out: Path,
    plan: Mapping[str, Any],
    chosen: Mapping[tuple[str, str], int],
    trials: Rows,
    rows: Rows,
    command: str,
    workers: int,
) -> None:
    """evidence.md and evidence.png."""
    out.mkdir(parents=True, exist_ok=True)
    draw(out / "evidence.png", plan, rows)
    seeds = len(plan["test_seeds"])
    parts = [
        "# Evidence: does learning by self-explaining help?",
        f"Written by `{command}` ({_hardware(rows, workers)}; lsx {lsx.__version__}{_commit()}).",
        "Classification only, LSX (all three stages), and LSX whose critic is taught shuffled labels. What LSX does "
        "beyond the last one is the critic's teaching; the rest is finetuning towards explanations, and training. "
        "Where the critic has clean images, it has labelled images that the learner is not trained on; what those are "
        "worth by themselves is shown too.",
        f"n = {seeds} paired seeds of weights, batch order and critics; the split into training, validation and test "
        "images is one, and no choice has seen the test images. Mean ± half a 95 % interval (Student), which covers "
        "training, not the choice of images. Differences whose interval excludes 0 are bold where they are "
        "improvements; with as many intervals as here, one in twenty excludes 0 by chance. Explanations are input × "
        "gradient of the *predicted* class for every learner, each scaled by its own maximum; *new critic* is the "
        "accuracy of a critic trained on explanations, on held-out ones.",
        "![differences to classification only](evidence.png)",
        "*Differences to classification only, paired by seed, with 95 % intervals; in the shaded half the method is "
        "better.*",
        str(plan.get("scale", "")).strip(),
        str(plan.get("summary", "")).strip(),
        *(_condition(plan, rows, name) for name in plan["conditions"]),
        _choices(plan, chosen, trials),
        _settings(plan),
        str(plan.get("notes", "")).strip(),
    ]
    (out / "evidence.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _condition(plan: Mapping[str, Any], rows: Rows, condition: str) -> str:
    described = plan["conditions"][condition]
    metrics = [name for name in SHOWN if any(not math.isnan(v) for v in series(rows, condition, "lsx", name))]
    arrows = [f"{SHOWN[name]} {lsx.metrics.METRICS[name].arrow}" for name in metrics]
    lines = [f"## {described['title']}", "", "| | " + " | ".join(arrows) + " | critic loss / chance |"]
    lines.append("| --- |" + " --- |" * (len(metrics) + 1))
    for method in methods(plan, condition):
        name = NAMES[method]
        cells = [_number(interval(series(rows, condition, method, metric)), metric) for metric in metrics]
        cells.append(_number(interval(series(rows, condition, method, TRAINING[0])), "accuracy"))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for method, to in (("lsx", "classification"), ("random_critic", "classification"), ("lsx", "random_critic")):
        cells = [_difference(rows, condition, method, metric, to) for metric in metrics]
        lines.append(f"| {NAMES[method]} − {NAMES[to]} | " + " | ".join(cells) + " | |")
    control = {f"reference_{name}": f"control_{name}" for name in ("ridge", "iies", "critic_accuracy")}
    cells = [
        _number(interval(series(rows, condition, "lsx", control[name])), name) if name in control else ""
        for name in metrics
    ]
    lines.append("| untrained network | " + " | ".join(cells) + " | |")
    return "\n".join(lines)


def _difference(rows: Rows, condition: str, method: str, metric: str, to: str) -> str:
    mean, half = interval(differences(rows, condition, method, metric, to))
    text = _number((mean, half), metric, sign="+")
    if not abs(mean) > half:
        return text
    better = (mean > 0) == (lsx.metrics.METRICS[metric].direction == "maximize")
    return f"**{text}**" if better else f"{text} (worse)"


def _number(value: tuple[float, float], metric: str, sign: str = "") -> str:
    mean, half = value
    if math.isnan(mean):
        return "–"
    digits = 1 if metric.endswith(("comprehensiveness", "sufficiency")) else 3
    number = f"{mean:{sign}.{digits}f}".replace("-", "−")
    return number if math.isnan(half) else f"{number} ± {half:.{digits}f}"


def _choices(plan: Mapping[str, Any], chosen: Mapping[tuple[str, str], int], trials: Rows) -> str:
    seeds = ", ".join(map(str, plan["selection_seeds"]))
    lines = [
        "## What was chosen, on validation images",
        "",
        f"Every candidate was trained with the seeds {seeds} (mean shown). Chosen is the best by the metric in the "
        "third column, among those whose accuracy is within the margin of the most accurate classification-only "
        "candidate (the most accurate, if none is): one rule for classification only and for LSX. The random critic's "
        "settings are those of LSX.",
        "",
        "| data | candidate | chosen by | accuracy | ridge | IIES | mass on the decoy | chosen |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for condition, described in plan["conditions"].items():
        for method in ("classification", "lsx"):
            rule = described["choose"]
            for index, candidate in enumerate(candidates(plan, condition, method)):
                mine = [row for row in trials if (row["condition"], row["method"]) == (condition, method)]
                found = [row["scores"] for row in mine if row["candidate"] == index]
                cells = [described["title"], _plain({**candidate}), _rule(rule)]
                for metric in ("accuracy", "reference_ridge", "reference_iies", "reference_relevance_mass"):
                    values = [scores.get(metric, math.nan) for scores in found]
                    cells.append(_number((float(np.mean(values)), math.nan), metric))
                cells.append("✓" if chosen[condition, method] == index else "")
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _rule(rule: Mapping[str, Any]) -> str:
    margin = f", margin {rule['margin']}" if "margin" in rule else ""
    return rule["best"].removeprefix("reference_") + margin


def _settings(plan: Mapping[str, Any]) -> str:
    lines = ["## Settings", "", "For all: " + _plain(lsx.config.flatten(plan["settings"])) + "."]
    for described in plan["conditions"].values():
        extra = _plain(lsx.config.flatten(described["settings"]))
        lines.append(f"- {described['title']}: {described['images']:,} training images, {extra}")
    lines.insert(3, "")
    lines.append("")
    lines.append("All else is the default (`lsx train --help`).")
    return "\n".join(lines)


def _plain(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _hardware(rows: Rows, workers: int) -> str:
    # Conditions that differ in the critic alone share their classification.
    hours = sum({json.dumps([row["method"], row["settings"]]): row["seconds"] for row in rows}.values()) / 3600
    devices = sorted({row["device"] for row in rows})
    if devices == ["cpu"]:
        device = f"{os.cpu_count()} cores, {_processor()}, {workers} trainings at once on a thread each"
    else:
        device = f"{torch.cuda.get_device_name()}, {workers} trainings at once"
    return f"{device}; {hours:.1f} h of training for the tables below, summed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return f", commit {done.stdout.strip()}" if done.returncode == 0 else ""


def draw(path: Path, plan: Mapping[str, Any], rows: Rows) -> None:
    """One panel a metric, one line a condition: paired differences to classification only."""
    conditions = list(plan["conditions"])
    metrics = [
        name for name in SHOWN if any(not math.isnan(v) for c in conditions for v in series(rows, c, "lsx", name))
    ]
    across = min(4, len(metrics))
    down = math.ceil(len(metrics) / across)
    figure = Figure(figsize=(2.3 * across + 2.4, down * (0.5 * len(conditions) + 0.7) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, squeeze=False)
    for panel, metric in zip(panels.flat, metrics, strict=False):
        _panel(panel, conditions, rows, metric)
        panel.set_yticks(range(len(conditions)), [""] * len(conditions))
        panel.set_ylim(len(conditions) - 0.5, -0.5)
    for panel in panels.flat[len(metrics) :]:
        panel.set_axis_off()
    for panel in panels[:, 0]:
        panel.set_yticks(range(len(conditions)), [plan["conditions"][name]["title"] for name in conditions])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def _panel(panel: Any, conditions: Sequence[str], rows: Rows, metric: str) -> None:
    widest = 0.0
    for offset, (method, color) in zip((-0.13, 0.13), COLORS.items(), strict=True):
        found = [interval(differences(rows, condition, method, metric)) for condition in conditions]
        means, halves = (np.array(values) for values in zip(*found, strict=True))
        places = np.arange(len(conditions)) + offset
        style = {"fmt": "o", "color": color, "markersize": 4.5, "capsize": 2.5, "linewidth": 1.3}
        panel.errorbar(means, places, xerr=np.nan_to_num(halves), label=NAMES[method], **style)
        widest = max(widest, float(np.nanmax(np.abs(means) + np.nan_to_num(halves), initial=0)))
    widest = 1.1 * widest or 1.0
    better = (0, widest) if lsx.metrics.METRICS[metric].direction == "maximize" else (-widest, 0)
    panel.axvspan(*better, color="#16a34a", alpha=0.07, linewidth=0)
    panel.axvline(0, color="#222222", linewidth=0.8)
    panel.set_xlim(-widest, widest)
    panel.locator_params(axis="x", nbins=4)
    panel.set_title(DRAWN[metric], fontsize=9.5)
    panel.tick_params(labelsize=8.5)
    panel.grid(axis="x", color="#e5e7eb", linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(axis="y", length=0)
