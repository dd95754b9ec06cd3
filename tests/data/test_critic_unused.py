"""A run without a critic needs no images for one."""

import torch

from lsx import data
from lsx.config import Config


def test_no_critic_set_where_no_stage_uses_one() -> None:
    few = {"data.few_shot_fraction": 0.05}
    for off in ({"stages": ["pretrain"]}, {"loss.lambda_e": 0.0}, {"joint.epochs": 0}):
        dataset = data.load(Config.build(few, off))
        assert len(dataset.critic) == 0
        assert len(dataset.train) == 150


def test_a_separate_set_leaves_the_same_training_images_with_and_without_a_critic() -> None:
    separate = {"critic.set": "separate", "data.few_shot_fraction": 0.9}
    without = data.load(Config.build(separate, {"loss.lambda_e": 0.0}))
    assert torch.equal(without.train.index, data.load(Config.build(separate)).train.index)
