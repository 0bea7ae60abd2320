"""Pretrains the ResNet of a recipe with lightly's SimCLR, for a start to compare Selfie's with.

    pip install -e .[bench]
    kedro run --pipelines=ingest,patch,pretrain
    python benchmarks/simclr.py --steps 500 --out simclr.safetensors
    kedro run --pipeline=experiment --params \
        "weights=simclr.safetensors,experiment.arms=[supervised,selfie,weights]"

It trains on the stored images of the project in the working directory, all but the test images and
without their labels, as Selfie's pretraining does. Transforms, projection head and loss are
lightly's; rate, weight decay and schedule are those of lightly's benchmark on CIFAR-10. All four
stages are pretrained, three by Selfie. The precision is that of Selfie's pretraining. It prints the
seconds of all steps, so `--steps` can be chosen for equal time, on as many threads as the other
pretraining had.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import arguments, now, report
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from numpy.typing import NDArray
from peers import endless
from safetensors.torch import save_file
from torch.optim.lr_scheduler import CosineAnnealingLR

from selfie_pipeline.config import Config, load_config
from selfie_pipeline.models.backbone import build_resnet
from selfie_pipeline.training.data.randomness import seeded_initialisation
from selfie_pipeline.training.device import Device, find_device

_RATE = 0.06
"""Peak learning rate for 128 images, and in proportion for other batches, as lightly's."""
_WEIGHT_DECAY = 5e-4


class Stored(NamedTuple):
    """The project's parameters, and what is stored of its images.

    Attributes:
        config: The parameters.
        images: (M, H, W, 3), uint8: all but those of the test split.
        normalize: ``mean`` and ``std`` of the training pixels, three numbers each, in units of 255.
    """

    config: Config
    images: NDArray[np.uint8]
    normalize: dict[str, list[float]]


def load_images(env: str | None) -> Stored:
    """Load the images of the project in the working directory."""
    bootstrap_project(Path.cwd())
    with KedroSession.create(env=env) as session:
        context = session.load_context()
        config = load_config(context.params)
        samples = context.catalog.load("usable_samples")
        grids = context.catalog.load("patch_grids")
    rows = samples.loc[samples["split"] != "test", "sample"].to_numpy()
    images = grids.read_canvases(rows)  # (M, H, W, C)
    normalize = {"mean": grids.mean.tolist(), "std": grids.std.tolist()}
    return Stored(config, images, normalize)


def pretrain(stored: Stored, steps: int, batch: int, device: Device) -> dict[str, torch.Tensor]:
    """Pretrain for so many steps; return the ResNet's tensors, named as timm names them."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    config = stored.config
    transform = SimCLRTransform(
        input_size=config.patch.image_size,
        hf_prob=0.5 * config.augmentation.flip,
        gaussian_blur=0.5 * (config.patch.image_size > 32),  # noqa: PLR2004  # lightly: none on CIFAR-10
        normalize=stored.normalize,
    )
    with seeded_initialisation(config.pretrain.seed):
        network = build_resnet(config.model, classes=0).to(device.type)
        features = network.num_features
        head = SimCLRProjectionHead(features, features, 128).to(device.type)
    device.prepare(network)
    weights = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(
        weights, _RATE * batch / 128, momentum=0.9, weight_decay=_WEIGHT_DECAY
    )
    schedule = CosineAnnealingLR(optimizer, steps)
    criterion = NTXentLoss()
    batches = endless(stored.images, transform, batch, workers=0)
    for step in range(1, steps + 1):
        first, second = (view.to(device.type) for view in next(batches))
        with device.autocast():
            projections = [head(network(view)).float() for view in (first, second)]  # (B, 128) each
        loss = criterion(*projections)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 10) == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def main() -> None:
    """Pretrain, write the weights, and report how long it took."""
    parser = arguments(__doc__)
    parser.add_argument("--env", help="recipe; without it, the digits")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    options = parser.parse_args()
    stored = load_images(options.env)
    device = find_device(stored.config.compute)
    torch.manual_seed(stored.config.pretrain.seed)  # of the loader's order and the transforms
    started = now()
    tensors = pretrain(stored, options.steps, options.batch, device)
    seconds = now() - started
    save_file(tensors, options.out)
    result = {
        "images": len(stored.images),
        "steps": options.steps,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        "pretraining, s": seconds,
    }
    report(result, device, options.json)


if __name__ == "__main__":
    main()
