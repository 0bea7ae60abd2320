"""Dataset type for weights: safetensors files with provenance and checksum."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file

from selfie_pipeline.config import UserError
from selfie_pipeline.datasets.atomic import AtomicDataset, CatalogError
from selfie_pipeline.printable import shorten
from selfie_pipeline.weights import Weights, copy_to_cpu


class WeightsDataset(AtomicDataset[Weights, Weights]):
    """Weights as a safetensors file, with provenance and digest as JSON in its metadata.

    Tensors are loaded to the CPU, contiguous, and share no memory.
    """

    def _write(self, data: Weights, path: Path) -> None:
        tensors = copy_to_cpu(data.tensors)
        origin = {
            "provenance": data.provenance,
            "provenance_digest": _digest(data.provenance),
            "digest": data.digest(),
        }
        # One entry, because safetensors writes several in an order that varies between saves.
        save_file(tensors, path, {"origin": json.dumps(origin)})

    def _read(self, path: Path) -> Weights:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            reason = shorten(str(error))
            raise CatalogError(f"{path} can't be read as safetensors: {reason}") from error
        origin = _parse_origin(path, metadata)
        weights = Weights(tensors, origin.provenance)
        known = origin.provenance_digest  # None in weights of earlier commits
        if weights.digest() != origin.digest or known not in {None, _digest(origin.provenance)}:
            raise CatalogError(
                f"{path} is damaged: its tensors or their provenance are not what was saved; load "
                "an earlier version (--load-versions) or train again"
            )
        return weights

    def _preview(self, path: Path) -> Any:
        """Return the provenance and the numbers of tensors and of weights."""
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            sizes = [math.prod(file.get_slice(name).get_shape()) for name in names]
            origin = _parse_origin(path, file.metadata() or {})
        return {"tensors": len(names), "numbers": sum(sizes), **origin.provenance}


def read_given_weights(path: Path) -> Weights:
    """Read a safetensors file of any origin; `weights` in the provenance is the file's SHA-256.

    Raises:
        UserError: It can't be read, or is no safetensors file.
    """
    try:
        content = path.read_bytes()
        tensors = load(content)
    except (SafetensorError, OSError) as error:
        reason = shorten(error.strerror or "" if isinstance(error, OSError) else str(error))
        raise UserError(
            f"weights = {shorten(str(path))} can't be read: {reason}; allowed: a safetensors file"
        ) from None
    return Weights(tensors, {"weights": hashlib.sha256(content).hexdigest()})


class _Origin(BaseModel):
    provenance: dict[str, Any]
    provenance_digest: str | None = None
    digest: str


def _parse_origin(path: Path, metadata: dict[str, str]) -> _Origin:
    try:
        return _Origin.model_validate_json(metadata.get("origin", ""))
    except ValidationError as error:
        raise CatalogError(
            f"{path} has no provenance; allowed: weights that this project has saved"
        ) from error


def _digest(provenance: dict[str, Any]) -> str:
    """Return SHA-256 of a provenance as JSON, in hex digits."""
    return hashlib.sha256(json.dumps(provenance).encode()).hexdigest()
