"""Trainings that are stopped, killed and gone on with.

As a script it is a process that trains: `python test_loop.py`, then a line of JSON for each
training on its standard input, as `Trainer` writes them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfie_pipeline.config import Config, UserError, load_config
from selfie_pipeline.training import loop
from selfie_pipeline.training.checkpoints import Checkpoint, Checkpoints
from selfie_pipeline.training.data.batches import WindowReader
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.finetuning import finetune, initialise_classifier
from selfie_pipeline.training.loop import StepCallback
from selfie_pipeline.training.pretraining import pretrain
from selfie_pipeline.training.signals import TrainingInterrupted, training_interrupted
from selfie_pipeline.training.state import TrainingResult, TrainingState
from selfie_pipeline.training.tasks import PretrainingTask

STEPS = 8
# Ten samples and batches of four: the second epoch begins within the third step, the third with
# the sixth. A row every three steps, a checkpoint every two.
SMALL = {
    "patch": {"canvas_size": 8, "image_size": 8, "patch_size": 4, "targets": 2},
    "augmentation": {"pad": 1, "flip": True},
    "model.attention.blocks": 1,
} | {
    f"{recipe}.{key}": value
    for recipe in ("pretrain", "finetune")
    for key, value in {
        "steps": STEPS,
        "batch_size": 4,
        "warmup_steps": 2,
        "log_every": 3,
        "checkpoint_every": 2,
    }.items()
}
SAMPLES = 10


@dataclass
class Noise:
    """Patch grids of noise, as a store has them."""

    grid: tuple[int, int]
    patch_size: int

    def __post_init__(self) -> None:
        shape = (SAMPLES, self.grid[0] * self.grid[1], 3, self.patch_size, self.patch_size)
        self.patches = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).byte()
        self.mean = np.full(3, 0.5, dtype=np.float32)
        self.std = np.full(3, 0.3, dtype=np.float32)

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        return self.patches[torch.from_numpy(rows)]


def saved(folder: Path, pattern: str = "step-*.json") -> list[Path]:
    """Find files of the checkpoints of `train` with this folder."""
    return sorted(folder.parent.glob(f"{folder.name}-*/{pattern}"))


def train(
    config: Config, folder: Path, stage: str = "pretrain", *callbacks: StepCallback
) -> TrainingResult:
    """A training as the nodes run it."""
    recipe = config.pretrain if stage == "pretrain" else config.finetune
    identity = {"stage": stage, "recipe": recipe.model_dump()}
    checkpoints = Checkpoints(folder, identity, recipe.checkpoint_every, config.resume)
    side = config.patch.canvas_size // config.patch.patch_size
    images = WindowReader(
        Noise((side, side), config.patch.patch_size), config.patch, config.augmentation
    )
    rows = np.arange(SAMPLES)
    device = find_device(config.compute)
    if stage == "pretrain":
        return pretrain(config.model, config.pretrain, images, rows, device, checkpoints, callbacks)
    architecture = config.finetune.architecture
    network = initialise_classifier(config.model, architecture, config.patch, 3, config.seed)
    return finetune(
        network,
        pretrained=[name for name in network.state_dict() if not name.startswith("head.")],
        recipe=config.finetune,
        seed=config.seed,
        images=images,
        rows=rows,
        labels=rows % 3,
        device=device,
        checkpoints=checkpoints,
        title="finetune",
        callbacks=callbacks,
    )


def digest(trained: TrainingResult) -> str:
    """Return the SHA-256 of the weights and the history."""
    sha = hashlib.sha256(repr([tuple(row) for row in trained.history]).encode())
    for name, tensor in sorted(trained.tensors.items()):
        sha.update(name.encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


# --- in this process


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """More would wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Crash(BaseException):
    """The end of a process, as far as it can be had without ending it."""


@pytest.fixture
def small(make_config: Callable[..., Config]) -> Callable[..., Config]:
    return lambda changes=None: make_config(SMALL | (changes or {}))


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Have something happen once, at the end of a step, before its checkpoint."""

    def arrange(step: int, happens: Callable[[], None]) -> None:
        original = TrainingState.end_step
        left = [happens]

        def end_step(state: TrainingState) -> None:
            original(state)
            if state.step == step and left:
                left.pop()()

        monkeypatch.setattr(TrainingState, "end_step", end_step)

    return arrange


def crash() -> None:
    raise Crash


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


VARIANTS = {
    "pretrain": ("pretrain", {}),
    "pretrain in parts, clipped": (
        "pretrain",
        {"pretrain.accumulate": 2, "pretrain.clip_norm": 1.0},
    ),
    "finetune": ("finetune", {}),
    "finetune without momentum": ("finetune", {"finetune.momentum": 0.0}),
    "finetune, bf16 where there is": ("finetune", {"compute.precision": "auto"}),
    "finetune the hybrid in parts, at two rates": (
        "finetune",
        {
            "finetune.architecture": "resnet36_attention",
            "finetune.accumulate": 2,
            "finetune.pretrained_rate": 0.1,
            "finetune.reestimate_statistics": True,
        },
    ),
}


@pytest.fixture(scope="module")
def undisturbed(
    make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    return {
        name: digest(train(make_config(SMALL | changes), tmp_path_factory.mktemp("run"), stage))
        for name, (stage, changes) in VARIANTS.items()
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_after_any_step_it_resumed_to_the_same_bits(
    variant: str,
    small: Callable[..., Config],
    undisturbed: dict[str, str],
    at_step: Callable[[int, Callable[[], None]], None],
    tmp_path: Path,
) -> None:
    stage, changes = VARIANTS[variant]
    config = small(changes)
    for step in range(1, STEPS):
        folder = tmp_path / str(step)
        at_step(step, terminate)
        with pytest.raises(UserError, match=f"by SIGTERM after step {step} of {STEPS}"):
            train(config, folder, stage)

        assert digest(train(config, folder, stage)) == undisturbed[variant], step


@pytest.mark.parametrize("variant", ["pretrain", "pretrain in parts, clipped"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 7, 8])
def test_crashed_at_any_step_it_resumed_to_the_same_bits(
    variant: str,
    step: int,
    small: Callable[..., Config],
    undisturbed: dict[str, str],
    at_step: Callable[[int, Callable[[], None]], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From the last checkpoint, which may be steps back."""
    stage, changes = VARIANTS[variant]
    caplog.set_level(logging.INFO, "selfie_pipeline")
    at_step(step, crash)
    with pytest.raises(Crash):
        train(small(changes), tmp_path, stage)
    caplog.clear()

    trained = train(small(changes), tmp_path, stage)

    assert digest(trained) == undisturbed[variant]
    last = (step - 1) // 2 * 2
    resumed = f"pretrain: resumes after step {last} of {STEPS}"
    assert (resumed in caplog.messages) == (last > 0)


def test_interrupted_again_and_again(
    small: Callable[..., Config],
    undisturbed: dict[str, str],
    tmp_path: Path,
    at_step: Callable[[int, Callable[[], None]], None],
) -> None:
    for step in (2, 3, 3, 5, 6):
        at_step(step, crash if step == 3 else terminate)
        with pytest.raises((Crash, UserError)):
            train(small(), tmp_path)

    assert digest(train(small(), tmp_path)) == undisturbed["pretrain"]


def test_the_same_training_again_has_the_same_bits(
    small: Callable[..., Config], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    torch.rand(3)  # what others draw does not matter

    assert digest(train(small(), tmp_path)) == undisturbed["pretrain"]


def test_another_seed_has_others(
    small: Callable[..., Config], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    assert digest(train(small({"pretrain.seed": 1}), tmp_path)) != undisturbed["pretrain"]


def test_looking_more_often_changes_no_weight(small: Callable[..., Config], tmp_path: Path) -> None:
    often = small({"pretrain.log_every": 1, "pretrain.checkpoint_every": 1})

    one, other = train(small(), tmp_path / "one"), train(often, tmp_path / "other")

    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    assert [row.step for row in one.history] == [3, 6, 8]
    assert [row.step for row in other.history] == list(range(1, STEPS + 1))


def test_a_finished_training_is_not_trained_again(
    small: Callable[..., Config], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    train(small(), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainingTask, "forward", lambda *_: pytest.fail("a step was computed"))

        trained = train(small(), tmp_path)

    assert digest(trained) == undisturbed["pretrain"]


def test_never_starts_anew(
    small: Callable[..., Config],
    undisturbed: dict[str, str],
    at_step: Callable[[int, Callable[[], None]], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    at_step(5, terminate)
    with pytest.raises(UserError):
        train(small(), tmp_path)
    caplog.set_level(logging.INFO, "selfie_pipeline")
    caplog.clear()

    trained = train(small({"resume": "never"}), tmp_path)

    assert not [line for line in caplog.messages if "resumes" in line]
    assert digest(trained) == undisturbed["pretrain"]


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    small: Callable[..., Config],
    undisturbed: dict[str, str],
    at_step: Callable[[int, Callable[[], None]], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    at_step(7, crash)
    with pytest.raises(Crash):
        train(small(), tmp_path)
    (newest,) = saved(tmp_path, "step-000000006.safetensors")
    newest.write_bytes(newest.read_bytes()[:-1])
    caplog.set_level(logging.INFO, "selfie_pipeline")

    trained = train(small(), tmp_path)

    assert any(str(newest) in line and "checksum" in line for line in caplog.messages)
    assert f"pretrain: resumes after step 4 of {STEPS}" in caplog.messages
    assert digest(trained) == undisturbed["pretrain"]


@pytest.mark.parametrize("call", [0, 1, 6, 7], ids="part {} of the training".format)
def test_sigterm_within_a_step_lets_the_step_end(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Also between two micro-batches."""
    original = PretrainingTask.forward
    calls = iter(range(2 * STEPS))

    def forward(task: PretrainingTask, batch: Any) -> Any:
        if next(calls) == call:
            terminate()
        return original(task, batch)

    config = small({"pretrain.accumulate": 2})
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTask, "forward", forward)
        with pytest.raises(UserError, match=f"after step {call // 2 + 1} of {STEPS}"):
            train(config, tmp_path)

    assert saved(tmp_path)[-1].stem == f"step-{call // 2 + 1:09d}"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigint_in_the_last_step_is_not_lost(
    small: Callable[..., Config],
    undisturbed: dict[str, str],
    at_step: Callable[[int, Callable[[], None]], None],
    tmp_path: Path,
) -> None:
    """Ctrl-C must also prevent the stages after this one."""
    at_step(STEPS, lambda: signal.raise_signal(signal.SIGINT))

    with pytest.raises(UserError, match=f"SIGINT after step {STEPS} of {STEPS}; run the same"):
        train(small(), tmp_path)

    assert digest(train(small(), tmp_path)) == undisturbed["pretrain"]


def test_sigint_while_the_last_checkpoint_is_written_is_not_lost(
    small: Callable[..., Config],
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save = Checkpoints.save

    def interrupted_save(checkpoints: Checkpoints, checkpoint: Checkpoint) -> None:
        if checkpoint.step == STEPS:
            signal.raise_signal(signal.SIGINT)
        save(checkpoints, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted_save)
        with pytest.raises(
            TrainingInterrupted, match=r"^pretrain was stopped by SIGINT after its last step; run"
        ):
            train(small(), tmp_path)

    assert digest(train(small(), tmp_path)) == undisturbed["pretrain"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_training(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    """Whichever part of the batch it is in; the weights that come of it are not kept."""
    bad_step, seen = 3, []
    original = PretrainingTask.forward

    def forward(task: PretrainingTask, batch: Any) -> Any:
        loss, accuracy = original(task, batch)
        if batch.step == bad_step:
            seen.extend(batch.samples.tolist())
            loss = loss * (float("nan") if batch.first_row == 0 else 1)
        return loss, accuracy

    monkeypatch.setattr(PretrainingTask, "forward", forward)
    config = small({"pretrain.accumulate": accumulate, "pretrain.checkpoint_every": 1})

    with pytest.raises(UserError) as caught:
        train(config, tmp_path)

    message = str(caught.value)
    assert len(seen) == 4
    assert message.startswith(
        f"the loss is nan at step 4, learning rate 0.0466506, samples {', '.join(map(str, seen))};"
    )
    assert "\n" not in message
    assert saved(tmp_path)[-1].stem == "step-000000003"


def test_a_batch_that_does_not_fit_in_memory_is_one_line_of_advice(
    small: Callable[..., Config], tmp_path: Path
) -> None:
    def ask_for_too_much(state: TrainingState) -> None:
        torch.empty(2**62, dtype=torch.uint8)

    advice = r"^pretrain: out of memory with 4 images at once \(.*\); split the batch .*accumulate"
    with pytest.raises(UserError, match=advice):
        train(small(), tmp_path / "checkpoints", "pretrain", ask_for_too_much)


def test_an_absurd_learning_rate(small: Callable[..., Config], tmp_path: Path) -> None:
    config = small({"pretrain.peak_learning_rate": 1e30, "pretrain.checkpoint_every": 1})

    with pytest.raises(UserError, match=r"step 2, learning rate 6\.\d+e\+29, .*peak_learning_rate"):
        train(config, tmp_path)

    assert [path.stem for path in saved(tmp_path)] == ["step-000000001"]
    with pytest.raises(UserError, match="at step 2,"):  # the same batch again, by itself
        train(config, tmp_path)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_callback_sees_every_step_before_its_checkpoint(
    small: Callable[..., Config], tmp_path: Path, stage: str
) -> None:
    seen = []

    def look(state: TrainingState) -> None:
        seen.append((state.step, latest_step(tmp_path)))

    train(small(), tmp_path, stage, look)

    assert seen == [(step, (step - 1) // 2 * 2) for step in range(1, STEPS + 1)]
    assert latest_step(tmp_path) == STEPS


def test_a_signal_is_not_lost_if_the_callback_ends_the_training(
    small: Callable[..., Config], tmp_path: Path
) -> None:
    """Ctrl-C while a trial is scored and pruned must also prevent the next trial."""

    class PrunedError(Exception): ...

    def prune(state: TrainingState) -> None:
        if state.step == 3:
            signal.raise_signal(signal.SIGINT)
        if state.step >= 3:
            raise PrunedError

    with pytest.raises(TrainingInterrupted, match=f"SIGINT after step 3 of {STEPS}; run the same"):
        train(small(), tmp_path, "finetune", prune)
    with pytest.raises(PrunedError):  # again, after the checkpoint before it
        train(small(), tmp_path, "finetune", lambda state: prune(state) if state.step > 3 else None)


@pytest.mark.parametrize(("accumulate", "workers"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_the_network_may_use_cuda_graphs_if_no_gradient_is_accumulated_or_averaged(
    small: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accumulate: int,
    workers: int,
) -> None:
    prepared, trained = [], []

    def prepare(_: Device, network: torch.nn.Module, *, cuda_graphs: bool = False) -> None:
        prepared.append((network, cuda_graphs))

    monkeypatch.setattr(Device, "prepare", prepare)
    monkeypatch.setattr(loop, "world_size", lambda: workers)

    config = small({"pretrain.accumulate": accumulate})
    train(config, tmp_path, "pretrain", lambda state: trained.append(state.network))

    assert prepared == [(trained[0], accumulate == workers == 1)]


# --- in processes that are killed


class Trainer:
    """A process that has imported everything, and trains in children of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, parameters: dict[str, Any], folder: Path, stage: str, result: Path) -> int:
        """Begin a training; the id of its process."""
        assert self.process.stdin
        order = [parameters, str(folder), stage, str(result)]
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._number()

    def end(self) -> int:
        """Wait for it; its exit status, or the negative of the signal that it was killed by."""
        return self._number()

    def _number(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())


def serve() -> None:
    """Train in a fork for each line of input; the process itself computes nothing."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            torch.set_num_threads(1)
            parameters, folder, stage, result = json.loads(line)
            try:
                trained = train(load_config(parameters), Path(folder), stage)
                Path(result).write_text(digest(trained))
            except UserError as error:
                Path(result).write_text(str(error))
                os._exit(1)
            os._exit(0)
        print(child, flush=True)  # noqa: T201
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    trainer = Trainer()
    yield trainer
    assert trainer.process.stdin
    assert trainer.process.stdout
    trainer.process.stdin.close()
    trainer.process.wait()
    trainer.process.stdout.close()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


LONG = SMALL | {
    f"{stage}.{key}": value
    for stage in ("pretrain", "finetune")
    for key, value in {"steps": 60, "checkpoint_every": 3, "accumulate": 2}.items()
}


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    trainer: Trainer, make_parameters: Callable[..., dict[str, Any]], tmp_path: Path, stage: str
) -> None:
    parameters, result = make_parameters(LONG), tmp_path / "result"
    trainer.start(parameters, tmp_path / "undisturbed", stage, result)
    assert trainer.end() == 0
    expected = result.read_text()
    result.unlink()
    random_numbers = random.Random(stage)
    folder = tmp_path / "killed"
    for earliest, latest in ((1, 10), (15, 25), (30, 40)):
        step = random_numbers.randint(earliest, latest)
        child = trainer.start(parameters, folder, stage, result)
        wait_for(lambda step=step: latest_step(folder) >= step)
        time.sleep(random_numbers.random() * 0.02)  # into a step, or into a save
        os.kill(child, signal.SIGKILL)
        assert trainer.end() == -signal.SIGKILL
        assert latest_step(folder) < 60

    trainer.start(parameters, folder, stage, result)

    assert trainer.end() == 0
    assert result.read_text() == expected


def latest_step(folder: Path) -> int:
    """Find the step of the latest checkpoint; 0 if there is none."""
    return max((int(path.stem.removeprefix("step-")) for path in saved(folder)), default=0)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_from_outside_ends_it_with_a_checkpoint(
    trainer: Trainer, make_parameters: Callable[..., dict[str, Any]], tmp_path: Path, name: str
) -> None:
    parameters = make_parameters(LONG | {"pretrain.checkpoint_every": 20})
    folder, result = tmp_path / "run", tmp_path / "result"
    child = trainer.start(parameters, folder, "pretrain", result)
    wait_for(lambda: latest_step(folder) == 20)

    os.kill(child, signal.Signals[name])

    assert trainer.end() == 1
    step = latest_step(folder)
    assert 20 <= step < 40
    assert result.read_text() == (
        f"pretrain was stopped by {name} after step {step} of 60; run the same command to resume it"
    )


@pytest.mark.parametrize(
    ("resume", "command"),
    [("auto", "the same command"), ("never", "the same command without resume=never")],
)
def test_the_advice_after_an_interruption_does_not_discard_the_checkpoints(
    resume: Literal["auto", "never"], command: str
) -> None:
    error = training_interrupted("pretrain", signal.SIGINT, "step 7 of 60", resume)

    assert (
        str(error)
        == f"pretrain was stopped by SIGINT after step 7 of 60; run {command} to resume it"
    )


if __name__ == "__main__":
    serve()
