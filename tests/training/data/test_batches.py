"""Tests of batches: each is a function of the seed and the step, however it is split."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from selfie_pipeline.models.dropout import dropout
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.data.batches import Batches, patch_order, shuffled_samples
from selfie_pipeline.training.tasks import PretrainingTask

ROWS = np.arange(3, 400, 7)  # 57 samples, in batches of 8
TENSORS = ("samples", "grids", "corners", "flips", "order", "boxes", "colours")
AUGMENTED = {"smallest_crop": 0.5, "colour_jitter": 0.5}


@pytest.fixture
def make_batches(make_config, make_images):
    def make(rows=ROWS, seed=0, first_step=0, **changes):
        changes = AUGMENTED | changes
        config = make_config({f"finetune.{key}": value for key, value in changes.items()})
        return Batches(make_images(config), rows, seed, config.finetune, first_step)

    return make


def assert_equal(batch, other):
    assert (batch.step, batch.first_row) == (other.step, other.first_row)
    for name in TENSORS:
        assert torch.equal(getattr(batch, name), getattr(other, name)), name


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("first_step", [1, 7, 8, 19])
def test_a_resumed_training_has_the_batches_of_an_undisturbed_one(
    make_batches, first_step, accumulate
):
    """Steps 7 and 8 are before and after the end of an epoch."""
    changes = {"steps": 20, "accumulate": accumulate}
    undisturbed = list(make_batches(**changes))
    resumed = list(make_batches(first_step=first_step, **changes))
    assert len(undisturbed) == 20 * accumulate
    assert len(resumed) == (20 - first_step) * accumulate
    for batch, expected in zip(resumed, undisturbed[first_step * accumulate :], strict=True):
        assert_equal(batch, expected)


def test_a_batch_does_not_depend_on_earlier_requests(make_batches):
    in_order = list(make_batches(steps=20))
    batches = make_batches(steps=20)
    for step in (19, 3, 12, 3, 0):
        assert_equal(batches.micro_batch(step), in_order[step])


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_make_up_the_whole_batch(make_batches, parts):
    in_parts = list(make_batches(steps=10, accumulate=parts))
    for step, batch in enumerate(make_batches(steps=10)):
        group = in_parts[step * parts : (step + 1) * parts]
        assert [part.step for part in group] == [batch.step] * parts
        assert [part.first_row for part in group] == list(range(0, 8, 8 // parts))
        for name in TENSORS:
            joined = torch.cat([getattr(part, name) for part in group])
            assert torch.equal(joined, getattr(batch, name)), name


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("workers", [2, 4])
def test_the_workers_shares_make_up_each_micro_batch(make_batches, workers, parts):
    """With 1, 2 or 4 workers, it has the same samples, crops, flips and rows of random numbers."""
    alone = make_batches(steps=10, accumulate=parts)
    together = [replace(alone, worker=worker, workers=workers) for worker in range(workers)]
    for part, *shares in zip(alone, *together, strict=True):
        rows = [share.first_row + row for share in shares for row in range(len(share.samples))]
        assert rows == [part.first_row + row for row in range(len(part.samples))]
        for name in TENSORS:
            joined = torch.cat([getattr(share, name) for share in shares])
            assert torch.equal(joined, getattr(part, name)), name


def test_the_patch_grids_are_those_of_the_samples(make_batches):
    batches = make_batches(steps=3)
    for batch in batches:
        assert torch.equal(batch.grids, batches.images.grids.patches[batch.samples])


@pytest.mark.parametrize("samples", [57, 8, 20, 3, 1])
def test_every_epoch_has_every_sample_once(make_batches, samples):
    """Also where a batch spans two epochs, or holds several."""
    rows = ROWS[:samples]
    stream = torch.cat([batch.samples for batch in make_batches(rows=rows, steps=22)]).numpy()
    epochs = [stream[i : i + samples] for i in range(0, len(stream) - samples + 1, samples)]
    assert len(epochs) == 22 * 8 // samples
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), rows)
    if samples > 10:
        assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(epochs))
        assert not np.array_equal(epochs[0], rows)


def test_positions_of_an_epoch_can_be_read_in_any_order():
    positions = np.random.default_rng(0).permutation(100)
    drawn = shuffled_samples(3, 23, positions)
    assert np.array_equal(drawn[np.argsort(positions)], shuffled_samples(3, 23, np.arange(100)))


def test_another_seed_changes_samples_crops_flips_and_masks(make_batches):
    one, other = make_batches(seed=0).micro_batch(2), make_batches(seed=1).micro_batch(2)
    for name in ("samples", "corners", "flips"):
        assert not torch.equal(getattr(one, name), getattr(other, name)), name
    assert not torch.equal(patch_order(0, 2, 8, 16), patch_order(1, 2, 8, 16))


def test_another_step_changes_samples_crops_flips_and_masks(make_batches):
    one, other = make_batches().micro_batch(1), make_batches().micro_batch(2)
    for name in ("samples", "corners", "flips"):
        assert not torch.equal(getattr(one, name), getattr(other, name)), name
    assert not torch.equal(patch_order(0, 1, 8, 16), patch_order(0, 2, 8, 16))


class TestFaultOneMaskForTheWholeBatch:
    @pytest.mark.parametrize(("patches", "targets"), [(16, 4), (49, 13)])
    def test_each_image_has_its_own_mask(self, patches, targets):
        order = patch_order(0, 5, 64, patches)
        assert torch.equal(order.sort(dim=1).values, torch.arange(patches).expand(64, patches))
        masks = order[:, -targets:].sort(dim=1).values
        assert len(masks.unique(dim=0)) > 60

    @pytest.mark.parametrize(("patches", "targets"), [(16, 4), (49, 13)])
    def test_every_position_is_masked_equally_often(self, patches, targets):
        orders = torch.cat([patch_order(0, step, 64, patches) for step in range(100)])
        counts = orders[:, -targets:].flatten().bincount(minlength=patches).double()
        share = targets / patches
        deviation = (6400 * share * (1 - share)) ** 0.5
        assert (counts - 6400 * share).abs().max() < 4 * deviation

    @pytest.mark.parametrize("parts", [1, 4])
    def test_the_network_gets_a_mask_for_each_image(self, make_config, make_images, parts):
        config = make_config({"pretrain.accumulate": parts})
        images, recipe = make_images(config), config.pretrain
        network = Selfie(config.model, config.patch).eval()
        task = PretrainingTask(network, recipe, images)
        seen = []
        network.register_forward_pre_hook(lambda _, given: seen.append(given))
        batches = Batches(images, ROWS, recipe.seed, recipe)
        with torch.no_grad():
            for part in range(parts):
                task(batches.micro_batch(3, part))
        given = torch.cat([order for _, order, _ in seen])
        assert torch.equal(given, patch_order(recipe.seed, 3, 8, 16))
        assert len(given.unique(dim=0)) == 8


def test_micro_batches_have_the_loss_of_the_whole_batch(make_config, make_images):
    """BatchNorm is in evaluation mode: in training, its statistics are of a micro-batch."""
    losses = []
    for parts in (1, 2, 4):
        config = make_config({"pretrain.accumulate": parts, "model.attention.dropout": 0.4})
        images, recipe = make_images(config), config.pretrain
        torch.manual_seed(0)
        task = PretrainingTask(Selfie(config.model, config.patch).eval(), recipe, images)
        batches = Batches(images, ROWS, recipe.seed, recipe)
        with torch.no_grad():
            scores = [task(batches.micro_batch(2, part)) for part in range(parts)]
        losses.append(torch.tensor(scores).mean(dim=0))
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def test_dropout_differs_from_step_to_step(make_config, make_images):
    config = make_config({"model.attention.dropout": 0.4})
    images, recipe = make_images(config), config.pretrain
    task = PretrainingTask(Selfie(config.model, config.patch).eval(), recipe, images)
    batch = Batches(images, ROWS, recipe.seed, recipe).micro_batch(2)
    rngs = [task.dropout_rng(recipe.seed, batch._replace(step=step)) for step in (2, 2, 3)]
    kept = [dropout(torch.ones(8, 50), 0.5, rng) for rng in rngs]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


def test_fault_test_rows_in_a_training(make_batches):
    """Only the rows that the training was given are read."""
    batches = make_batches(steps=20)
    list(batches)
    assert set(batches.images.grids.requested) == set(ROWS.tolist())
