import threading

import numpy as np
import pytest
import torch

from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.prefetch import Feed, ResidentGrids, feed, settle
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.tasks import PretrainingTask

ROWS = np.arange(3, 400, 7)  # 57 samples; 8 a batch
ROW_BYTES = 3 * 32 * 32

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
everywhere = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])


@pytest.fixture
def make_batches(make_config, make_images):
    def make(first_step=0, **changes):
        config = make_config({f"pretrain.{key}": value for key, value in changes.items()})
        return Batches(make_images(config), ROWS, 0, config.pretrain, first_step)

    return make


def assert_equal(fed, expected):
    assert (fed.step, fed.first_row) == (expected.step, expected.first_row)
    for name in ("samples", "patches", "corners", "flips"):
        assert torch.equal(getattr(fed, name).cpu(), getattr(expected, name)), name


@everywhere
@pytest.mark.parametrize("resident", [True, False])
def test_what_is_fed_is_the_batches_in_order(make_batches, device, resident):
    batches = make_batches(first_step=2, steps=20, accumulate=2)
    source = settle(batches, device, room=10**9) if resident else batches
    fed = Feed(source, device)

    parts = list(fed)

    assert len(fed) == len(parts) == 36
    for part, expected in zip(parts, batches, strict=True):
        assert {tensor.device.type for tensor in part[2:]} == {device}
        assert_equal(part, expected)


@everywhere
def test_pixels_that_fit_are_copied_once_and_only_those_of_the_training(make_batches, device):
    batches = make_batches(steps=20)
    asked_for = batches.images.grids.asked_for

    settled = settle(batches, device, room=len(ROWS) * ROW_BYTES)
    assert set(asked_for) == set(ROWS.tolist())
    asked_for.clear()
    parts = list(settled)

    assert asked_for == []
    assert {part.patches.device.type for part in parts} == {device}


def test_pixels_that_do_not_fit_stay_where_they_are(make_batches):
    batches = make_batches()
    assert settle(batches, "cpu", room=len(ROWS) * ROW_BYTES - 1) is batches


def test_a_processor_is_fed_from_the_store(make_batches):
    batches = make_batches()
    assert feed(batches, Device(type="cpu", bf16=False)).batches is batches


def test_pixels_are_copied_in_pieces(make_batches, monkeypatch):
    grids = make_batches().images.grids
    monkeypatch.setattr("selfie_pipeline.training.data.prefetch._PIECE_BYTES", 5 * ROW_BYTES)

    resident = ResidentGrids(grids, ROWS, "cpu")

    assert torch.equal(resident.gather(ROWS[::-1].copy()), grids.patches[ROWS[::-1].copy()])


@pytest.mark.parametrize("sample", [0, 4, 394])
def test_a_sample_that_was_not_copied_is_refused(make_batches, sample):
    resident = ResidentGrids(make_batches().images.grids, ROWS[:-1], "cpu")
    with pytest.raises(IndexError):
        resident.gather(np.array([ROWS[0], sample if sample != 394 else ROWS[-1]]))


def test_the_next_part_is_read_while_the_present_one_is_computed(make_batches, monkeypatch):
    batches = make_batches(steps=4)
    read = [threading.Event() for _ in range(4)]
    original = Batches.part

    def part(self, step, number=0):
        found = original(self, step, number)
        read[step].set()
        return found

    monkeypatch.setattr(Batches, "part", part)
    parts = iter(Feed(batches, "cpu"))

    assert next(parts).step == 0
    assert read[1].wait(timeout=30)  # nobody has asked for it yet
    assert not read[2].wait(timeout=0.05)
    parts.close()


def test_what_goes_wrong_while_reading_ahead_is_raised_where_the_part_is_asked_for(make_batches):
    batches = make_batches(steps=4)
    batches.images.grids.patches = batches.images.grids.patches[:1]
    with pytest.raises(IndexError):
        next(iter(Feed(batches, "cpu")))


@needs_gpu
@pytest.mark.parametrize("resident", [True, False])
def test_the_host_does_not_wait_for_the_device_within_a_step(make_config, make_images, resident):
    config = make_config({"pretrain.steps": 6, "pretrain.clip_norm": 1.0})
    images, recipe = make_images(config), config.pretrain
    task = PretrainingTask(Selfie(config.model, config.patch), recipe, images).cuda()
    optimizer = task.configure_optimizers()["optimizer"]
    batches = Batches(images, ROWS, recipe.seed, recipe)
    source = settle(batches, "cuda", room=10**9) if resident else batches
    parts = iter(Feed(source, "cuda"))
    try:
        for step, part in enumerate(parts):
            torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first one warms up
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = task.training_step(part, step)
            loss.backward()
            task.on_before_optimizer_step(optimizer)
            optimizer.step()
            optimizer.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode("default")
