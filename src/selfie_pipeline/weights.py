"""Named tensors with their provenance, as the catalog stores them and trainings pass them on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


def copy_to_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors to the CPU, contiguous; the copies share no memory and have no gradients."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


@dataclass(frozen=True)
class Weights:
    """Named tensors and their provenance.

    Attributes:
        tensors: By name, as in a module's `state_dict`.
        provenance: Configuration, seed, fingerprints, library versions: anything JSON can hold.
    """

    tensors: dict[str, torch.Tensor]
    provenance: dict[str, Any]

    def digest(self) -> str:
        """Return SHA-256 over names, dtypes, shapes and bytes, in hex; not over the provenance."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            header = [name, str(tensor.dtype), list(tensor.shape)]
            digest.update(json.dumps(header).encode())
            plain = tensor.detach().cpu().contiguous()  # whatever its memory format was
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()
