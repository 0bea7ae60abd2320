"""Image files a second through `kedro run --pipeline=predict`, and where the time goes.

    python benchmarks/predict.py
    python benchmarks/predict.py --recipe cifar10_small --rounds 7

The files are scikit-learn's digits, four times over (`--copies`), as 32 × 32 PNG; the network is
the recipe's classifier with fresh weights, as fast as with trained ones. Ours is what the node does
on all cores, from the list of the folder to the table, without the contact sheet, with either
runtime; ONNX Runtime needs the seconds in which the classifier is converted besides, which are
reported. Beside it stand the parts on one core, decoding alone and the network alone, and the
network's floating-point operations, counted, over the processor's rate, the better of torch's large
matrix product and large convolution, measured in the same rounds. Medians over the rounds.

What the cores can do is measured with as many processes as there are cores, each of which decodes
and classifies its part of the files one after another, in turn with ours, so that what else the
machine does slows both down. Our share of that is given by the clock, which is worth little on a
machine with other work, and in processor time, which leaves out waiting.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import arguments, best_rate, drawn_digits, recipe, report, seconds
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from selfie_pipeline.config import Config
from selfie_pipeline.evaluation.predictions import name_predictions
from selfie_pipeline.models.classifier import Classifier
from selfie_pipeline.models.export import OnnxClassifier, export_onnx
from selfie_pipeline.models.preprocessing import Preprocessing, load_preprocessing
from selfie_pipeline.pipelines.predict.blocks import classify_in_blocks
from selfie_pipeline.pipelines.predict.nodes import classify_files
from selfie_pipeline.provenance import dump_configuration
from selfie_pipeline.sources.image_files import find_files, read_windows
from selfie_pipeline.threads import torch_threads
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.finetuning import initialise_classifier
from selfie_pipeline.training.inference import Inference
from selfie_pipeline.weights import Weights

BATCH = 64
MEAN, STD = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)  # (C,)


def ten_classes(config: Config) -> Classifier:
    """Initialise a classifier of ten classes."""
    architecture = config.finetune.architecture
    return initialise_classifier(config.model, architecture, config.patch, 10, seed=0)


def build_weights(config: Config) -> Weights:
    """Return the weights of a classifier, as finetuning saves them."""
    made_with = dump_configuration(patch=config.patch, model=config.model, finetune=config.finetune)
    origin = {"encoder": None, "configuration": made_with, "mean": [0.5] * 3, "std": [0.25] * 3}
    return Weights(
        ten_classes(config).state_dict(), {**origin, "classes": [str(digit) for digit in range(10)]}
    )


def build_inferences(config: Config) -> dict[str, Inference]:
    """Return the classifier by runtime."""
    converted = OnnxClassifier(export_onnx(ten_classes(config), config.patch.image_size))
    return {
        "torch": Inference(ten_classes(config), MEAN, STD, find_device(config.compute)),
        "onnxruntime": Inference(converted, MEAN, STD, Device("cpu", bf16=False)),
    }


class Serial:
    """Decoding and the network alone, one after the other, in a process of its own."""

    def __init__(self, name: str) -> None:
        """Build the classifier."""
        torch.set_num_threads(1)
        self.config = recipe(name)
        self.inferences = build_inferences(self.config)

    def run(self, runtime: str, files: list[Path]) -> float:
        """Classify files; return the processor's seconds."""
        before = time.process_time()
        for first in range(0, len(files), BATCH):
            windows, *_ = read_windows(files[first : first + BATCH], self.config.patch)
            self.inferences[runtime](torch.from_numpy(windows).permute(0, 3, 1, 2))
        return time.process_time() - before


def _begin(name: str) -> None:
    global _serial  # noqa: PLW0603  # one a process
    _serial = Serial(name)


def _run(runtime: str, files: list[Path]) -> float:
    return _serial.run(runtime, files)


@contextmanager
def processes(name: str) -> Iterator[Callable[[str, list[Path]], float]]:
    """Provide a function that does the same with a process for each core."""
    cores = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, context, initializer=_begin, initargs=(name,)) as pool:

        def run(runtime: str, files: list[Path]) -> float:
            parts = [files[core::cores] for core in range(cores)]
            return sum(pool.map(_run, [runtime] * cores, parts))

        yield run


def ours(infer: Inference, prepared: Preprocessing, folder: Path) -> float:
    """Classify files as the node does; return the processor's seconds."""
    before = time.process_time()
    with tempfile.TemporaryDirectory() as store:
        blocks = Checkpoints(Path(store, "blocks"), {}, every=1, resume="auto", keep=None)
        _, names = find_files(folder)
        found = classify_in_blocks(infer, folder, names, prepared, blocks)
        name_predictions(names, found.top, prepared.classes)
    return time.process_time() - before


def run_node(classifier: Weights, folder: Path, config: Config) -> None:
    """Classify a folder's files by the node itself; its checkpoints are deleted."""
    predict = config.predict.model_copy(update={"arm": "supervised"})
    with tempfile.TemporaryDirectory() as store:
        classify_files(
            classifier, str(folder), predict, config.compute, Path(store, "blocks"), "never"
        )


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--recipe", default="base", help="base, or a folder of conf/")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=4, help="files of each digit")
    options = parser.parse_args()

    config = recipe(options.recipe)
    device = find_device(config.compute)
    inferences = build_inferences(config)
    prepared = load_preprocessing(build_weights(config).provenance)
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name, processes(options.recipe) as serial:
        folder = Path(name)
        for number, pixels in enumerate(drawn_digits()):
            for copy in range(options.copies):
                Image.fromarray(pixels).save(folder / f"{number:05d}-{copy}.png")
        files = [folder / file for file in find_files(folder)[1]]
        some = files[:BATCH]
        windows = torch.from_numpy(read_windows(some, config.patch)[0]).permute(0, 3, 1, 2)
        with FlopCounterMode(display=False) as counter:
            inferences["torch"](windows)  # (BATCH, C, H, W)
        operations = counter.get_total_flops() / BATCH
        for runtime in inferences:
            serial(runtime, files[: 8 * BATCH])  # each process builds its classifiers first
        for _ in range(options.rounds):
            for runtime, infer in inferences.items():
                started = time.perf_counter()
                spent = ours(infer, prepared, folder)
                ended = time.perf_counter()
                spent_in_processes = serial(runtime, files)
                limit, whole = time.perf_counter() - ended, ended - started
                found[f"files a second, {runtime}"].append(len(files) / whole)
                found[f"share of the cores, clock, {runtime}"].append(limit / whole)
                found[f"share of the cores, processor, {runtime}"].append(
                    spent_in_processes / spent
                )
                with torch_threads(1):
                    alone = seconds(lambda infer=infer: infer(windows), repeat=4)
                found[f"classified a second, one core, {runtime}"].append(BATCH / alone)
            converting = seconds(lambda: export_onnx(ten_classes(config), config.patch.image_size))
            found["converting, s"].append(converting)
            with torch_threads(1):
                decoding = seconds(lambda: read_windows(some, config.patch), repeat=4)
                found["decoded a second, one core"].append(BATCH / decoding)
                found["limit of torch a second, one core"].append(best_rate(device) / operations)
    report(
        {
            "recipe": options.recipe,
            "files": len(files),
            "MFLOP an image": operations / 1e6,
            **{name: median(values) for name, values in found.items()},
        },
        device,
        options.json,
    )


if __name__ == "__main__":
    main()
