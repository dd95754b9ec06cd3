"""Explanation gradients in bfloat16 against float32, for trained learners: cosines.

python benchmarks/precision.py
"""

import statistics
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsx import Config, Trainer, explainers, models
from lsx.critic import CriticSet, critic_pass
from lsx.training.device import computing

CPU = torch.device("cpu")
LEARNERS = {"adadelta": {"epochs": 10, "learning_rate": 0.05}, "adam": {"epochs": 3, "learning_rate": 1e-3}}
CRITICS = {"adadelta": 0.2, "adam": 3e-3}
SEEDS = 3


def main() -> None:
    passes: list[float] = []
    for network in ("Net1", "SimpleConvNet"):
        for name, settings in LEARNERS.items():
            trainer, critic_set = trained(network, {"optimizer": name, **settings})
            total, single = same_critic(trainer, critic_set)
            low, middle = min(single), statistics.median(single)
            print(f"{network}, {name}, accuracy {trainer.history[-1][2]['validation_accuracy']:.3f}")
            print(f"  same critic: {total:.4f}; by batch {low:.3f}-{max(single):.3f}, median {middle:.4f}")
            for optimizer, rate in CRITICS.items():
                found = [whole_pass(trainer, critic_set, optimizer, rate, seed) for seed in range(SEEDS)]
                print(f"  whole passes, {optimizer} critic: {', '.join(f'{one:.4f}' for one in found)}", flush=True)
                passes += found
    print(f"{len(passes)} passes: {min(passes):.4f}-{max(passes):.4f}, median {statistics.median(passes):.4f}")


def trained(network: str, settings: dict[str, Any]) -> tuple[Trainer, CriticSet]:
    """A learner after pretraining on 1,200 to 2,000 images, and the critic's 18 batches of 64."""
    config = Config.build({"model.name": network, "pretrain": settings, "data.few_shot_fraction": 0.4, "device": "cpu"})
    trainer = Trainer(config.replace({"joint.epochs": 0, "finetune.epochs": 0, "stages": ["pretrain", "joint"]}))
    trainer.run()
    from lsx import data

    return trainer, CriticSet.of(data.load(config).critic, config.critic)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one, other, dim=0))


def flat(gradients: Any) -> Tensor:
    return torch.cat([one.flatten() for one in gradients])


def same_critic(trainer: Trainer, critic_set: CriticSet) -> tuple[float, list[float]]:
    """Of the sum over the batches, and of each, for one untrained critic."""
    torch.manual_seed(1)
    critic = models.build(trainer.config.model.name, trainer.dataset.image_shape, trainer.dataset.num_classes)
    sums: dict[str, Tensor | float] = {"float32": 0.0, "bfloat16": 0.0}
    single = []
    for images, labels in zip(critic_set.images, critic_set.labels, strict=True):
        both = {each: gradient(trainer, critic, images, labels, each) for each in sums}
        sums = {each: sums[each] + both[each] for each in sums}
        single.append(cosine(both["float32"], both["bfloat16"]))
    one, other = sums.values()
    assert isinstance(one, Tensor) and isinstance(other, Tensor)
    return cosine(one, other), single


def gradient(trainer: Trainer, critic: nn.Module, images: Tensor, labels: Tensor, precision: Any) -> Tensor:
    with computing(precision, CPU):
        explain = explainers.build(trainer.config.explainer)
        explanation = explain(trainer.learner, images, labels, create_graph=True)
    leaf = explanation.detach().requires_grad_()
    loss = F.nll_loss(critic(leaf), labels, weight=trainer.dataset.class_weights)
    (cotangent,) = torch.autograd.grad(loss, leaf)
    return flat(torch.autograd.grad(explanation, list(trainer.learner.parameters()), cotangent))


def whole_pass(trainer: Trainer, critic_set: CriticSet, optimizer: str, rate: float, seed: int) -> float:
    """Of the gradient of a pass in which the critic trains."""
    config = trainer.config.critic.model_copy(update={"optimizer": optimizer, "learning_rate": rate})
    found = []
    precisions: tuple[Any, Any] = ("float32", "bfloat16")
    for precision in precisions:
        torch.manual_seed(seed)
        critic = models.build(trainer.config.model.name, trainer.dataset.image_shape, trainer.dataset.num_classes)
        order = torch.randperm(config.batches)
        explain, weights = explainers.build(trainer.config.explainer), trainer.dataset.class_weights
        with computing(precision, CPU):
            taught = critic_pass(trainer.learner, critic, critic_set, order, explain, weights, config, 100.0)
        found.append(flat(taught.gradients))
    return cosine(*found)


if __name__ == "__main__":
    main()
