"""What every trial would fail of is found before the first one starts."""

from typing import Any

import pytest
import torch

from lsx.errors import StudyError
from lsx.study.declared.checks import preflight
from lsx.study.declared.spec import STUDIES, StudySpec, load
from tests.study import fakes


def spec(settings: dict[str, Any] | None = None, **changes: Any) -> StudySpec:
    return fakes.spec(settings={**fakes.CONTENT["settings"], **(settings or {})}, **changes)


def test_a_sound_study_passes_and_tells_its_data() -> None:
    before = torch.get_rng_state()
    found = preflight(load(STUDIES / "decoy_mnist.yaml"))
    assert found["description"].startswith("MNIST, embedded") and len(found["sha256"]) == 64
    assert torch.equal(torch.get_rng_state(), before)


class Detached(torch.nn.Module):
    """Its output does not depend on its weights."""

    def __init__(self, channels: int, image_size: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(channels * image_size[0] * image_size[1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(images.flatten(1)[:, :10], dim=1)


INT = {"type": "int", "low": 1}
BATCHES = {"critic.batches": {**INT, "high": 500}}
HALVES = {
    "critic.set": {"type": "categorical", "choices": ["inside", "separate"]},
    "critic.batches": [
        {**INT, "high": 40, "when": {"critic.set": "inside"}},
        {**INT, "high": 20, "when": {"critic.set": "separate"}},
    ],
}
NAMED = f"{__name__}:Detached"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"data.source": "torchvision", "data.root": "none"}}, "lsx data download --root none"),
        ({"reference_trials": {"far": {"data": {"source": "folder", "root": "none"}}}}, "reference_trials.far: data.r"),
        ({"space": BATCHES}, "space: .*32000"),
        ({"space": {"critic.batch_size": {**INT, "high": 9000}}}, "space: "),
        ({"space": {"data.few_shot_fraction": {"type": "float", "low": 0.01, "high": 1}}}, "space: .*1152"),
        ({"settings": {"device": "cuda:77"}}, "device = 'cuda:77' is not on this machine"),
        ({"settings": {"model.name": NAMED}}, "'input_x_gradient' gives no gradient"),
        ({"settings": {"model.name": "torch:no_grad"}}, "must take channels, image_size and classes"),
        ({"space": {"critic.model": {"type": "categorical", "choices": ["Net1", "torch:no_grad"]}}}, "space: model"),
    ],
)
def test_what_trials_would_fail_of_is_one_line(changes: dict[str, Any], message: str) -> None:
    if "space" in changes:
        changes = {"reference_trials": {}, **changes}
    with pytest.raises(StudyError, match=f"^study fake: .*{message}[^\n]*$"):
        preflight(spec(**changes))


def test_sizes_that_exclude_each_other_are_not_combined() -> None:
    # 3,000 images: 40 batches of 64 fit into them, and beside them only 20 do.
    preflight(spec(space=HALVES, reference_trials={}))
    wrong = {**HALVES, "critic.batches": [HALVES["critic.batches"][0], {**HALVES["critic.batches"][1], "high": 47}]}
    with pytest.raises(StudyError, match="^study fake: space: "):
        preflight(spec(space=wrong, reference_trials={}))
