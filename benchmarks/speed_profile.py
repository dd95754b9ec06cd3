"""One joint step as a picture: where its time goes, in the yardstick and in lsx."""

from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import torch
from contenders import Job, prepare
from torch.profiler import ProfilerActivity, profile

matplotlib.use("Agg")
import matplotlib.pyplot as plt

KINDS = {
    "convolutions": ("mkldnn_convolution", "convolution_backward", "cudnn_convolution"),
    "matrix products": ("aten::mm", "addmm", "bmm"),
    "pools": ("pool2d", "upsample"),
    "rectifiers": ("threshold_backward", "clamp_min", "relu"),
    "copies and fills": ("copy_", "fill_", "zero_", "aten::cat"),
    "optimisers": ("sqrt_", "addcmul_", "Optimizer.step"),
}
COLOURS = ("#4e79a7", "#59a14f", "#f28e2b", "#e15759", "#b6992d", "#9c755f", "#bab0ac")
STEPS = 3


def draw(path: Path, device: str, threads: int) -> None:
    """Bars of a step's time by kind of operation, for ``Net1`` and 18 × 64."""
    names = ("yardstick", "float32", "bfloat16")
    parts = {name: by_kind(Job(name, "joint", "Net1", device, threads)) for name in names}
    kinds = [*KINDS, "other"]
    figure, axes = plt.subplots(figsize=(9, 2.8), layout="constrained")
    for row, name in enumerate(names):
        left = 0.0
        for kind, colour in zip(kinds, COLOURS, strict=True):
            width = parts[name][kind]
            axes.barh(row, width, left=left, color=colour, label=kind if row == 0 else None)
            if width > 0.06 * sum(parts[names[0]].values()):
                axes.text(left + width / 2, row, f"{width:.2f}", ha="center", va="center", color="white", fontsize=8)
            left += width
        axes.text(left, row, f" {left:.2f} s", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), ["yardstick", "lsx float32", "lsx bfloat16"])
    axes.invert_yaxis()
    axes.set_xlabel("seconds of one joint step, summed over operations")
    axes.set_title(f"Net1, 18 critic batches of 64, {device}, {threads} threads", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.legend(loc="outside lower center", ncols=len(kinds), frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def by_kind(job: Job) -> Counter[str]:
    """Self time in seconds by kind of operation, mean of some steps after one that does not count."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    act, _ = prepare(job)
    act()
    on_gpu = job.device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        for _ in range(STEPS):
            act()
    found: Counter[str] = Counter(dict.fromkeys((*KINDS, "other"), 0.0))
    for event in seen.key_averages():
        took: Any = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        found[kind_of(event.key)] += took / STEPS / 1e6
    return found


def kind_of(name: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")
