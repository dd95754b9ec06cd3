"""What a loaded dataset is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images of one purpose, normalised and resident on one device.

    Attributes:
        images: float32 (N, C, H, W), normalised.
        labels: int64 (N,), 0 ≤ label < K.
        masks: bool (N, 1, H, W), where the confounder is (decoy patch); None where the data has none.
        index: int64 (N,), row of each image in the source's pool; for disjointness checks and provenance.
        foreground: bool (N, 1, H, W), where the object itself is; None where that is unknown.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None
    index: Tensor
    foreground: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """The split with its tensors on ``device``."""
        return self._each(lambda tensor: tensor.to(device))

    def take(self, rows: Tensor | slice) -> "Split":
        """Some rows of the split, in that order."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Split":
        there = {name: change(tensor) for name, tensor in vars(self).items() if tensor is not None}
        return replace(self, **there)


@dataclass(frozen=True)
class Dataset:
    """Train, validation, test and critic images.

    Attributes:
        name: registered dataset name.
        provenance: plain data that says where the images came from (source, root, file checksums, sizes, seed).
        train, validation, test: disjoint splits.
        critic: B_c · b_c images for the critic, in fixed batches of b_c; empty where no stage uses a critic.
        num_classes: K.
        mean, std: (C,) of the normalisation; a pixel p in 0–1 of channel c becomes (p − mean_c)/std_c.
    """

    name: str
    provenance: Mapping[str, Any]
    train: Split
    validation: Split
    test: Split
    critic: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def class_weights(self) -> Tensor:
        """(K,) float32, class frequencies n_k / N of the training set: the weights of CE_w."""
        counts = torch.bincount(self.train.labels, minlength=self.num_classes)
        return counts.float() / len(self.train)

    def to(self, device: torch.device | str) -> "Dataset":
        """The dataset with every split on ``device``."""
        names = ("train", "validation", "test", "critic")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def raw(self, images: Tensor) -> Tensor:
        """Undo the normalisation of (…, C, H, W): floats in 0–1."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images * std + mean).clamp(0, 1)
