"""What a loaded dataset is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lsx.errors import DataError

_SPLITS = ("train", "validation", "test", "critic")


@dataclass(frozen=True)
class Split:
    """Images of one purpose, normalised and resident on one device.

    Attributes:
        images: float32 (N, C, H, W), normalised.
        labels: int64 (N,), 0 ≤ label < K.
        masks: bool (N, 1, H, W), where the confounder is (decoy patch); None where the data has none.
        index: int64 (N,), row of each image in its source; for disjointness checks and provenance.
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
        provenance: plain data that says where the images came from (source, root, file checksums, sizes, seed), and
            their normalisation.
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
        return self._each(lambda split: split.to(device))

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "Dataset":
        """The same images in other units: a network wants those that it was trained with, whatever is loaded now.

        Args:
            mean: (C,), see the attribute.
            std: (C,), above 0.

        Returns:
            All splits with that normalisation, which ``provenance`` says too; the dataset itself where it has it.

        Raises:
            DataError: other than C numbers, or a std that is not above 0.
        """
        means, stds = tuple(map(float, mean)), tuple(map(float, std))
        if (means, stds) == (self.mean, self.std):
            return self
        channels = len(self.mean)
        if len(means) != channels or len(stds) != channels or not all(value > 0 for value in stds):
            raise DataError(f"mean {means} and std {stds} must be {channels} numbers, one per channel, std above 0")
        scale = [old / new for old, new in zip(self.std, stds, strict=True)]
        shift = [(old - new) / unit for old, new, unit in zip(self.mean, means, stds, strict=True)]

        def change(split: Split) -> Split:
            factor, offset = (split.images.new_tensor(values)[:, None, None] for values in (scale, shift))
            return replace(split, images=split.images * factor + offset)

        provenance = {**self.provenance, "mean": list(means), "std": list(stds)}
        return replace(self._each(change), provenance=provenance, mean=means, std=stds)

    def raw(self, images: Tensor) -> Tensor:
        """Undo the normalisation of (…, C, H, W): floats in 0–1."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images * std + mean).clamp(0, 1)

    def _each(self, change: Callable[[Split], Split]) -> "Dataset":
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in _SPLITS}
        return replace(self, **changed)
