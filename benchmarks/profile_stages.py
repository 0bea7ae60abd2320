"""Measures the ten largest parts of a stage, in percent of its wall time.

    python benchmarks/profile_stages.py --stage pretrain --recipe cifar10_small
    python benchmarks/profile_stages.py --stage patch --recipe imagenet224

A training runs as it does in the pipeline, on scikit-learn's digits; torch's profiler records some
of its steps. A part is an operator, by the time in itself; what is in no operator, such as Python,
the records of the loop and the wait for a batch, is one part, too. Since the profiler adds to small
operators, the time of a step without it is given beside it.

`patch` and `predict` run as in the pipeline, while the stacks of all threads are sampled. A part is
the innermost function of this project, and after the colon that of the library that it calls. The
threads together can work longer than the wall time. Threads that wait are not counted; but a thread
that waits for Python's lock, or for a core, can't be told from one that works.

The files are those of `--folder`. Without it, `patch` has JPEGs cut out of scikit-learn's two
photographs (see `ingest.py`), and `predict` the digits as PNG.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import numpy as np
import torch
from common import (
    arguments,
    digit_images,
    drawn_digits,
    no_checkpoints,
    pretraining_task,
    recipe,
    report,
    seconds,
)
from ingest import make_images, ours
from PIL import Image
from predict import build_weights, run_node
from torch.profiler import ProfilerActivity, profile

from selfie_pipeline.config import Config
from selfie_pipeline.sources.digits import Digits
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.finetuning import finetune, initialise_classifier
from selfie_pipeline.training.loop import fit
from selfie_pipeline.training.state import TrainingState

WARM_UP = 5
INTERVAL_S = 0.002
PARTS = 10
WAITING = {"threading", "concurrent.futures.thread", "concurrent.futures._base"}


class StepProfile:
    """Times some steps of a training, and records as many more; a `StepCallback`."""

    def __init__(self, steps: int) -> None:
        """Time the steps after the first ones."""
        self.steps, self.ends = steps, list[float]()
        self.profiler = profile(activities=[ProfilerActivity.CPU])

    def __call__(self, state: TrainingState) -> None:
        """Note the step's end; begin or end the recording."""
        end = time.perf_counter()
        if state.step == WARM_UP + self.steps:
            self.timed, self.ends = np.diff([*self.ends, end]).tolist(), []
            self.profiler.start()
            end = time.perf_counter()  # of the start, which takes a while
        if state.step >= WARM_UP:
            self.ends.append(end)
        if state.step == WARM_UP + 2 * self.steps:
            self.profiler.stop()

    def result(self) -> dict[str, Any]:
        """Return the parts, and the times of a step."""
        wall = 1e6 * (self.ends[-1] - self.ends[0])  # µs
        own = {event.key: event.self_cpu_time_total for event in self.profiler.key_averages()}
        own["outside torch"] = wall - sum(own.values())
        return {
            **largest({name: time / wall for name, time in own.items()}),
            "ms a step": 1e3 * median(self.timed),
            "ms a step, recorded": 1e3 * median(np.diff(self.ends).tolist()),
        }


def largest(shares: dict[str, float]) -> dict[str, float]:
    """Return the largest parts, in percent."""
    return {f"{name}, %": 100 * share for name, share in Counter(shares).most_common(PARTS)}


def train(stage: str, config: Config, device: Device, steps: int) -> dict[str, Any]:
    """Train on the digits; return the parts of a step."""
    images, rows = digit_images(config)
    steps_profile = StepProfile(steps)
    if stage == "pretrain":
        task, batches = pretraining_task(config, images), Batches(images, rows, 0, config.pretrain)
        fit(task, batches, device, no_checkpoints(), stage, [steps_profile])
    else:
        finetune(
            initialise_classifier(
                config.model, config.finetune.architecture, config.patch, classes=10, seed=0
            ),
            pretrained=[],
            recipe=config.finetune,
            seed=0,
            images=images,
            rows=rows,
            labels=Digits().samples()["label"].to_numpy(),
            device=device,
            checkpoints=no_checkpoints(),
            title=stage,
            callbacks=[steps_profile],
        )
    return {"batch": getattr(config, stage).batch_size, **steps_profile.result()}


def name_part(frame: FrameType | None) -> str | None:
    """Name the part that a stack is in; None while its thread waits."""
    inner = frame
    if frame is None or frame.f_globals.get("__name__") in WAITING:
        return None
    while frame and not frame.f_globals.get("__name__", "").startswith("selfie_pipeline"):
        frame = frame.f_back
    names = [
        f"{one.f_globals.get('__name__', '?').split('.')[-1]}.{one.f_code.co_name}"
        for one in dict.fromkeys([frame, inner])
        if one is not None
    ]
    return ": ".join(names)


@contextmanager
def sampled(seconds_in: Counter[str]) -> Iterator[None]:
    """Add to each part the seconds that threads spend in it within this context."""
    done = threading.Event()

    def sample() -> None:
        last = time.perf_counter()
        while not done.wait(INTERVAL_S):
            # Its weight is the time since the last: code that keeps Python's lock delays a sample.
            passed, last = time.perf_counter() - last, time.perf_counter()
            for thread, frame in sys._current_frames().items():
                if thread != threading.get_ident() and (part := name_part(frame)):
                    seconds_in[part] += passed

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        done.set()
        sampler.join()


def run_sampled(action: Callable[[], Any], files: int) -> dict[str, Any]:
    """Run a stage twice, the second time sampled, and return its parts."""
    action()  # the files are in the system's cache now
    found: Counter[str] = Counter()
    processor = time.process_time()
    with sampled(found):
        wall = seconds(action)
    return {
        "files": files,
        **largest({name: time / wall for name, time in found.items()}),
        "all parts, %": 100 * found.total() / wall,
        "processor time, %": 100 * (time.process_time() - processor) / wall,
        "files a second": files / wall,
    }


def run_on_files(stage: str, config: Config, folder: Path | None, count: int) -> dict[str, Any]:
    """Patch or classify the files of a folder, and return the parts."""
    with tempfile.TemporaryDirectory() as made:
        if folder is None:
            folder = Path(made)
            if stage == "patch":
                make_images(folder, count)
            else:
                for number, pixels in enumerate(np.resize(drawn_digits(), (count, 32, 32, 3))):
                    Image.fromarray(pixels).save(folder / f"{number:06d}.png")
        files = sum(path.is_file() for path in folder.rglob("*"))
        if stage == "patch":
            return run_sampled(lambda: ours(folder, config, []), files)
        classifier = build_weights(config)
        return run_sampled(lambda: run_node(classifier, folder, config), files)


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--stage", choices=("pretrain", "finetune", "patch", "predict"), default="pretrain"
    )
    parser.add_argument("--recipe", default="base", help="base, or a folder of conf/")
    parser.add_argument("--steps", type=int, default=30, help="steps that are recorded")
    parser.add_argument("--folder", type=Path, help="files for patch (train/CLASS/*) or predict")
    parser.add_argument("--files", type=int, default=2000, help="to make without a folder")
    options = parser.parse_args()

    training = options.stage in {"pretrain", "finetune"}
    steps = {"steps": WARM_UP + 2 * options.steps, "warmup_steps": 1} if training else {}
    config = recipe(options.recipe, options.stage if training else "pretrain", **steps)
    device = find_device(config.compute)
    if training:
        result = train(options.stage, config, device, options.steps)
    else:
        folder = options.folder and options.folder.resolve()
        result = run_on_files(options.stage, config, folder, options.files)
    about = {"stage": options.stage, "recipe": options.recipe, "threads": torch.get_num_threads()}
    report({**about, **result}, device, options.json)


if __name__ == "__main__":
    main()
