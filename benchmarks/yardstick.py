"""The spec of CNN-LSX to the letter, as existing code bases compute it: what lsx's speed is compared with.

Every batch by itself; images through ``DataLoader`` and torchvision's transforms, one by one; explanations by
differentiating a backward pass; losses read with ``.item()`` in every step; torch's optimisers as they come.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN, DEVIATION = 0.1307, 0.3081


class Images(Dataset[tuple[Tensor, int]]):
    """uint8 images (N, H, W), made tensors one by one, as torchvision's MNIST does."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (DEVIATION,))])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy(), mode="L")), int(self.labels[index])


class Net1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return F.log_softmax(self.fc2(F.relu(self.fc1(torch.flatten(x, 1)))), dim=1)


class SimpleConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 256), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.log_softmax(self.fc2(F.relu(self.fc1(torch.flatten(x, 1)))), dim=1)


NETWORKS = {"Net1": Net1, "SimpleConvNet": SimpleConvNet}


def explanation(learner: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """x ⊙ ∂log p_y/∂x, clipped and divided by the batch's maximum, with its graph."""
    x = x.clone().requires_grad_()
    chosen = learner(x).gather(1, y.unsqueeze(1)).sum()
    (gradient,) = torch.autograd.grad(chosen, x, create_graph=True)
    clipped = (x * gradient).clamp(min=0)
    return clipped / clipped.max()


class Yardstick:
    """One run.

    Args:
        images: uint8 (N, 28, 28).
        labels: int64 (N,).
        network: Net1 or SimpleConvNet.
        device: where it computes.
        batch_size: of the learner.
        critic_batches, critic_size: B_c and b_c; their images are the first of ``images``.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        network: str,
        device: str,
        batch_size: int = 32,
        critic_batches: int = 18,
        critic_size: int = 64,
    ) -> None:
        self.device, self.network = device, NETWORKS[network]
        self.learner = self.network().to(device)
        self.weights = (torch.bincount(labels, minlength=10) / len(labels)).to(device)
        self.loader = DataLoader(Images(images, labels), batch_size, shuffle=True)
        count = critic_batches * critic_size
        self.critic_loader = DataLoader(Images(images[:count], labels[:count]), critic_size, shuffle=True)
        self.optimizer = torch.optim.Adadelta(self.learner.parameters(), lr=0.004)
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(())

    def pretraining_epoch(self) -> float:
        total = 0.0
        for x, y in self.loader:
            x, y = x.to(self.device), y.to(self.device)
            self.optimizer.zero_grad()
            loss = F.nll_loss(self.learner(x), y, weight=self.weights)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total

    def joint_step(self, lambda_c: float = 1.0, lambda_e: float = 100.0) -> float:
        x, y = self._next()
        self.optimizer.zero_grad()
        loss = lambda_c * F.nll_loss(self.learner(x), y, weight=self.weights)
        loss.backward()
        return loss.item() + self.critic_pass(lambda_e)

    def critic_pass(self, lambda_e: float) -> float:
        critic = self.network().to(self.device)
        optimizer = torch.optim.Adadelta(critic.parameters(), lr=0.2)
        scale, total = lambda_e / len(self.critic_loader), 0.0
        for x, y in self.critic_loader:
            x, y = x.to(self.device), y.to(self.device)
            optimizer.zero_grad()
            loss = F.nll_loss(critic(explanation(self.learner, x, y)), y, weight=self.weights)
            (scale * loss).backward()  # the learner's gradients add up
            for parameter in critic.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(scale)
            optimizer.step()
            total += scale * loss.item()
        self.optimizer.step()
        return total

    def prepare_finetuning(self) -> None:
        """e* of all images in order, with a learner anew."""
        teacher, self.learner = self.learner, self.network().to(self.device)
        self.optimizer = torch.optim.Adadelta(self.learner.parameters(), lr=0.001)
        dataset = self.loader.dataset
        ordered = DataLoader(dataset, self.loader.batch_size, shuffle=False)
        self.targets = torch.cat(
            [explanation(teacher, x.to(self.device), y.to(self.device)).detach() for x, y in ordered]
        )
        self.ordered = ordered

    def finetuning_epoch(self, lambda_ft: float = 100.0) -> float:
        total, first = 0.0, 0
        for x, y in self.ordered:
            x, y = x.to(self.device), y.to(self.device)
            self.optimizer.zero_grad()
            classification = F.nll_loss(self.learner(x), y, weight=self.weights)
            e = explanation(self.learner, x, y)
            loss = classification + lambda_ft * F.mse_loss(e, self.targets[first : first + len(x)])
            loss.backward()
            self.optimizer.step()
            first += len(x)
            total += loss.item()
        return total

    def _next(self) -> tuple[Tensor, Tensor]:
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        return batch[0].to(self.device), batch[1].to(self.device)
