"""Images a second beside a plain Selfie and lightly's SimCLR: same images, batch, network, threads.

    pip install -e .[bench]
    python benchmarks/peers.py --batch 64

- *plain*: Selfie as one would first write it: fp32, images augmented one by one in a DataLoader,
  context and target patches through the network one after the other, torch's own Transformer.
- *SimCLR*: lightly's transform, projection head and loss on the same ResNet-50 with the same small
  stem, whole images, two views of each; left out where lightly is not installed.

One training step of each is timed in turn, from the data set to the updated weights. Each has a
process of its own, which is frozen, DataLoader and all, while another has its turn.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import timm
import torch
from common import (
    arguments,
    bare_step,
    digit_images,
    drawn_digits,
    median,
    pretraining_task,
    recipe,
    report,
    seconds,
)
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from selfie_pipeline.config import Config
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.device import Device, find_device


class Pictures(Dataset[Any]):
    """The digits one by one, each through a transform."""

    def __init__(self, transform: Callable[[Image.Image], Any]) -> None:
        self.images = drawn_digits()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.images[index]))


def endless(transform: Callable[[Image.Image], Any], batch: int, workers: int) -> Iterator[Any]:
    """Batches of transformed digits, epoch after epoch."""
    loader = DataLoader(
        Pictures(transform),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def small_resnet50() -> nn.Module:
    """Timm's ResNet-50 v2 with the stem for 32×32 images."""
    network = timm.create_model("resnetv2_50", num_classes=0)
    network.stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return network


class PlainSelfie(nn.Module):
    """The method, straight from its description."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        resnet = small_resnet50()
        self.patch_network = nn.Sequential(resnet.stem, *resnet.stages[:3], nn.BatchNorm2d(1024))
        attention = config.model.attention
        layer = nn.TransformerEncoderLayer(
            1024, attention.heads, attention.intermediate, 0.1, "gelu", batch_first=True
        )
        self.attention = nn.TransformerEncoder(layer, attention.blocks)
        self.u0 = nn.Parameter(torch.randn(1, 1, 1024) * 0.02)
        self.positions = nn.Parameter(torch.randn(16, 1024) * 0.02)
        self.targets = config.patch.targets

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The loss of a batch of images, (B, C, H, W)."""
        b = len(images)
        patches = images.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, C, R, S, P, P)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(b, 16, 3, 8, 8)  # (B, N, C, P, P)
        order = torch.rand(b, 16, device=images.device).argsort(dim=1)
        context, masked = order[:, : -self.targets], order[:, -self.targets :]
        image = torch.arange(b, device=images.device)[:, None]
        h_context = self.vectors(patches[image, context]) + self.positions[context]  # (B, K, D)
        h_masked = self.vectors(patches[image, masked])  # (B, T, D)
        sequence = torch.cat([self.u0.expand(b, -1, -1), h_context], dim=1)  # (B, 1 + K, D)
        u = self.attention(sequence)[:, :1]  # (B, 1, D)
        scores = (u + self.positions[masked]) @ h_masked.transpose(1, 2)  # (B, T, T)
        answers = torch.arange(self.targets, device=images.device).expand(b, -1)  # (B, T)
        return nn.functional.cross_entropy(scores.flatten(0, 1), answers.flatten())

    def vectors(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, n, C, P, P) to (B, n, D)."""
        b, n = patches.shape[:2]
        maps = self.patch_network(patches.flatten(0, 1)).relu()  # (B·n, D, 2, 2)
        return maps.mean(dim=(2, 3)).view(b, n, -1)  # (B, n, D)


def stepper(parameters: Any, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """A training step around a loss."""
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def ours(config: Config, device: Device, _: int) -> Callable[[], None]:
    """A step of this project, with its own batches."""
    images, rows = digit_images(config)
    step = bare_step(pretraining_task(config, images).to(device.type), device)
    batches = prefetch(Batches(images, rows, 0, config.pretrain), device.type)
    return lambda: step(next(batches))


def plain(config: Config, device: Device, workers: int) -> Callable[[], None]:
    """A step of the plain Selfie."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    batches = endless(transform, config.pretrain.batch_size, workers)
    network = PlainSelfie(config).to(device.type)
    return stepper(network.parameters(), lambda: network(next(batches).to(device.type)))


def simclr(config: Config, device: Device, workers: int) -> Callable[[], None]:
    """A step of lightly's SimCLR."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    batches = endless(SimCLRTransform(input_size=32), config.pretrain.batch_size, workers)
    backbone = small_resnet50().to(device.type)
    head = SimCLRProjectionHead(2048, 512, 128).to(device.type)
    criterion = NTXentLoss()

    def loss() -> torch.Tensor:
        first, second = (view.to(device.type) for view in next(batches))
        return criterion(head(backbone(first)), head(backbone(second)))

    return stepper([*backbone.parameters(), *head.parameters()], loss)


CONTENDERS = {"ours": ours, "plain Selfie": plain, "lightly SimCLR": simclr}


class Contender:
    """A contender's process, which trains a step when it is its turn and is frozen otherwise."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *sys.argv, "--child", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # so that its workers freeze with it
        )
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.turn()  # builds and warms up

    def turn(self) -> float:
        """Seconds that a step takes."""
        os.killpg(self.process.pid, signal.SIGCONT)
        self.stdin.write("step\n")
        self.stdin.flush()
        taken = float(self.stdout.readline())
        os.killpg(self.process.pid, signal.SIGSTOP)
        return taken

    def end(self) -> None:
        """End the process and its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def train_in_turns(step: Callable[[], None]) -> None:
    """As a contender's process: a step for every line that comes; its seconds go out."""
    for _ in sys.stdin:
        print(seconds(step), flush=True)


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each that are timed")
    parser.add_argument("--workers", type=int, default=2, help="of the peers' DataLoaders")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()

    config = recipe("cifar10", batch_size=options.batch)
    device = find_device(config.compute)
    if options.child:
        train_in_turns(CONTENDERS[options.child](config, device, options.workers))
        return

    there = [name for name in CONTENDERS if "lightly" not in name or find_spec("lightly")]
    contenders = {name: Contender(name) for name in there}
    times: dict[str, list[float]] = {name: [] for name in there}
    for round_number in range(options.rounds + 1):
        for name, contender in contenders.items():
            taken = contender.turn()
            if round_number:  # in the first the DataLoaders are still ahead
                times[name].append(taken)
    for contender in contenders.values():
        contender.end()
    result: dict[str, Any] = {"batch": options.batch}
    for name, taken in times.items():
        result[f"{name}: images a second"] = options.batch / median(taken)
        if name != "ours":
            ratios = [theirs / mine for theirs, mine in zip(taken, times["ours"], strict=True)]
            result[f"ours is faster than {name}, times"] = median(ratios)
    report(result, device, options.json)


if __name__ == "__main__":
    main()
