"""What metrics are computed from, each part when it is first asked for."""

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from lsx.config import Config
from lsx.data.types import Dataset, Split
from lsx.errors import ConfigError, unknown
from lsx.metrics import faithfulness
from lsx.metrics.accuracy import at_a_time
from lsx.metrics.encoder import cached, fingerprint, fresh
from lsx.metrics.encoder import encoder as trained_encoder
from lsx.metrics.faithfulness import Subject
from lsx.metrics.maps import Maps, chosen_classes, explain, own_config, reference_config
from lsx.metrics.registry import NotApplicable

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
Source = Literal["own", "reference", "control"]
T = TypeVar("T")


class Context:
    """One learner on one split; every property is made once, when a metric first needs it.

    Attributes:
        learner: images (B, C, H, W) to log-probabilities (B, K).
        dataset: as it was given, on whatever device.
        split: train, validation or test.
        config: the learner's explainer, and how to evaluate.
        seed: of the image selection and of all that is random.
        device: the learner's.
        batch_size: images at a time; bounds memory.

    Raises:
        ConfigError: an unknown split.
    """

    def __init__(
        self,
        learner: nn.Module,
        dataset: Dataset,
        split: SplitName,
        config: Config,
        *,
        encoder: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(unknown("split", split, SPLITS))
        self.learner, self.dataset, self.split, self.config, self.seed = learner, dataset, split, config, seed
        self.device = next((weight.device for weight in learner.parameters()), dataset.train.images.device)
        self.batch_size = config.evaluation.batch_size
        self._encoder = encoder
        self._made: dict[Hashable, object] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` made for this key earlier in this evaluation, else anew: work that metrics share."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]  # type: ignore[assignment]
        return found

    @cached_property
    def whole(self) -> Split:
        """All images of the split, on the device."""
        part: Split = getattr(self.dataset, self.split)
        return part.to(self.device)

    @cached_property
    def part(self) -> Split:
        """The images that are explained: the first ``evaluation.max_images`` of a shuffle by ``seed``."""
        order = torch.randperm(len(self.whole), generator=torch.Generator().manual_seed(self.seed))
        return self.whole.take(order[: self.config.evaluation.max_images].to(self.device))

    @cached_property
    def few(self) -> Split:
        """The first ``evaluation.faithfulness_images`` of ``part``, for what takes many passes."""
        return self.part.take(slice(self.config.evaluation.faithfulness_images))

    @cached_property
    def targets(self) -> Tensor:
        """int64 (N,), the classes of ``part`` that are explained."""
        return chosen_classes(self.learner, self.part, own_config(self.config), self.batch_size)

    @cached_property
    def own(self) -> Maps:
        """Explanations of ``part`` by the learner's own explainer."""
        return explain(self.learner, self.part, own_config(self.config), self.batch_size, seed=self.seed)

    @cached_property
    def reference(self) -> Tensor:
        """(N, C, H, W), by the reference explainer, normalized per sample."""
        settings = reference_config(self.config)
        if own_config(self.config).model_copy(update={"normalization": "sample"}) == settings:
            return self.own.sample
        return explain(self.learner, self.part, settings, self.batch_size, seed=self.seed).sample

    @cached_property
    def control(self) -> Tensor:
        """(N, C, H, W), as ``reference`` but of an untrained learner.

        The same for a whole study, so made once per process.
        """
        config, part = self.config, self.part
        settings, name, seed = reference_config(config), config.model.name, config.data.seed
        key = ("control", fingerprint(part.images, part.labels), name, str(settings), seed, self.seed, str(self.device))

        def make() -> Tensor:
            untrained = fresh(name, self.dataset.image_shape, self.dataset.num_classes, seed, self.device)
            return explain(untrained, part, settings, self.batch_size, seed=self.seed).sample

        return cached(key, make)

    def maps(self, source: Source) -> Tensor:
        """(N, C, H, W), explanations of ``part`` normalized per sample."""
        if source == "own":
            return self.own.sample
        return self.reference if source == "reference" else self.control

    @property
    def masks(self) -> Tensor:
        """bool (N, 1, H, W), where the confounder is.

        Raises:
            NotApplicable: the split has none.
        """
        if self.part.masks is None:
            raise NotApplicable(f"the {self.split} images have no masks of a confounder")
        return self.part.masks

    @property
    def foreground(self) -> Tensor:
        """bool (N, 1, H, W), where the object is.

        Raises:
            NotApplicable: the split has none.
        """
        if self.part.foreground is None:
            raise NotApplicable(f"the {self.split} images have no masks of the object itself")
        return self.part.foreground

    @cached_property
    def encoder(self) -> nn.Module:
        """The network whose encodings IIES compares.

        Raises:
            NotApplicable: ``evaluation.encoder_epochs`` is 0, and none was given.
        """
        epochs = self.config.evaluation.encoder_epochs
        if self._encoder is None and epochs == 0:
            raise NotApplicable("evaluation.encoder_epochs is 0, so there is no network to encode explanations")
        return self._encoder or trained_encoder(self.dataset.to(self.device), epochs, self.config.data.seed)

    @cached_property
    def subject(self) -> Subject:
        """The learner and ``few``, for the removal of pixels."""
        # The replacement is that of all explained images: a median of few would depend on their number.
        value = faithfulness.replacement(self.part.images, self.config.evaluation.replacement)
        batch_size = at_a_time(self.part.images, self.batch_size)
        return faithfulness.subject(self.learner, self.few.images, self.few.labels, value, batch_size)
