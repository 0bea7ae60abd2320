import threading

import numpy as np
import pytest
import torch

from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.cuda import CopyStream
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.prefetch import DevicePatchGrids, cache_on_device, prefetch
from selfie_pipeline.training.optimizer import clip_gradients
from selfie_pipeline.training.state import TrainingState
from selfie_pipeline.training.tasks import PretrainingTask

ROWS = np.arange(3, 400, 7)  # 57 samples; 8 a batch
TENSORS = ("samples", "grids", "corners", "flips", "order", "boxes", "colours")
AUGMENTED = {"smallest_crop": 0.5, "colour_jitter": 0.5}
ROW_BYTES = 3 * 32 * 32

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
everywhere = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])


@pytest.fixture
def make_batches(make_config, make_images):
    def make(first_step=0, **changes):
        changes = AUGMENTED | changes
        config = make_config({f"pretrain.{key}": value for key, value in changes.items()})
        return Batches(make_images(config), ROWS, 0, config.pretrain, first_step)

    return make


def assert_equal(batch, expected):
    assert (batch.step, batch.first_row) == (expected.step, expected.first_row)
    for name in TENSORS:
        assert torch.equal(getattr(batch, name).cpu(), getattr(expected, name)), name


@everywhere
@pytest.mark.parametrize("resident", [True, False])
def test_the_micro_batches_come_in_order(make_batches, device, resident):
    batches = make_batches(first_step=2, steps=20, accumulate=2)
    source = cache_on_device(batches, device, max_bytes=10**9) if resident else batches

    prefetched = list(prefetch(source, device))

    assert len(prefetched) == 36
    for batch, expected in zip(prefetched, batches, strict=True):
        assert {tensor.device.type for tensor in batch[2:]} == {device}
        assert_equal(batch, expected)


def test_the_thread_that_reads_ahead_uses_the_copy_stream(make_batches, monkeypatch):
    batches, used = make_batches(steps=3), []
    grids = batches.images.grids
    gather = grids.gather

    def traced_gather(rows):
        used.append(threading.current_thread())
        return gather(rows)

    monkeypatch.setattr(grids, "gather", traced_gather)
    monkeypatch.setattr(CopyStream, "use", lambda _: used.append(threading.current_thread()))

    list(prefetch(batches, "cpu"))

    assert len(used) == 1 + 3
    assert len(set(used)) == 1


@everywhere
def test_pixels_that_fit_are_copied_once_and_only_those_of_the_training(make_batches, device):
    batches = make_batches(steps=20)
    requested = batches.images.grids.requested

    cached = cache_on_device(batches, device, max_bytes=len(ROWS) * ROW_BYTES)
    assert set(requested) == set(ROWS.tolist())
    requested.clear()
    micro_batches = list(cached)

    assert requested == []
    assert {batch.grids.device.type for batch in micro_batches} == {device}


def test_pixels_that_do_not_fit_stay_where_they_are(make_batches):
    batches = make_batches()
    assert cache_on_device(batches, "cpu", max_bytes=len(ROWS) * ROW_BYTES - 1) is batches


def test_pixels_are_copied_in_pieces(make_batches, monkeypatch):
    grids = make_batches().images.grids
    monkeypatch.setattr("selfie_pipeline.training.data.prefetch._COPY_BYTES", 5 * ROW_BYTES)

    resident = DevicePatchGrids(grids, ROWS, "cpu")

    assert torch.equal(resident.gather(ROWS[::-1].copy()), grids.patches[ROWS[::-1].copy()])


@pytest.mark.parametrize("sample", [0, 4, 394])
def test_a_sample_that_was_not_copied_is_refused(make_batches, sample):
    resident = DevicePatchGrids(make_batches().images.grids, ROWS[:-1], "cpu")
    with pytest.raises(IndexError):
        resident.gather(np.array([ROWS[0], sample if sample != 394 else ROWS[-1]]))


def test_the_next_micro_batch_is_read_while_the_present_one_is_computed(make_batches, monkeypatch):
    batches = make_batches(steps=4)
    read = [threading.Event() for _ in range(4)]
    original = Batches.micro_batch

    def micro_batch(self, step, index=0):
        found = original(self, step, index)
        read[step].set()
        return found

    monkeypatch.setattr(Batches, "micro_batch", micro_batch)
    micro_batches = prefetch(batches, "cpu")

    assert next(micro_batches).step == 0
    assert read[1].wait(timeout=30)  # nobody has asked for it yet
    assert not read[2].wait(timeout=0.05)
    micro_batches.close()


def test_an_error_while_prefetching_is_raised_where_the_batch_is_requested(make_batches):
    batches = make_batches(steps=4)
    batches.images.grids.patches = batches.images.grids.patches[:1]
    with pytest.raises(IndexError):
        next(prefetch(batches, "cpu"))


@needs_gpu
@pytest.mark.parametrize("resident", [True, False])
def test_the_host_does_not_wait_for_the_device_within_a_step(make_config, make_images, resident):
    config = make_config({"pretrain.steps": 6, "pretrain.clip_norm": 1.0})
    images, recipe = make_images(config), config.pretrain
    task = PretrainingTask(Selfie(config.model, config.patch), recipe, images).cuda()
    state = TrainingState(task)
    batches = Batches(images, ROWS, recipe.seed, recipe)
    source = cache_on_device(batches, "cuda", max_bytes=10**9) if resident else batches
    micro_batches = prefetch(source, "cuda")
    try:
        for step, batch in enumerate(micro_batches):
            torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first one warms up
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss, accuracy = task(batch)
            loss.backward()
            state.record(loss, accuracy, batch.samples)
            clip_gradients(task.network, recipe)
            state.optimizer.step()
            state.optimizer.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode("default")
