"""Typed parameters: every key that ``conf/`` or ``--params`` may set.

All values are in ``conf/``; nothing here has a default. Unknown keys are refused and all limits are
checked here, so that an impossible configuration ends the run with one line before any work starts.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import click
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from selfie_pipeline.printable import is_printable, shorten


def _check_cells_at_once(value: object) -> object:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise PydanticCustomError("not_allowed", "auto, or a whole number, 1 or more")


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|min|h)")
_UNIT_S = {"s": 1, "min": 60, "h": 3600}


def _check_duration(value: object) -> object:
    if value is None or (isinstance(value, str) and parse_duration(value) > 0):
        return value
    raise PydanticCustomError("not_allowed", "a time above 0 such as 90s, 30min or 8h, or null")


def _check_line(text: str) -> str:
    if not text or not is_printable(text):
        raise PydanticCustomError("not_allowed", "not a line of text without control characters")
    return text


def _check_distinct(values: list[object]) -> list[object]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("not_allowed", "each value once")
    return values


def parse_duration(text: str) -> float:
    """Return the seconds of a time such as 90s, 30min or 8h; 0 if it is none."""
    match = _DURATION.fullmatch(text)
    return float(match[1]) * _UNIT_S[match[2]] if match else 0.0


PositiveFraction = Annotated[float, Field(gt=0, le=1, description="a number in (0, 1]")]
Fraction = Annotated[float, Field(ge=0, le=1, description="a number in [0, 1]")]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
NonNegativeFloat = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="a number, 0 or more")
]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="a whole number from 0 to 4294967295")]
PositiveInt = Annotated[int, Field(ge=1, description="a whole number, 1 or more")]
NonNegativeInt = Annotated[int, Field(ge=0, description="a whole number, 0 or more")]
IntAtLeastTwo = Annotated[int, Field(ge=2, description="a whole number, 2 or more")]
FilesOrNone = Annotated[
    list[str] | None,
    BeforeValidator(lambda files: [files] if isinstance(files, str) else files),
    Field(description="a file, a list of files, or null"),
]
CellsAtOnce = Annotated[
    Literal["auto"] | int,
    BeforeValidator(_check_cells_at_once),  # or pydantic reports one error per member of the union
    Field(description="auto, or a whole number, 1 or more"),
]
DurationOrNone = Annotated[
    str | None,
    BeforeValidator(_check_duration),
    Field(description="a time above 0 such as 90s, 30min or 8h, or null"),
]
Line = Annotated[
    str, AfterValidator(_check_line), Field(description="a line of text without control characters")
]
Flag = Annotated[bool, Field(description="true or false")]


_MOST_EXPLAINED = 10
"""Largest number of parameters that one message explains."""


class UserError(click.ClickException):
    """An error that the user can fix; its message is one line, with which it ends any command."""


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataConfig(_StrictModel):
    """The data set and the location of its raw files."""

    name: Line
    """Name of the data set in results and reports. The paper's numbers are shown next to those of
    cifar10, imagenet32 and imagenet224."""
    source: Literal["digits", "cifar10", "imagenet32", "image_folder"]
    """Reader for the layout of its files: the module of that name in `sources/`."""
    folder: str | None
    """Folder of the raw files, absolute or relative to the project; null for a source that needs
    none."""
    labels: FilesOrNone
    """Label tables (CSV, TSV, Parquet) of an `image_folder`, absolute or relative to the project.
    A later one takes precedence over an earlier one, and both over folder names."""
    image_column: str | None
    """Column of the files in a label table, or of the images in Parquet files; null: found
    by its name or type."""
    class_column: str | None
    """Column of the classes in a label table or in Parquet files; null: found by its name, or in
    Parquet files by its type."""
    split_column: str | None
    """Column of the splits in a label table; null: found by its name, if there is one."""
    max_unreadable: Fraction
    """Largest fraction of the image files that may be unreadable; a larger one ends the run."""
    drop_leaked: Flag
    """Leave images that are also in the test split, as they are or in another version, out of
    pretraining and finetuning."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.labels is not None and self.source != "image_folder":
            raise ValueError(
                f"data.labels is not allowed with data.source = {self.source!r}; allowed: null, as "
                "only an image_folder needs label tables"
            )
        return self


class PatchConfig(_StrictModel):
    """The patch grid that images are cut into (paper, "Pretraining Details")."""

    canvas_size: PositiveInt
    """Side of the canvas (the stored image) in pixels; above `image_size` for random crops."""
    image_size: PositiveInt
    """Side of the window (the crop that the network sees) in pixels."""
    patch_size: PositiveInt
    """Side of a patch in pixels."""
    targets: IntAtLeastTwo
    """Number of masked patches per image; its other patches are the context."""

    @property
    def grid_size(self) -> int:
        """The number of patches along one side of the window."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """The number of patches in the window."""
        return self.grid_size**2

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, size in (("image_size", self.image_size), ("canvas_size", self.canvas_size)):
            if size % self.patch_size:
                common = math.gcd(self.image_size, self.canvas_size)
                divisors = [str(d) for d in range(2, self.image_size // 2 + 1) if common % d == 0]
                raise ValueError(
                    f"patch.patch_size = {self.patch_size} does not divide patch.{name} = {size}; "
                    f"allowed: {', '.join(divisors) or 'none with these sizes, so change them'}"
                )
        if self.canvas_size < self.image_size:
            raise ValueError(
                f"patch.canvas_size = {self.canvas_size} is smaller than patch.image_size = "
                f"{self.image_size}; allowed: {self.image_size} or more"
            )
        if self.grid_size == 1:
            raise ValueError(
                f"patch.patch_size = {self.patch_size} leaves a single patch of "
                f"{self.image_size} × {self.image_size}, so there is nothing to mask; allowed: "
                f"{self.image_size // 2} or less"
            )
        if self.targets >= self.patches:
            raise ValueError(
                f"patch.targets = {self.targets} leaves no context: the {self.grid_size} × "
                f"{self.grid_size} grid has {self.patches} patches; allowed: 2 to "
                f"{self.patches - 1}"
            )
        return self


class AugmentationConfig(_StrictModel):
    """Random augmentation of the training images."""

    pad: NonNegativeInt
    """Zero padding on each side before the random crop, in pixels."""
    flip: Flag
    """Mirror each image left to right with probability 0.5."""


class AttentionConfig(_StrictModel):
    """The attention pooling network A (paper, "Attention Pooling")."""

    blocks: PositiveInt
    """Number of transformer blocks."""
    heads: PositiveInt
    """Number of attention heads per block; must divide 16 × `model.width`."""
    intermediate: PositiveInt
    """Hidden width of the feed-forward network in each block."""
    dropout: FractionBelowOne
    """Dropout rate on the output of each sublayer."""
    attention_dropout: FractionBelowOne
    """Dropout rate on the attention weights."""


class ModelConfig(_StrictModel):
    """The networks: a ResNet, whose first three stages are P, and attention pooling A."""

    layers: Annotated[
        list[PositiveInt],
        Field(min_length=4, max_length=4, description="a list of four whole numbers"),
    ]
    """Number of bottleneck blocks in each of the four stages; 3, 4, 6, 3 is ResNet-50."""
    width: Annotated[int, Field(ge=8, multiple_of=8, description="a multiple of 8")]
    """Channels of the stem; the stages have 4, 8, 16 and 32 times as many. ResNet-50 has 64."""
    stem: Literal["small", "standard"]
    """`small`: 3×3, stride 1. `standard`: 7×7, stride 2, then max-pooling."""
    preactivation: Flag
    """`true`: pre-activation blocks (ResNet v2). `false`: the blocks of ResNet v1."""
    normalise_before_pooling: Flag
    """Apply BatchNorm and ReLU to the output of P's last stage before global average pooling."""
    positions: Literal["table", "row_column"]
    """`table`: a learned vector per position. `row_column`: a sum of one per row and per column."""
    encoder_positions: Flag
    """Add position embeddings to the context vectors before A."""
    attention: AttentionConfig

    @property
    def features(self) -> int:
        """The length of P's feature vector of a patch."""
        return 16 * self.width

    @property
    def stride(self) -> int:
        """The stride of P's feature map in pixels."""
        return 4 if self.stem == "small" else 16

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.features % self.attention.heads:
            raise ValueError(
                f"model.attention.heads = {self.attention.heads} does not divide 16 × model.width "
                f"= {self.features}; allowed: a divisor of {self.features}"
            )
        return self


class TrainingConfig(_StrictModel):
    """Training hyperparameters: stochastic gradient descent, warm-up, then cosine decay."""

    steps: PositiveInt
    """Number of optimiser steps, each on one batch."""
    batch_size: IntAtLeastTwo
    """Number of images per step."""
    accumulate: PositiveInt
    """Number of micro-batches per batch (gradient accumulation), to save memory."""
    peak_learning_rate: PositiveFloat
    """Learning rate at the end of the warm-up."""
    warmup_steps: NonNegativeInt
    """Number of steps over which the learning rate rises linearly before its cosine decay."""
    momentum: FractionBelowOne
    """Nesterov momentum."""
    weight_decay: NonNegativeFloat
    """L2 penalty on every weight."""
    clip_norm: PositiveFloat | None
    """Largest gradient norm over all weights; null for no clipping."""
    smallest_crop: PositiveFraction | None
    """Smallest area of a random resized crop, as a fraction of the canvas; null for crops at the
    stored scale. Crops that do not fit are clipped to the canvas, so areas above
    0.75 may shrink, to no less than 0.75."""
    colour_jitter: Fraction
    """Strength of random changes of brightness, contrast, saturation and hue, and 20 % grey; 0 for
    none. In pretraining each patch changes on its own, so that colours do not
    give a masked patch away."""
    log_every: PositiveInt
    """Number of steps between two rows of the history, from which convergence is judged; with more
    than a fifth of the steps, it may go unnoticed."""
    checkpoint_every: PositiveInt
    """Number of steps between two checkpoints, from which an interrupted training resumes."""


class PretrainConfig(TrainingConfig):
    """Pretraining hyperparameters."""

    seed: Seed
    """Seed of the pretraining. The top-level `seed` is that of the finetuning."""
    images: PositiveInt | None
    """Number of training images to pretrain on, drawn at random; null for all. Set it only with
    --params: paths in the catalog depend on it."""
    weights: str | None
    """A safetensors file that P begins from, like the top-level `weights`; null for a random start.
    Set it only with --params: paths in the catalog depend on it."""


Architecture = Literal["resnet", "resnet36_attention"]
Arm = Literal["supervised", "selfie", "weights", "weights_selfie"]
TunedName = Literal["peak_learning_rate", "weight_decay", "momentum", "pretrained_rate"]


class FinetuneConfig(TrainingConfig):
    """Finetuning hyperparameters and network, the same for all arms."""

    architecture: Architecture
    """`resnet`: all four stages. `resnet36_attention`: P, then A instead of the fourth stage."""
    reestimate_statistics: Flag
    """Re-estimate the pretrained BatchNorm statistics, which are those of patches, on entire
    labeled images before the first step. Training does not use running statistics and overwrites
    them at BatchNorm's momentum, so after some hundred steps this makes no difference."""
    pretrained_rate: PositiveFloat
    """Learning rate of the pretrained layers, as a factor of that of the newly initialised ones."""
    tuned: list[TunedName]
    """Names of the tuned values in this group; set by the experiment, for the records."""


class ExperimentConfig(_StrictModel):
    """The grid of finetunings behind a results table."""

    labeled_fracs: Annotated[
        list[PositiveFraction],
        AfterValidator(_check_distinct),
        Field(min_length=1, description="a list of distinct numbers in (0, 1]"),
    ]
    """Values of `labeled_frac` in the grid."""
    seeds: Annotated[
        list[Seed],
        AfterValidator(_check_distinct),
        Field(min_length=1, description="a list of distinct whole numbers"),
    ]
    """Values of `seed` in the grid."""
    arms: Annotated[
        list[Arm],
        AfterValidator(_check_distinct),
        Field(min_length=1, description=f"a list of {', '.join(get_args(Arm))}, each at most once"),
    ]
    """`supervised`: trained from scratch. `selfie`: finetuned from the encoder. `weights`: from the
    file `weights`. `weights_selfie`: from an encoder whose pretraining began from that file."""


class RangeConfig(_StrictModel):
    """The search range of a tuned parameter."""

    low: PositiveFloat
    """Smallest value."""
    high: PositiveFloat
    """Largest value."""
    log: Flag
    """Search on a logarithmic scale."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"tune.space has a range from {self.low:g} to {self.high:g}; allowed: low less "
                "than high"
            )
        return self

    def at(self, share: float) -> float:
        """Return the value at a share of the range, in [0, 1)."""
        if self.log:
            return self.low * math.pow(self.high / self.low, share)
        return self.low + (self.high - self.low) * share


class TuneConfig(_StrictModel):
    """The search for finetuning hyperparameters, for each arm and labeled fraction."""

    seed: Seed
    """Seed of the validation split, the labeled subset, the trainings and the search."""
    trials: PositiveInt
    """Number of trainings per arm and labeled fraction; the first uses the recipe's values."""
    validation_share: Annotated[float, Field(gt=0, lt=1, description="a number in (0, 1)")]
    """Fraction of the training samples that is held out to score the trials."""
    space: Annotated[
        dict[TunedName, RangeConfig],
        Field(min_length=1, description="ranges of finetune's parameters by their names"),
    ]
    """Search range (`low`, `high`, `log`) of each finetuning parameter to be tuned."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        momentum = self.space.get("momentum")
        if momentum is not None and momentum.high >= 1:
            raise ValueError(f"tune.space.momentum.high = {momentum.high:g}; allowed: less than 1")
        return self


class RatioConfig(_StrictModel):
    """The study of the amount of unlabeled data: pretraining on fewer images."""

    images: Annotated[
        list[PositiveInt], Field(min_length=1, description="a list of whole numbers, 1 or more")
    ]
    """Numbers of images to pretrain on, in addition to all of them."""


class PredictConfig(_StrictModel):
    """Classification of image files."""

    arm: Literal["supervised", "selfie", "weights"]
    """Arm of the classifier. Set it with --params, or as `arm` in globals.yml: paths in the catalog
    depend on it."""
    runtime: Literal["torch", "onnxruntime"]
    """`torch`: on the device of `compute`. `onnxruntime`: on the CPU in fp32, after some
    seconds of conversion; faster on processors without bf16; needs the extra `export`."""


class EmbedConfig(_StrictModel):
    """Image embedding: one vector per image, from the encoder."""

    layer: Literal["stage3", "u"]
    """`stage3`: P on the entire image, averaged over the feature map. `u`: P on patches, then A."""
    map: Literal["pca", "tsne"]
    """Projection of the vectors onto the two dimensions of the map."""
    points: PositiveInt
    """Largest number of images on the map; if there are more, they are drawn at random."""


class SuggestConfig(_StrictModel):
    """Choice of the images most worth labeling."""

    count: PositiveInt
    """Number of images to suggest."""
    candidates: PositiveInt
    """Number of the least certain images, for each one to suggest, among which different ones are
    chosen; 1 for the least certain ones alone."""


class ExportConfig(_StrictModel):
    """Export of the classifier for use outside this project."""

    licence: str
    """Identifier of the weights' licence on the Hugging Face Hub: `mit`, `cc-by-nc-4.0` …"""


class ComputeConfig(_StrictModel):
    """Hardware, precision and distribution of trainings."""

    accelerator: Literal["auto", "cpu", "gpu"]
    """`auto`: a GPU if torch sees one, otherwise the CPU."""
    precision: Literal["auto", "bf16", "fp32"]
    """`auto`: bf16 mixed precision if the processor has the instructions, otherwise fp32."""
    compile: Literal["auto", "always", "never"]
    """`auto`: compile the network on a GPU, unless `deterministic` is true; on CPUs, measurements
    showed no gain."""
    deterministic: Flag
    """On a GPU, compute only with algorithms that give the same bits each time; slower."""
    engine: Literal["local", "ray"]
    """`local`: this process. `ray`: the Ray cluster at the environment variable RAY_ADDRESS, or a
    temporary one on this machine; needs the extra `ray`."""
    workers: PositiveInt
    """With `ray`: number of workers that share each batch of a training. If the cluster has GPUs,
    each worker gets one, unless `accelerator` is cpu."""
    cpus_per_worker: PositiveInt
    """With `ray`: number of CPU cores, and of threads, per worker."""
    batch_norm: Literal["synchronised", "local"]
    """BatchNorm statistics with several workers. `synchronised`: over the images of all workers,
    as a single worker would compute them. `local`: over the images of each worker."""
    cells_at_once: CellsAtOnce
    """With `local`: number of cells of the experiment, or searches of the tuning, that run side by
    side, each in a process of its own. `auto`: as many as cores and memory allow; on a GPU, one."""
    cpus_per_cell: PositiveFloat
    """Number of CPU cores, and of threads, per cell of the experiment or trial of the tuning. With
    another number, a CPU rounds differently."""
    gpus_per_cell: PositiveFraction
    """With `ray`: fraction of a GPU per cell or trial, if the cluster has GPUs."""
    max_failures: NonNegativeInt
    """With `ray`: how often a training resumes by itself after a worker's death, or a cell or
    trial is retried."""

    @property
    def threads_per_cell(self) -> int:
        """The number of threads per cell or trial: `cpus_per_cell`, rounded down, but 1 or more."""
        return max(1, int(self.cpus_per_cell))


class TrackingConfig(_StrictModel):
    """Experiment tracking in addition to the catalog; it changes no result."""

    mlflow: Literal["auto", "never"]
    """`auto`: track runs with MLflow if it is installed."""
    mlflow_uri: str | None
    """MLflow's tracking URI; null for $MLFLOW_TRACKING_URI, or data/mlflow.db if it is not set."""
    tensorboard: Flag
    """Also write the trainings' histories as curves for TensorBoard."""


class Config(_StrictModel):
    """All parameters of a run."""

    labeled_frac: PositiveFraction
    """Fraction of the training samples whose labels finetuning may use."""
    seed: Seed
    """Seed of the finetuning: its labeled subset, initial weights and batches."""
    resume: Literal["auto", "never"]
    """`auto`: an interrupted training resumes from its latest checkpoint, an interrupted `predict`
    after the files that it had classified. `never`: they restart."""
    budget: DurationOrNone
    """Time that the whole run may take. The steps of pretraining and finetuning, and their warm-up,
    then follow from the speed of this machine; see [A time budget](budget.md). null: the steps are
    those of the recipe. Steps given with --params override the budget of a recipe."""
    pretrained_on: str
    """Recipe of the encoder to finetune; a recipe other than the run's makes the run a transfer.
    Set it only with --params: paths in the catalog depend on it."""
    weights: str | None
    """A safetensors file, absolute or relative to the project, that the arm `weights` starts from:
    a ResNet by timm's names, or an encoder or a classifier of this project. null for none."""
    data: DataConfig
    patch: PatchConfig
    augmentation: AugmentationConfig
    model: ModelConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    experiment: ExperimentConfig
    tune: TuneConfig
    ratio: RatioConfig
    images: str | None
    """Images that `predict` classifies: a folder, a file or a pattern such as `photos/*.jpg`,
    absolute or relative to the project; null for none."""
    predict: PredictConfig
    embed: EmbedConfig
    export: ExportConfig
    suggest: SuggestConfig
    compute: ComputeConfig
    tracking: TrackingConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("pretrain", "finetune"):
            recipe: TrainingConfig = getattr(self, name)
            parts = recipe.accumulate * self.compute.workers
            if recipe.batch_size % recipe.accumulate:
                raise ValueError(
                    f"{name}.accumulate = {recipe.accumulate} does not divide {name}.batch_size = "
                    f"{recipe.batch_size}; allowed: a divisor of {recipe.batch_size}"
                )
            if name == "finetune" and recipe.batch_size == recipe.accumulate:
                raise ValueError(
                    f"finetune.accumulate = {recipe.accumulate} leaves micro-batches of one image, "
                    "too few for BatchNorm; allowed: a divisor of finetune.batch_size = "
                    f"{recipe.batch_size} that is less than it"
                )
            is_local = self.compute.engine == "ray" and self.compute.batch_norm == "local"
            if name == "finetune" and is_local and recipe.batch_size == parts:
                raise ValueError(
                    f"compute.workers = {self.compute.workers} × finetune.accumulate = "
                    f"{recipe.accumulate} leaves one image of finetune.batch_size = "
                    f"{recipe.batch_size} for each worker's BatchNorm; allowed: fewer workers, or "
                    "compute.batch_norm=synchronised"
                )
            if self.compute.engine == "ray" and recipe.batch_size % parts:
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
        if self.weights is None and {"weights", "weights_selfie"} & set(self.experiment.arms):
            raise ValueError(
                f"experiment.arms = {self.experiment.arms} needs a file, but weights = null; "
                "set weights=FILE, or leave out weights and weights_selfie"
            )
        hybrid = self.finetune.architecture == "resnet36_attention"
        if hybrid and self.patch.patch_size % self.model.stride:
            raise ValueError(
                f"patch.patch_size = {self.patch.patch_size} does not fit finetune.architecture = "
                f"resnet36_attention: its feature map has a stride of {self.model.stride} pixels; "
                f"allowed: a multiple of {self.model.stride}"
            )
        return self


def load_config(parameters: Mapping[str, Any]) -> Config:
    """Check Kedro's parameters and return them typed.

    Args:
        parameters: The merged parameters, as plain dictionaries, lists and scalars.

    Returns:
        The typed parameters.

    Raises:
        UserError: A key is unknown or missing, or a value is of the wrong type or not allowed.
            The message is one line that names each key and its value and says what is allowed;
            of many, the first ten.
    """
    try:
        return Config.model_validate(dict(parameters))
    except ValidationError as error:
        # Of an unknown name, pydantic may report both the name and its value.
        lines = list(dict.fromkeys(map(_explain, error.errors(include_url=False))))
        if len(lines) > _MOST_EXPLAINED:
            lines[_MOST_EXPLAINED:] = [f"and {len(lines) - _MOST_EXPLAINED:,} more"]
        raise UserError("; ".join(lines)) from None


def _explain(details: ErrorDetails) -> str:
    """Return a message for one of pydantic's findings."""
    location = [str(part) for part in details["loc"]]
    key = shorten(".".join(location))
    field: FieldInfo | None = None
    members: Mapping[str, FieldInfo] = Config.model_fields
    for depth, part in enumerate(location, 1):
        if members and part not in members:
            close = difflib.get_close_matches(part, members, n=1)
            guess = f"did you mean {close[0]}? " if close else ""
            key = shorten(".".join(location[:depth]))
            return f"{key} is not a parameter; {guess}allowed here: {', '.join(members)}"
        field = members.get(part)
        members = _find_members(field)
    if details["type"] == "missing":
        return f"{key} is missing; set its default in conf/base"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if details["type"] == "value_error":
        return message
    if details["type"] == "model_type":
        message = f"its members, one by one, such as {key}.{next(iter(members))}"
    allowed = field.description if field and field.description else message
    return f"{key} = {shorten(repr(details['input']))} is not allowed; allowed: {allowed}"


def _find_members(field: FieldInfo | None) -> Mapping[str, FieldInfo]:
    """Return the parameters that are members of one; none if it is a value."""
    kind = field.annotation if field else None
    if get_origin(kind) is dict:
        names, member = get_args(kind)
        return dict.fromkeys(get_args(names), FieldInfo.from_annotation(member))
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
