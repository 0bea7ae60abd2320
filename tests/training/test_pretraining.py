import numpy as np
import pytest
import torch

from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.pretraining import predict_patches, pretrain
from selfie_pipeline.weights import Weights

ROWS = np.arange(0, 1600, 4)  # 400 digits


@pytest.fixture
def train(make_images, tmp_path):
    runs = iter(range(100))

    def train(config, initial=None):
        folder = tmp_path / str(next(runs))
        checkpoints = Checkpoints(folder, {}, every=10**9, resume="never")
        images = make_images(config)
        device = find_device(config.compute)
        trained = pretrain(
            config.model, config.pretrain, images, ROWS, device, checkpoints, initial=initial
        )
        return trained, images

    return train


def test_it_learns_to_pick_the_patch_among_four(make_config, train):
    config = make_config(
        {
            "model.width": 16,
            "augmentation.pad": 0,
            "augmentation.flip": False,
            "pretrain.steps": 60,
            "pretrain.batch_size": 64,
            "pretrain.warmup_steps": 10,
            "pretrain.peak_learning_rate": 0.1,
            "pretrain.log_every": 5,
        }
    )
    trained, images = train(config)
    first, last = trained.history[0], trained.history[-1]
    assert first.accuracy < 0.4
    assert last.accuracy > 0.6
    assert last.loss < first.loss

    order = torch.rand(200, 16, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    network = Selfie(config.model, config.patch)
    network.load_state_dict(trained.tensors)
    chances = predict_patches(
        network, images, ROWS[:200], config.patch.patch_size, order, find_device(config.compute)
    )
    assert (chances.argmax(axis=-1) == np.arange(4)).mean() > 0.6


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_same_seed_gives_the_same_bits(make_config, train, accumulate):
    changes = {"pretrain.steps": 5, "pretrain.accumulate": accumulate}
    config = make_config(changes)
    torch.manual_seed(1)
    one, _ = train(config)
    torch.manual_seed(2)
    again, _ = train(config)
    other, _ = train(make_config(changes | {"pretrain.seed": 1}))
    assert one.history == again.history != other.history
    assert [row.step for row in one.history] == [2, 4, 5]
    assert one.tensors.keys() == Selfie(config.model, config.patch).state_dict().keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, again.tensors[name]), name
    assert not torch.equal(one.tensors["pooling.u0"], other.tensors["pooling.u0"])


def test_every_tensor_moves(make_config, train):
    config = make_config({"pretrain.steps": 3})
    trained, _ = train(config)
    before, _ = train(make_config({"pretrain.steps": 3, "pretrain.peak_learning_rate": 1e-30}))
    learned = {name for name, _ in Selfie(config.model, config.patch).named_parameters()}
    still = {name for name in learned if torch.equal(trained.tensors[name], before.tensors[name])}
    assert still == set()


def test_it_begins_from_given_weights(make_config, train):
    begun, _ = train(make_config({"pretrain.seed": 1}))
    still = {"pretrain.peak_learning_rate": 1e-30, "pretrain.weight_decay": 0.0}

    trained, _ = train(make_config(still), Weights(begun.tensors, {}))

    convolutions = [name for name in begun.tensors if name.endswith("conv1.weight")]
    assert convolutions
    for name in convolutions:
        torch.testing.assert_close(trained.tensors[name], begun.tensors[name])


def test_fault_test_rows_in_pretraining(make_config, train):
    _, images = train(make_config())
    assert images.grids.requested
    assert set(images.grids.requested) <= set(ROWS.tolist())


def test_picking_gives_probabilities_of_the_central_windows(make_config, make_images):
    config = make_config()
    images = make_images(config)
    torch.manual_seed(0)
    network = Selfie(config.model, config.patch)
    order = torch.rand(6, 16).argsort(dim=1)
    device = find_device(config.compute)
    side = config.patch.patch_size
    chances = predict_patches(network, images, ROWS[:6], side, order, device)
    assert chances.shape == (6, 4, 4)
    assert chances.dtype == np.float32
    np.testing.assert_allclose(chances.sum(axis=-1), 1, rtol=1e-5)
    again = predict_patches(network, images, ROWS[:6], side, order, device)
    np.testing.assert_allclose(again, chances, rtol=1e-4)
    alone = predict_patches(network, images, ROWS[2:3], side, order[2:3], device)
    np.testing.assert_allclose(alone[0], chances[2], rtol=1e-4)
