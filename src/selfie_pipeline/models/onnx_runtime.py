"""A classifier that ONNX Runtime computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OnnxClassifier(nn.Module):
    """A classifier from an ONNX file, on the CPU, in float32.

    It computes in the calling thread, so that batches in several threads share the cores.
    """

    def __init__(self, content: bytes) -> None:
        """Load the classifier.

        Args:
            content: Content of the file, as `models.export.export_onnx` returns it.
        """
        import onnxruntime  # noqa: PLC0415  # optional

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images, (B, 3, H, W), float32: logits, (B, classes), float32."""
        (logits,) = self._session.run(["logits"], {"images": images.contiguous().numpy()})
        return torch.from_numpy(logits)  # (B, classes)
