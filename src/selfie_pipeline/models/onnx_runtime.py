"""Classifiers as ONNX Runtime computes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OnnxClassifier(nn.Module):
    """The content of an ONNX file, on the CPU, in float32.

    It computes in the thread that calls it, so that several batches at once share the cores.
    """

    def __init__(self, content: bytes) -> None:
        """Load it.

        Args:
            content: As `models.export.to_onnx` makes it.
        """
        import onnxruntime  # noqa: PLC0415  # optional

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def forward(self, images: Tensor) -> Tensor:
        """From normalised images, (B, 3, H, W), float32, to logits, (B, classes), float32."""
        (logits,) = self._session.run(["logits"], {"images": images.contiguous().numpy()})
        return torch.from_numpy(logits)  # (B, classes)
