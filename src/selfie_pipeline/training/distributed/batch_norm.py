"""BatchNorm with the statistics of all workers' rows, equal to those of a single worker.

The synchronised layers of torch and timm run on GPUs only; there the host waits in each of them,
and each breaks the graph of torch's compiler. Names and shapes of the tensors stay the same.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, distributed, nn


def synchronise_batch_norm(network: nn.Module) -> None:
    """Synchronise timm's BatchNorm layers of a network over torch.distributed's default group."""
    for module in network.modules():
        if isinstance(module, BatchNormAct2d):
            module.__class__ = _SynchronisedBatchNorm  # keeps parameters and statistics


class _SynchronisedBatchNorm(BatchNormAct2d):
    """timm's BatchNorm and activation; in training over the rows of all workers."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate (B, C, H, W), with B rows of the batch on each worker."""
        if not self.training:
            evaluated: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return evaluated
        normalised, mean, variance = _Normalise.apply(x, self.weight, self.bias, self.eps)
        values = distributed.get_world_size() * x.numel() // x.shape[1]
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            unbiased = variance * (values / max(values - 1, 1))  # (C,)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        out: Tensor = self.act(self.drop(normalised))
        return out


class _Normalise(torch.autograd.Function):
    """Normalisation of each channel over all workers' rows, then scale and shift."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))  # (B, C, H, W)
        variance, mean = torch.var_mean(exact, dim=(0, 2, 3), correction=0)  # (C,), (C,)
        # Workers have equally many rows, so the mean of their means is the mean of all rows.
        means, variances = _all_gather(torch.stack([mean, variance])).unbind(dim=1)  # (W, C) each
        mean = means.mean(dim=0)  # (C,)
        variance = (variances + (means - mean).square()).mean(dim=0)  # (C,)
        inverse = (variance + eps).rsqrt()  # (C,)
        scale = (weight * inverse)[:, None, None]  # (C, 1, 1)
        out = (exact - mean[:, None, None]) * scale + bias[:, None, None]  # (B, C, H, W)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return out.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        grad_out = gradients[0].to(mean.dtype)  # (B, C, H, W)
        centred = (x.to(mean.dtype) - mean[:, None, None]) * inverse[:, None, None]  # (B, C, H, W)
        grad_bias = grad_out.sum(dim=(0, 2, 3))  # (C,)
        grad_weight = (grad_out * centred).sum(dim=(0, 2, 3))  # (C,)
        # The statistics depend on all rows of all workers.
        values = x.numel() // x.shape[1]
        sums = torch.stack([grad_bias, grad_weight])  # (2, C)
        shift, slope = _all_gather(sums).mean(dim=0)[:, :, None, None] / values  # (C, 1, 1) each
        scale = (weight * inverse)[:, None, None]  # (C, 1, 1)
        grad_x = (grad_out - shift - centred * slope) * scale  # (B, C, H, W)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


def _all_gather(values: Tensor) -> Tensor:
    """Stack the workers' tensors in the order of their ranks: (…) to (W, …)."""
    gathered = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, values.contiguous())
    return torch.stack(gathered)  # (W, …)
