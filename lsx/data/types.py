"""What a loaded dataset is."""

from collections.abc import Mapping
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
        masks: bool (N, 1, H, W), ground-truth region (decoy patch); None where the data has none.
        index: int64 (N,), row of each image in the source's pool; for disjointness checks and provenance.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """The split with its tensors on ``device``."""
        masks = None if self.masks is None else self.masks.to(device)
        return Split(self.images.to(device), self.labels.to(device), masks, self.index.to(device))

    def take(self, rows: Tensor | slice) -> "Split":
        """Some rows of the split, in that order."""
        masks = None if self.masks is None else self.masks[rows]
        return Split(self.images[rows], self.labels[rows], masks, self.index[rows])


@dataclass(frozen=True)
class Dataset:
    """Train, validation, test and critic images.

    Attributes:
        name: registered dataset name.
        provenance: plain data that says where the images came from (source, root, file checksums, sizes, seed).
        train, validation, test: disjoint splits.
        critic: B_c · b_c images for the critic, in fixed batches of b_c; empty where no stage uses a critic.
        num_classes: K.
        mean, std: of the normalisation; a pixel p in 0–255 becomes (p/255 − mean)/std.
    """

    name: str
    provenance: Mapping[str, Any]
    train: Split
    validation: Split
    test: Split
    critic: Split
    num_classes: int
    mean: float
    std: float

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
        """Undo the normalisation: (…) floats in 0–1."""
        return (images * self.std + self.mean).clamp(0, 1)
