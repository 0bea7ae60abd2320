"""The device that a training runs on: the accelerator and the precision."""

from __future__ import annotations

import os
import platform
import warnings
from dataclasses import dataclass

import torch
from torch import nn

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training import cuda
from selfie_pipeline.training.memory import retain_freed_memory


@dataclass(frozen=True)
class Device:
    """An accelerator and the precision to compute in.

    Attributes:
        type: `cpu` or `cuda`.
        bf16: True if convolutions and matrix products run in bfloat16, under autocast.
        compile: True if torch compiles the network for a training.
        deterministic: True if a repeated training on a GPU results in the same bits.
    """

    type: str
    bf16: bool
    compile: bool = False
    deterministic: bool = False

    @property
    def name(self) -> str:
        """The name of the processor or GPU."""
        if self.type == "cuda":
            return cuda.gpu_name()
        cores = torch.get_num_threads()
        return f"{platform.processor() or platform.machine()}, {cores} threads"

    @property
    def precision(self) -> str:
        """The precision, as records and checkpoints have it."""
        return "bf16-mixed" if self.bf16 else "32-true"

    def autocast(self) -> torch.autocast:
        """Return a context in which torch computes in this precision."""
        return torch.autocast(self.type, dtype=torch.bfloat16, enabled=self.bf16)

    def prepare(self, network: nn.Module, *, cuda_graphs: bool = False) -> None:
        """Configure this process for a training of the network.

        Args:
            network: A `Selfie` or a classifier. It is compiled in place, so its tensors keep their
                names.
            cuda_graphs: True if compiled code may replay recorded CUDA graphs, so that the GPU
                does not wait for the host to launch each kernel. The memory of a gradient is then
                used again by the next forward pass.
        """
        if self.type == "cpu":
            retain_freed_memory()
        else:
            # Products that stay in fp32 may round to TF32's ten bits; bf16 has seven.
            torch.set_float32_matmul_precision("high")
            # All steps have the same shapes: cuDNN tries its kernels once and keeps the fastest,
            # which need not be the same ones in another process.
            torch.backends.cudnn.benchmark = not self.deterministic
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS is refused
            torch.use_deterministic_algorithms(self.deterministic)
        if self.compile:
            # torch's compiler checks if its inputs have a gradient.
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is")
            graphs = cuda_graphs and self.type == "cuda"
            network.compile(dynamic=False, options={"triton.cudagraphs": graphs})


def find_device(config: ComputeConfig) -> Device:
    """Return the device that the configuration asks for.

    Raises:
        UserError: A GPU or bf16 is requested and this machine does not have it.
    """
    has_gpu = cuda.is_available()
    if config.accelerator == "gpu" and not has_gpu:
        raise UserError(
            "compute.accelerator = gpu, but torch sees no GPU; use compute.accelerator=cpu, or "
            "install the torch build that matches the GPU's driver"
        )
    kind = "cuda" if has_gpu and config.accelerator != "cpu" else "cpu"
    native = _has_bf16(kind)
    if config.precision == "bf16" and not native:
        raise UserError(
            f"compute.precision = bf16, but this {kind} has no bfloat16 instructions; "
            "use compute.precision=fp32 or auto"
        )
    return Device(
        type=kind,
        bf16=native and config.precision != "fp32",
        # The compiler chooses kernels by their speed, so not the same ones in every process.
        compile=config.compile == "always"
        or (config.compile == "auto" and kind == "cuda" and not config.deterministic),
        deterministic=config.deterministic,
    )


def _has_bf16(kind: str) -> bool:
    """Return whether the hardware computes in bfloat16; emulation would be slower than fp32."""
    if kind == "cuda":
        return cuda.has_bf16()
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
