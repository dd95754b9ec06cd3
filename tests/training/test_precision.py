"""Precision of training: what it changes, and what it must not."""

import ctypes
import statistics
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lsx import explainers, models
from lsx.config import Config
from lsx.data import Split
from lsx.errors import ConfigError
from lsx.training import Trainer
from lsx.training.device import computing, keep_freed_memory

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "model.name": "SimpleConvNet",
    "data.few_shot_fraction": 0.1,
    "critic": {"batches": 2, "batch_size": 16},
    **{f"{stage}.epochs": 1 for stage in ("joint", "finetune")},
    "pretrain": {"epochs": 4, "optimizer": "adam", "learning_rate": 1e-3},
}


def test_explanation_gradient_of_a_trained_learner_in_bfloat16() -> None:
    """Of most batches; in some, rounding moves the batch's maximum or tips a rectifier (docs/performance.md)."""
    adadelta = {"epochs": 8, "optimizer": "adadelta", "learning_rate": 0.05}
    trainer = Trainer(Config.build(SETTINGS, {"stages": ["pretrain"], "model.name": "Net1", "pretrain": adadelta}))
    learner = trainer.run()
    assert trainer.history[-1][2]["validation_accuracy"] > 0.5
    torch.manual_seed(0)
    explain, critic = explainers.build(trainer.config.explainer), models.build("Net1", (1, 28, 28), 10)

    def gradient(few: Split, precision: Any) -> Tensor:
        with computing(precision, CPU):
            explanation = explain(learner, few.images, few.labels, create_graph=True)
            loss = F.nll_loss(critic(explanation), few.labels)
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(learner.parameters()))])

    found = []
    for first in range(0, 256, 64):
        few = trainer.dataset.train.take(slice(first, first + 64))
        exact, short = gradient(few, "float32"), gradient(few, "bfloat16")
        assert float((short - exact).norm() / exact.norm()) > 1e-4  # it was another precision
        found.append(float(torch.cosine_similarity(short, exact, dim=0)))
    assert statistics.median(found) > 0.99


def test_all_stages_in_bfloat16_keep_float32_weights() -> None:
    one, other = (Trainer(Config.build(SETTINGS, {"precision": each})) for each in ("float32", "bfloat16"))
    weights = [{name: value.clone() for name, value in each.run().state_dict().items()} for each in (one, other)]
    for name, value in weights[0].items():
        assert weights[1][name].dtype == torch.float32
        assert not torch.equal(weights[1][name], value)
    for (stage, _, metrics), (_, _, expected) in zip(other.history, one.history, strict=True):
        assert metrics["loss"] == pytest.approx(expected["loss"], rel=0.2), stage
    assert other.state()["config"]["precision"] == "bfloat16"


def test_settings_of_torch_are_as_before() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    seen = {}
    for precision in ("float32", "tf32", "bfloat16"):
        with pytest.raises(ZeroDivisionError), computing(precision, CPU):  # type: ignore[arg-type]
            seen[precision] = (matmul.allow_tf32, cudnn.allow_tf32, torch.is_autocast_enabled("cpu"))
            raise ZeroDivisionError
        assert (matmul.allow_tf32, cudnn.allow_tf32) == before and not torch.is_autocast_enabled("cpu")
    assert seen == {
        "float32": (False, False, False),
        "tf32": (True, True, False),
        "bfloat16": (False, False, True),
    }


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision = 'float16' is not valid"):
        Config.build({"precision": "float16"})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_memory_is_kept_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_freed_memory.cache_clear()
    assert keep_freed_memory() is hasattr(ctypes.CDLL("libc.so.6"), "mallopt")

    def absent(_: str) -> None:
        raise OSError

    keep_freed_memory.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert keep_freed_memory() is False
    keep_freed_memory.cache_clear()
