"""Dataset types of results: checked when they are loaded, one by one or all at once."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, get_args

import numpy as np
import pandas as pd
from kedro.io.core import AbstractDataset, DatasetError, VersionNotFoundError
from kedro_datasets._typing import JSONPreview
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import from_json

from selfie_pipeline.config import (
    Arm,
    Fraction,
    Line,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFraction,
    PositiveInt,
    Seed,
    TunedName,
)
from selfie_pipeline.datasets.atomic import CatalogError, MissingVersionError
from selfie_pipeline.datasets.tables import AtomicCSVDataset, AtomicParquetDataset
from selfie_pipeline.datasets.text import AtomicJSONDataset, OptionalJSONDataset
from selfie_pipeline.printable import explain

_LOG = logging.getLogger(__name__)

Split = Literal["train", "test", "unlabeled"]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Stored(BaseModel):
    """The part of a stored result that is read again; there may be more."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Training(_Stored):
    loss: NonNegativeFloat
    loss_before: NonNegativeFloat | None
    loss_middle: NonNegativeFloat | None = None  # results of earlier commits have neither
    loss_first: NonNegativeFloat | None = None
    accuracy: Fraction
    held_out_half: Fraction | None = None
    held_out: Fraction | None = None


class _Configuration(_Stored):
    pretrain: dict[str, Any] = {}


class _Provenance(_Stored):
    configuration: _Configuration
    data: Line
    classifier: Line
    encoder: Line | None
    tuned: dict[str, _Finite]
    pretraining_images: PositiveInt | None
    versions: dict[str, str] = {}
    training: _Training | None = None


class _Result(_Stored):
    """The content of a metrics.json."""

    data: Line
    network: Line
    arm: Arm
    labeled_frac: PositiveFraction
    labels: PositiveInt
    seed: Seed
    accuracy: Fraction
    loss: NonNegativeFloat
    test_samples: PositiveInt
    correct: Annotated[str, Field(pattern="^([0-9a-f]{2})+$")]
    configuration: Line
    provenance: _Provenance

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.correct) != 2 * math.ceil(self.test_samples / 8):
            raise ValueError(f"correct does not have {self.test_samples} answers")
        right = int(self.correct, 16).bit_count()
        if not math.isclose(right / self.test_samples, self.accuracy, abs_tol=1e-9):
            raise ValueError(
                f"accuracy = {self.accuracy}, but correct has {right} of {self.test_samples}"
            )
        return self


class _HistoryRow(_Stored):
    step: PositiveInt
    loss: NonNegativeFloat
    accuracy: Fraction
    learning_rate: NonNegativeFloat


class _Prediction(_Stored):
    sample: NonNegativeInt
    label: NonNegativeInt
    predicted: NonNegativeInt
    probability: Fraction
    runner_up: NonNegativeInt
    correct: bool

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.correct != (self.label == self.predicted):
            raise ValueError(f"sample {self.sample} has correct = {self.correct}")
        return self


class _SearchResult(BaseModel):
    """An entry of best_settings.json, which has no more fields."""

    model_config = ConfigDict(extra="forbid", strict=True)

    study: Line
    arm: Arm
    labeled_frac: PositiveFraction
    settings: dict[TunedName, NonNegativeFloat]
    validation_accuracy: Fraction
    trials: PositiveInt
    setup: str = ""


class _TuningTrial(_Stored):
    arm: Arm
    labeled_frac: PositiveFraction
    trial: PositiveInt
    state: Literal["complete", "pruned"]
    study: Line


class _SplitCheck(_Stored):
    split: Split
    images: NonNegativeInt
    unreadable: NonNegativeInt
    classes: NonNegativeInt
    smallest_class: NonNegativeInt
    largest_class: NonNegativeInt
    copies: NonNegativeInt


class _Overlap(_Stored):
    first: Split
    second: Split
    pairs: NonNegativeInt
    exact: NonNegativeInt
    near: NonNegativeInt
    second_images: NonNegativeInt
    other_class: NonNegativeInt


class _DuplicatePair(_Stored):
    first_sample: NonNegativeInt
    first_split: Split
    first_class_name: str
    first_place: str
    second_sample: NonNegativeInt
    second_split: Split
    second_class_name: str
    second_place: str
    similarity: Fraction
    kind: Literal["exact", "near"]


class _DataCheck(_Stored):
    """The content of a data_check.json."""

    splits: Annotated[list[_SplitCheck], Field(min_length=1)]
    overlaps: list[_Overlap]
    dropped: NonNegativeInt
    examples: list[_DuplicatePair]


class _CheckedLoadMixin:
    """Mixin that checks what `load` returns.

    List it before one of this package's types. It must not inherit from a Kedro type, because Kedro
    would then replace that type's `__init__`.
    """

    _model: ClassVar[TypeAdapter[Any]]

    def load(self: Any) -> Any:
        """Load the requested version, by default the latest.

        Raises:
            CatalogError: It is damaged; the message names the file.
            MissingVersionError: A version of an optional file is requested that does not exist.
            VersionNotFoundError: There is no version.
        """
        try:
            content = super().load()  # type: ignore[misc]
            self._check(content)
        except (VersionNotFoundError, MissingVersionError):
            raise
        except (DatasetError, ValueError) as error:
            raise CatalogError(
                f"{self._get_load_path()} can't be used: {explain(error)}; delete its folder, and "
                "make it again or use an earlier version"
            ) from error
        return content

    def _check(self, content: Any) -> None:
        """Raise ValueError if the content is damaged."""
        is_table = isinstance(content, pd.DataFrame)
        self._model.validate_python(content.to_dict("records") if is_table else content)


class ResultDataset(_CheckedLoadMixin, AtomicJSONDataset):
    """The result of a finetuning as a JSON file: a cell of the results table."""

    _model = TypeAdapter(_Result)


class HistoryDataset(_CheckedLoadMixin, AtomicCSVDataset):
    """The history of a training as a CSV file."""

    _model = TypeAdapter(Annotated[list[_HistoryRow], Field(min_length=1)])


class PredictionsDataset(_CheckedLoadMixin, AtomicParquetDataset):
    """The predictions for the test split as a Parquet file."""

    _model = TypeAdapter(Annotated[list[_Prediction], Field(min_length=1)])


class BestSettingsDataset(_CheckedLoadMixin, OptionalJSONDataset):
    """The results of the tuning's searches as a JSON file; an empty list if there is none."""

    _model = TypeAdapter(list[_SearchResult])


class TuningTrialsDataset(_CheckedLoadMixin, AtomicCSVDataset):
    """The trials of the tuning's searches as a CSV file."""

    _model = TypeAdapter(Annotated[list[_TuningTrial], Field(min_length=1)])


class DataCheckDataset(_CheckedLoadMixin, OptionalJSONDataset):
    """The check of the data as a JSON file; an empty list before the first check."""

    _model = TypeAdapter(_DataCheck | Annotated[list[Any], Field(max_length=0)])


class SamplesDataset(_CheckedLoadMixin, AtomicParquetDataset):
    """A table of samples as a Parquet file; it may have millions of rows."""

    def _check(self, content: Any) -> None:
        numbers, texts = {"sample", "label"}, {"split", "class_name", "place"}
        if missing := (numbers | texts) - set(content):
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        for name in sorted(numbers):
            if content[name].dtype != np.int64:
                raise ValueError(f"{name} has the type {content[name].dtype}, not int64")
        for name in sorted(texts):
            if not content[name].map(type).eq(str).all():
                raise ValueError(f"{name} is not text in each row")
        if unknown := set(content["split"]) - set(get_args(Split)):
            raise ValueError(
                f"split = {min(unknown)[:80]!r}, not one of {', '.join(get_args(Split))}"
            )
        if (content["sample"].diff() <= 0).any() or (content["sample"] < 0).any():
            raise ValueError("sample is not ascending from 0 or more")
        if not content["label"].between(-1, len(content) - 1).all():
            raise ValueError(f"label is not from -1 to {len(content) - 1}")


class AllVersionsDataset(AbstractDataset[NoReturn, list[dict[str, Any]]]):
    """All results whose files match a pattern, in all their versions; read-only.

    Each cell of an experiment saves to a different path. `data/08_reporting/digits/**/metrics.json`
    matches the folders `metrics.json/`, at any depth, in which Kedro stores
    `<version>/metrics.json`.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset; see `AtomicDataset`. `filepath` is the glob pattern of the files."""
        self._filepath = filepath
        self.metadata = metadata

    def load(self) -> list[dict[str, Any]]:
        """Load all versions.

        Returns:
            The dictionary of each file, in the order of the paths, with its version (str) added as
            "version"; an empty list if no file matches. Damaged ones are left out with a warning.
        """
        results = []
        for path in self._versions():
            try:
                content = from_json(path.read_bytes())
                _Result.model_validate(content)
            except (OSError, ValueError) as error:
                _LOG.warning(
                    "%s can't be used: %s; the other results are; delete its folder",
                    path,
                    explain(error),
                )
            else:
                results.append(content | {"version": path.parent.name})
        return results

    def save(self, data: NoReturn) -> None:  # noqa: ARG002
        """Refuse to save, with a CatalogError."""
        raise CatalogError(f"{self._filepath} is read-only: other catalog entries save these files")

    def preview(self) -> JSONPreview:
        """Return the paths of the files, which Kedro-Viz displays."""
        return JSONPreview(json.dumps([str(path) for path in self._versions()]))

    def _versions(self) -> Iterator[Path]:
        folders = map(Path, sorted(glob(self._filepath, recursive=True)))
        for folder in filter(Path.is_dir, folders):  # "**" also matches the files inside
            yield from sorted(folder.glob(f"*/{folder.name}"))

    def _exists(self) -> bool:
        return any(True for _ in self._versions())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}
