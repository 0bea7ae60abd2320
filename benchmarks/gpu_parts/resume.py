"""Compares a pretraining that is killed with SIGKILL and resumed with an undisturbed one."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import digit_images

from gpu_parts.run import Record, Run
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.pretraining import pretrain

CHECKPOINTS = 8
"""Number of checkpoints of the training."""


def resume(run: Run) -> None:
    """Kill a deterministic pretraining, resume it, and compare it with an undisturbed one."""
    record = Record(run.out, "resume", steps=run.size.resume_steps)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = (start_training(Path(name) / folder) for folder in ("whole", "killed"))
        pattern = "killed-*/step-*.json"
        while killed.poll() is None and not list(Path(name).glob(pattern)):
            time.sleep(0.01)
        time.sleep(random.random() * 0.1)
        killed.kill()
        was_killed = killed.wait() == -signal.SIGKILL
        saved = sorted(path.stem for path in Path(name).glob(pattern))
        record.add(was_killed=was_killed, last_checkpoint=saved[-1] if saved else "none")
        again = start_training(Path(name) / "killed")
        printed = [process.communicate()[0].split()[-2:] for process in (whole, again)]
        (_, undisturbed), (first_step, resumed) = printed
        record.add(undisturbed=undisturbed, resumed=resumed, same_bits=undisturbed == resumed)
        record.add(resumed_at_step=int(first_step))


def start_training(path: Path) -> subprocess.Popen[str]:
    """Start a process that trains; it prints the first step that it made and a digest."""
    command = [sys.executable, *sys.argv, "--piece", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def compute_piece(run: Run, path: str) -> None:
    """Pretrain deterministically; this is the process that is killed and resumed."""
    steps = run.size.resume_steps
    config = run.config(batch_size=run.size.check_batch, steps=steps, warmup_steps=4, log_every=5)
    device = run.device(config, deterministic=True)
    images, rows = digit_images(config)
    checkpoints = Checkpoints(Path(path), {"benchmark": "gpu"}, steps // CHECKPOINTS, "auto")
    ended: list[int] = []
    result = pretrain(
        config.model,
        config.pretrain,
        images,
        rows,
        device,
        checkpoints,
        callbacks=[lambda state: ended.append(state.step)],
    )
    digest = hashlib.sha256()
    for name, tensor in sorted(result.tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    print(ended[0], digest.hexdigest())
