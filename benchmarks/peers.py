"""Compares images a second with other implementations of Selfie and with lightly's SimCLR.

    pip install -e .[bench]
    python benchmarks/peers.py --batch 64 [--selfie CHECKOUT]

All have the same images, batch size, network and number of threads.

- *plain* is a straightforward Selfie: fp32, images augmented one by one in a DataLoader, context
  and target patches through the network one after the other, torch's own Transformer.
- *SimCLR* is lightly's transform, projection head and loss on the same ResNet-50 with the same
  small stem: whole images, two views of each. It is skipped if lightly is not installed.
- *wuhoward's SELFIE* is the published code unchanged, loader and loop included, run from CHECKOUT;
  only its images are those of the others. It is skipped if there is no checkout.

Training steps of each are timed in turn, from the data set to the updated weights. Each runs in its
own process, which is stopped with its DataLoader workers during the others' turns.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm
import torch
from common import (
    arguments,
    bare_step,
    digit_images,
    drawn_digits,
    now,
    precision_argument,
    pretraining_task,
    recipe,
    report,
    seconds,
)
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from selfie_pipeline.config import Config
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.device import Device, find_device


class Pictures(Dataset[Any]):
    """A data set of images, (M, H, W, 3), uint8, each passed through a transform."""

    def __init__(self, images: NDArray[np.uint8], transform: Callable[[Image.Image], Any]) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.images[index]))


def endless(
    images: NDArray[np.uint8], transform: Callable[[Image.Image], Any], batch: int, workers: int
) -> Iterator[Any]:
    """Yield batches of transformed images, epoch after epoch.

    Raises:
        ValueError: There are fewer images than a batch has.
    """
    if len(images) < batch:
        raise ValueError(f"{len(images)} images are fewer than a batch of {batch}")
    loader = DataLoader(
        Pictures(images, transform),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def small_resnet50() -> nn.Module:
    """Return timm's ResNet-50 v2 with the stem for 32×32 images."""
    network = timm.create_model("resnetv2_50", num_classes=0)
    network.stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return network


class PlainSelfie(nn.Module):
    """Selfie, written directly from the paper's description."""

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
        """Return the loss of a batch of images, (B, C, H, W)."""
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
        """Embed patches, (B, n, C, P, P), as vectors, (B, n, D)."""
        b, n = patches.shape[:2]
        maps = self.patch_network(patches.flatten(0, 1)).relu()  # (B·n, D, 2, 2)
        return maps.mean(dim=(2, 3)).view(b, n, -1)  # (B, n, D)


def stepper(parameters: Any, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Return a training step of a loss function."""
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def ours(config: Config, device: Device, _: int) -> Callable[[], None]:
    """Return a step of this project, with its own batches."""
    images, rows = digit_images(config)
    step = bare_step(pretraining_task(config, images).to(device.type), device)
    batches = prefetch(Batches(images, rows, 0, config.pretrain), device.type)
    return lambda: step(next(batches))


def plain(config: Config, device: Device, workers: int) -> Callable[[], None]:
    """Return a step of the plain Selfie."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    batches = endless(drawn_digits(), transform, config.pretrain.batch_size, workers)
    network = PlainSelfie(config).to(device.type)
    return stepper(network.parameters(), lambda: network(next(batches).to(device.type)))


def simclr(config: Config, device: Device, workers: int) -> Callable[[], None]:
    """Return a step of lightly's SimCLR."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(input_size=32)
    batches = endless(drawn_digits(), transform, config.pretrain.batch_size, workers)
    backbone = small_resnet50().to(device.type)
    head = SimCLRProjectionHead(2048, 512, 128).to(device.type)
    criterion = NTXentLoss()

    def loss() -> torch.Tensor:
        first, second = (view.to(device.type) for view in next(batches))
        return criterion(head(backbone(first)), head(backbone(second)))

    return stepper([*backbone.parameters(), *head.parameters()], loss)


class LabeledPictures(Pictures):
    """Random pictures, as many as CIFAR-10 has, each with a class."""

    def __init__(self, transform: Callable[[Image.Image], Any], **_: Any) -> None:
        super().__init__(drawn_digits(), transform)

    def __len__(self) -> int:
        return 50_000

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return super().__getitem__(index % len(self.images)), 0


class TimedLoader:
    """A loader that yields batches in its process's turns, and prints the seconds of the steps."""

    def __init__(self, loader: Any, steps: int) -> None:
        self.loader = loader
        self.dataset = loader.dataset
        self.steps = steps

    def __iter__(self) -> Iterator[Any]:
        """Yield full batches, epoch after epoch, until the input ends."""
        batches = self.full_batches()
        for _ in sys.stdin:
            started = now()
            for _ in range(self.steps):
                yield next(batches)
            print((now() - started) / self.steps, file=sys.__stdout__, flush=True)
        raise SystemExit

    def full_batches(self) -> Iterator[Any]:
        """Yield batches without the smaller one at the end of an epoch."""
        while True:
            for batch in self.loader:
                if len(batch[0]) == self.loader.batch_size:
                    yield batch


def train_wuhoward(config: Config, checkout: Path, steps: int) -> None:
    """Train with the published code, in a contender's process; its loader takes the times."""
    sys.path.insert(0, str(checkout))
    theirs: Any = importlib.import_module("train_selfie")
    theirs.datasets = SimpleNamespace(
        CIFAR10=lambda root, train, download, transform: LabeledPictures(transform)  # noqa: ARG005
    )
    batch = config.pretrain.batch_size
    loader = theirs.get_dataloader(batch)["train"]
    network = theirs.PreActResNet50()
    network.layer4, network.linear = nn.Identity(), nn.Identity()
    network = network.to(theirs.device)
    encoder = theirs.Encoder(theirs.FEATURE_SIZE, 3, 16).to(theirs.device)
    weights = [*network.parameters(), *encoder.parameters()]
    optimizer = torch.optim.SGD(weights, 0.01, momentum=0.9, weight_decay=1e-4, nesterov=True)
    settings = argparse.Namespace(
        batch_size=batch, lr=0.01, warm_up=1000, total_epoch=1, val_cycle=2, resume=None
    )
    settings.all_patch = False
    with redirect_stdout(sys.stderr):
        loaders = {"train": TimedLoader(loader, steps)}
        theirs.train_model(network, encoder, optimizer, loaders, settings)


WUHOWARD = "wuhoward's SELFIE"
CONTENDERS = {"ours": ours, "plain Selfie": plain, "lightly SimCLR": simclr}


class Contender:
    """A contender's process, which trains in its turns and is stopped (SIGSTOP) in the others'."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *sys.argv, "--child", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # so that its DataLoader workers are stopped with it
        )
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def turn(self) -> float:
        """Return the seconds of a step; in the first turn these include the warm-up."""
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


def train_in_turns(step: Callable[[], None], steps: int) -> None:
    """Take steps for each line of input, in a contender's process; print the seconds of a step."""
    for _ in sys.stdin:
        print(seconds(step, repeat=steps), flush=True)


def main() -> None:
    """Time the contenders in turn, and report."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each that are timed")
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn")
    parser.add_argument("--seconds", type=float, default=10**6, help="after which no round begins")
    parser.add_argument("--workers", type=int, default=2, help="of the peers' DataLoaders")
    parser.add_argument("--selfie", type=Path, help="checkout of wuhoward/SELFIE")
    parser.add_argument("--child", choices=[*CONTENDERS, WUHOWARD], help=argparse.SUPPRESS)
    precision_argument(parser)
    options = parser.parse_args()

    config = recipe("cifar10", batch_size=options.batch)
    device = find_device(config.compute.model_copy(update={"precision": options.precision}))
    if options.child == WUHOWARD:
        train_wuhoward(config, options.selfie, options.steps)
        return
    if options.child:
        train_in_turns(CONTENDERS[options.child](config, device, options.workers), options.steps)
        return

    there = [name for name in CONTENDERS if "lightly" not in name or find_spec("lightly")]
    there += [WUHOWARD] if options.selfie else []
    started = now()
    contenders = {name: Contender(name) for name in there}  # they start up in parallel
    times: dict[str, list[float]] = {name: [] for name in there}
    for round_number in range(options.rounds + 2):
        if times["ours"] and now() - started > options.seconds:
            break
        for name, contender in contenders.items():
            taken = contender.turn()
            if round_number > 1:  # 0 is the warm-up; in 1, loaders still have batches queued
                times[name].append(taken)
    for contender in contenders.values():
        contender.end()
    result: dict[str, Any] = {"batch": options.batch, "steps of a turn": options.steps}
    for name, taken in times.items():
        result[f"{name}: images a second"] = options.batch / median(taken)
        if name != "ours":
            ratios = [theirs / mine for theirs, mine in zip(taken, times["ours"], strict=True)]
            result[f"ours is faster than {name}, times"] = median(ratios)
    report(result, device, options.json)


if __name__ == "__main__":
    main()
