"""The typed parameters: every key that ``conf/`` or ``--params`` may set.

The values live in ``conf/`` alone; nothing here has a default. Unknown keys are refused, and what
can be said of a value is said here, so that an impossible configuration ends the run with one line
before any work is done.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Fraction = Annotated[float, Field(gt=0, le=1, description="a number in (0, 1]")]
Share = Annotated[float, Field(ge=0, le=1, description="a number in [0, 1]")]
Probability = Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number, 0 or more")]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="a whole number from 0 to 4294967295")]
Count = Annotated[int, Field(ge=1, description="a whole number, 1 or more")]
Whole = Annotated[int, Field(ge=0, description="a whole number, 0 or more")]
AtLeastTwo = Annotated[int, Field(ge=2, description="a whole number, 2 or more")]
Switch = Annotated[bool, Field(description="true or false")]


class UserError(Exception):
    """Something the person at the terminal can mend; the message is one line, written for them."""


class ConfigError(UserError):
    """A parameter is unknown, of the wrong type or not allowed; the message names it."""


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataConfig(_Config):
    """Which data set, and where its raw files lie."""

    name: str
    """What results and reports call it; the paper's numbers stand beside cifar10, imagenet32 and
    imagenet224."""
    source: Literal["digits", "cifar10", "imagenet32", "image_folder"]
    """How its files lie: the reader of that name in `sources/`."""
    folder: str | None
    """Folder of the raw files, absolute or relative to the project; null for a source that needs
    none."""
    max_unreadable: Share
    """Largest share of the image files that may turn out to be none; a larger one ends the run."""


class PatchConfig(_Config):
    """How images are cut into the patch grid (paper, "Pretraining Details")."""

    canvas_size: Count
    """Side of the stored image, pixels; larger than `image_size` where crops are cut from it."""
    image_size: Count
    """Side of the image that the network sees, pixels."""
    patch_size: Count
    """Side of a patch, pixels."""
    targets: AtLeastTwo
    """Masked patches of an image, to be picked; the rest of its patches are the context."""

    @property
    def grid_size(self) -> int:
        """Patches along one side of the image that the network sees."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of the image that the network sees."""
        return self.grid_size**2

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, size in (("image_size", self.image_size), ("canvas_size", self.canvas_size)):
            if size % self.patch_size:
                divisors = [d for d in range(2, size // 2 + 1) if size % d == 0]
                raise ValueError(
                    f"patch.patch_size = {self.patch_size} does not divide patch.{name} = {size}; "
                    f"allowed: {', '.join(map(str, divisors))}"
                )
        if self.canvas_size < self.image_size:
            raise ValueError(
                f"patch.canvas_size = {self.canvas_size} is smaller than patch.image_size = "
                f"{self.image_size}; allowed: {self.image_size} or more"
            )
        if self.grid_size == 1:
            raise ValueError(
                f"patch.patch_size = {self.patch_size} leaves one patch of {self.image_size} × "
                f"{self.image_size}, and no puzzle; allowed: {self.image_size // 2} or less"
            )
        if self.targets >= self.patches:
            raise ValueError(
                f"patch.targets = {self.targets} leaves no context: the {self.grid_size} × "
                f"{self.grid_size} grid has {self.patches} patches; allowed: 2 to "
                f"{self.patches - 1}"
            )
        return self


class AugmentationConfig(_Config):
    """What happens to a training image on its way into a batch."""

    pad: Whole
    """Zero padding on each side before the random crop, pixels."""
    flip: Switch
    """Whether half of the images are mirrored left to right."""


class AttentionConfig(_Config):
    """The attention pooling network A (paper, "Attention Pooling")."""

    blocks: Count
    """Transformer blocks, one after another."""
    heads: Count
    """Attention heads of a block; they divide 16 × `model.width`."""
    intermediate: Count
    """Width of the layer between a block's two linear layers."""
    dropout: Probability
    """On the output of each sublayer."""
    attention_dropout: Probability
    """On the attention weights."""


class ModelConfig(_Config):
    """The networks: ResNet, of which the first three stages are P, and attention pooling A."""

    layers: Annotated[
        list[Count], Field(min_length=4, max_length=4, description="a list of four whole numbers")
    ]
    """Bottleneck blocks in each of the four stages; 3, 4, 6, 3 is ResNet-50."""
    width: Annotated[int, Field(ge=8, multiple_of=8, description="a multiple of 8")]
    """Channels of the stem; the stages have 4, 8, 16 and 32 times as many. 64 is ResNet-50."""
    stem: Literal["small", "standard"]
    """`small`: 3×3, stride 1. `standard`: 7×7, stride 2, then max-pooling."""
    preactivation: Switch
    """Whether the blocks are those of ResNet v2 (true) or v1."""
    normalise_before_pooling: Switch
    """Whether P normalises and activates the last stage's raw sum before its mean over space."""
    positions: Literal["table", "row_column"]
    """One learned vector a position, or the sum of one a row and one a column."""
    encoder_positions: Switch
    """Whether the context vectors carry their positions into A."""
    attention: AttentionConfig

    @property
    def features(self) -> int:
        """Length of the vector that P makes of a patch."""
        return 16 * self.width

    @property
    def stride(self) -> int:
        """Side of the square of pixels that one place of P's map stands for."""
        return 4 if self.stem == "small" else 16

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.features % self.attention.heads:
            raise ValueError(
                f"model.attention.heads = {self.attention.heads} does not divide 16 × model.width "
                f"= {self.features}; allowed: a divisor of {self.features}"
            )
        return self


class TrainingConfig(_Config):
    """A training's recipe: stochastic gradient descent with warm-up, then cosine decay."""

    steps: Count
    """Batches, and so updates of the weights."""
    batch_size: AtLeastTwo
    """Images of one step."""
    accumulate: Count
    """Parts that a batch is computed in, one after another, where it is too large for memory."""
    peak_learning_rate: Positive
    """Learning rate at the end of the warm-up."""
    warmup_steps: Whole
    """Steps over which the learning rate rises linearly, before its cosine decay."""
    momentum: Probability
    """Nesterov momentum."""
    weight_decay: NotNegative
    """L2, on every weight."""
    clip_norm: Positive | None
    """Largest norm of the gradient over all weights; null for no limit."""
    log_every: Count
    """Steps between two rows of the history."""
    checkpoint_every: Count
    """Steps between two checkpoints, from which an interrupted training goes on."""


class PretrainConfig(TrainingConfig):
    """Pretraining's recipe."""

    seed: Seed
    """Of the encoder. `seed` alone, at the top level, is the finetuning's."""
    images: Count | None
    """How many of the training images it sees, drawn at random; null for all."""


Architecture = Literal["resnet", "resnet36_attention"]
Arm = Literal["supervised", "selfie"]


TunedName = Literal["peak_learning_rate", "weight_decay", "momentum", "pretrained_rate"]


class FinetuneConfig(TrainingConfig):
    """Finetuning's recipe and network, the same for both arms."""

    architecture: Architecture
    """`resnet`: the whole ResNet. `resnet36_attention`: P on the whole image, then A in the place
    of the fourth stage."""
    reestimate_statistics: Switch
    """Whether the handed-over BatchNorm statistics, which are of patches, are estimated anew on
    the labeled samples' whole images before the first step. Training reads none and forgets them at
    BatchNorm's momentum: after some hundred steps the result is the same without."""
    pretrained_rate: Positive
    """Learning rate of what was handed over, as a factor of that of what is fresh."""
    tuned: list[TunedName]
    """Which of these values were found by the tuning; set by the experiment, for the records."""


class ExperimentConfig(_Config):
    """The grid of finetunings that a table is made of."""

    labeled_fracs: Annotated[
        list[Fraction], Field(min_length=1, description="a list of numbers in (0, 1]")
    ]
    """The grid's values of `labeled_frac`."""
    seeds: Annotated[list[Seed], Field(min_length=1, description="a list of whole numbers")]
    """The grid's values of `seed`."""
    arms: Annotated[
        list[Arm], Field(min_length=1, description="a list of supervised, selfie or both")
    ]
    """From scratch, pretrained, or both."""


class RangeConfig(_Config):
    """Where the tuning looks for a parameter's value."""

    low: Positive
    """Least value."""
    high: Positive
    """Greatest value."""
    log: Switch
    """Whether the range is searched on a logarithmic scale."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"tune.space has a range from {self.low:g} to {self.high:g}; allowed: low less "
                "than high"
            )
        return self


class TuneConfig(_Config):
    """The search for finetuning's parameters, for each arm and labeled fraction."""

    seed: Seed
    """Of the validation split, the labeled subset, the trainings and the search."""
    trials: Count
    """Trainings for each arm and fraction; the first has the recipe's own values."""
    validation_share: Annotated[float, Field(gt=0, lt=1, description="a number in (0, 1)")]
    """Share of the training samples that are held out to score the trials."""
    space: Annotated[
        dict[TunedName, RangeConfig],
        Field(min_length=1, description="ranges of finetune's parameters by their names"),
    ]
    """Which of finetune's parameters are searched, and where: for each `low`, `high` and `log`."""


class RatioConfig(_Config):
    """How much unlabeled data it takes: pretraining on fewer images."""

    images: Annotated[
        list[Count], Field(min_length=1, description="a list of whole numbers, 1 or more")
    ]
    """Numbers of images to pretrain on, besides all of them."""


class PredictConfig(_Config):
    """What classifies images from files."""

    arm: Arm
    """Whose classifier it is. Set it with --params alone: files lie where it says."""
    runtime: Literal["torch", "onnxruntime"]
    """What computes it. `onnxruntime`: ONNX Runtime, on the CPU and in fp32 whatever `compute`
    says. It is faster there, after some seconds to convert the classifier; the extra `export`."""


class EmbedConfig(_Config):
    """One vector an image, from the encoder."""

    layer: Literal["stage3", "u"]
    """`stage3`: P on the whole image, the mean over its map. `u`: P on every patch, and A over all
    of them."""
    map: Literal["pca", "tsne"]
    """How the vectors come onto the map's two dimensions."""
    points: Count
    """Images on the map, drawn at random where there are more."""


class ExportConfig(_Config):
    """The classifier for others."""

    licence: str
    """Of the weights, as the Hugging Face Hub calls it, such as `mit` or `cc-by-nc-4.0`."""


class ComputeConfig(_Config):
    """What the training runs on."""

    accelerator: Literal["auto", "cpu", "gpu"]
    """`auto`: a GPU where torch sees one, else the CPU."""
    precision: Literal["auto", "bf16", "fp32"]
    """`auto`: bf16 mixed precision where the processor has the instructions, else fp32."""
    compile: Literal["auto", "always", "never"]
    """`auto`: torch compiles the ResNet's stages on a GPU; on CPUs it was measured not to pay."""
    engine: Literal["local", "ray"]
    """`local`: this process. `ray`: the Ray cluster that the environment variable RAY_ADDRESS
    names, or one on this machine that lasts as long as the run; an extra."""
    workers: Count
    """With `ray`: how many compute each batch of a training together; each has a GPU of its own
    where the cluster has GPUs, unless `accelerator` is cpu."""
    cpus_per_worker: Count
    """With `ray`: cores, and threads, of a worker."""
    batch_norm: Literal["synchronised", "local"]
    """With several workers: whether BatchNorm takes its statistics over the rows of all of them,
    as one worker would, or over each worker's own."""
    cpus_per_cell: Positive
    """With `ray`: cores of a cell of the experiment, or of a trial of the tuning."""
    gpus_per_cell: Fraction
    """With `ray`: share of a GPU that a cell or a trial takes, where the cluster has GPUs."""
    max_failures: Whole
    """With `ray`: how many times a training goes on by itself after a worker's death, and a cell
    or a trial is tried again."""


class TrackingConfig(_Config):
    """Where runs are kept account of, beside the catalog; it changes no result."""

    mlflow: Literal["auto", "never"]
    """`auto`: wherever MLflow is installed."""
    mlflow_uri: str | None
    """Where MLflow keeps its runs; null for $MLFLOW_TRACKING_URI, or else data/mlflow.db."""
    tensorboard: Switch
    """Whether the trainings' histories are written as curves for TensorBoard, too."""


class Config(_Config):
    """All parameters of a run."""

    labeled_frac: Fraction
    """Share of the training samples whose labels finetuning may see."""
    seed: Seed
    """Of the finetuning: its labeled subset, fresh weights and batches."""
    resume: Literal["auto", "never"]
    """`auto`: an interrupted training goes on where it stopped; `never`: it starts anew."""
    pretrained_on: str
    """The recipe whose encoder is finetuned; another one than the run's own is a transfer. Set it
    with --params alone: files lie where it says."""
    data: DataConfig
    patch: PatchConfig
    augmentation: AugmentationConfig
    model: ModelConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    """The recipe of both arms: from the pretrained stages, and from scratch."""
    experiment: ExperimentConfig
    tune: TuneConfig
    ratio: RatioConfig
    images: str | None
    """Folder of the images that `predict` classifies, absolute or relative to the project; null
    for none."""
    predict: PredictConfig
    embed: EmbedConfig
    export: ExportConfig
    compute: ComputeConfig
    tracking: TrackingConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("pretrain", "finetune"):
            recipe: TrainingConfig = getattr(self, name)
            shares = recipe.accumulate * self.compute.workers
            if recipe.batch_size % recipe.accumulate:
                raise ValueError(
                    f"{name}.accumulate = {recipe.accumulate} does not divide {name}.batch_size = "
                    f"{recipe.batch_size}; allowed: a divisor of {recipe.batch_size}"
                )
            if self.compute.engine == "ray" and recipe.batch_size % shares:
                raise ValueError(
                    f"compute.workers = {self.compute.workers} × {name}.accumulate = "
                    f"{recipe.accumulate} does not divide {name}.batch_size = "
                    f"{recipe.batch_size}; allowed: workers × accumulate a divisor of "
                    f"{recipe.batch_size}"
                )
            if recipe.warmup_steps >= recipe.steps:
                raise ValueError(
                    f"{name}.warmup_steps = {recipe.warmup_steps} leaves no step after the "
                    f"warm-up; allowed: less than {name}.steps = {recipe.steps}"
                )
        hybrid = self.finetune.architecture == "resnet36_attention"
        if hybrid and self.patch.patch_size % self.model.stride:
            raise ValueError(
                f"patch.patch_size = {self.patch.patch_size} does not fit finetune.architecture = "
                f"resnet36_attention: one place of its map stands for {self.model.stride} × "
                f"{self.model.stride} pixels; allowed: a multiple of {self.model.stride}"
            )
        return self


def load_config(parameters: Mapping[str, Any]) -> Config:
    """Check Kedro's parameters as a whole.

    Args:
        parameters: The merged parameters, as plain dictionaries, lists and scalars.

    Returns:
        The same, typed.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of the wrong type or not allowed.
            The message names key and value of each, says what is allowed, and is one line.
    """
    try:
        return Config.model_validate(dict(parameters))
    except ValidationError as error:
        lines = [_explain(details) for details in error.errors(include_url=False)]
        raise ConfigError("; ".join(lines)) from None


def _explain(details: ErrorDetails) -> str:
    """One of pydantic's findings, as a person would say it."""
    location = [str(part) for part in details["loc"]]
    key = ".".join(location)
    siblings = _fields_beside(location)
    if details["type"] == "extra_forbidden":
        close = difflib.get_close_matches(location[-1], siblings, n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        return f"{key} is not a parameter; {guess}allowed here: {', '.join(siblings)}"
    if details["type"] == "missing":
        return f"{key} is missing; its default belongs into conf/base"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if details["type"] == "value_error":
        return message
    field = siblings.get(location[-1])
    if details["type"] == "model_type" and field:
        message = (
            f"its parts, one by one, such as {key}.{next(iter(_fields_beside([*location, ''])))}"
        )
    allowed = field.description if field and field.description else message
    return f"{key} = {details['input']!r} is not allowed; allowed: {allowed}"


def _fields_beside(location: list[str]) -> dict[str, FieldInfo]:
    """The parameters that exist where the last part of a location was found."""
    model: type[BaseModel] = Config
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break  # an item of a list
        model = annotation
    return dict(model.model_fields)
