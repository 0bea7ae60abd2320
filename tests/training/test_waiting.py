"""A step never waits for the GPU: the calls that would are forbidden while it is computed.

On a CPU nothing waits, so the calls themselves are looked for, in Python and below it. On a GPU,
`benchmarks/gpu.py` has torch look for them.
"""

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.finetuning import initialise_classifier
from selfie_pipeline.training.loop import compute_step
from selfie_pipeline.training.state import TrainingState
from selfie_pipeline.training.tasks import FinetuningTask, PretrainingTask

CPU = Device(type="cpu", bf16=False)
ROWS = np.arange(30)
METHODS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")
OPERATORS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2")


class ForbidCalls(TorchFunctionMode):
    """Forbids the methods of a tensor that bring its numbers to the host, and blocking copies."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in METHODS:
            raise AssertionError(f"{name} waits")
        named = any(isinstance(value, str) for value in args[1:])  # not that of another tensor
        if name == "to" and named and not (kwargs or {}).get("non_blocking"):
            raise AssertionError("a blocking copy waits")
        return func(*args, **(kwargs or {}))


class ForbidOperators(TorchDispatchMode):
    """Forbids the operators whose result or its size depends on a tensor's numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in OPERATORS or masks:
            raise AssertionError(f"{name} waits")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def compute(make_config, make_images):
    """Compute the first step of a training, with a function that its loss is passed to."""

    def compute(kind, parts=1, with_loss=torch.Tensor.detach):
        changes = {"accumulate": parts, "clip_norm": 1.0}
        config = make_config(
            {f"{of}.{key}": changes[key] for of in ("pretrain", "finetune") for key in changes}
        )
        images = make_images(config)
        if kind == "pretraining":
            seed, recipe = config.pretrain.seed, config.pretrain
            task = PretrainingTask(Selfie(config.model, config.patch), recipe, images)
        else:
            seed, recipe = 0, config.finetune
            network = initialise_classifier(config.model, kind, config.patch, 3, seed)
            task = FinetuningTask(network, recipe, images, torch.arange(30) % 3, seed=seed)

        def call(_task, _inputs, outputs):
            with_loss(outputs[0])

        task.register_forward_hook(call)
        state = TrainingState(task.train())
        micro_batches = prefetch(Batches(images, ROWS, seed, recipe), "cpu")
        with ForbidCalls(), ForbidOperators():
            compute_step(task, micro_batches, state, CPU)
        micro_batches.close()

    return compute


@pytest.mark.parametrize("kind", ["pretraining", "resnet", "resnet36_attention"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_does_not_wait(compute, kind, parts):
    compute(kind, parts)


@pytest.mark.parametrize(
    "wait",
    [
        torch.Tensor.item,
        torch.Tensor.tolist,
        lambda loss: loss.detach().cpu(),
        lambda loss: loss.to("cpu"),
        lambda loss: bool(loss > 0),
        float,
        lambda loss: loss[None][loss[None] > 0],
        torch.Tensor.nonzero,
    ],
)
def test_a_call_that_waits_is_noticed(compute, wait):
    with pytest.raises(AssertionError, match="waits"):
        compute("pretraining", with_loss=wait)
