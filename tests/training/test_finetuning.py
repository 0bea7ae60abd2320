import copy
import inspect

import numpy as np
import pytest
import torch
from torch.nn import functional

from selfie_pipeline.models.backbone import build_resnet
from selfie_pipeline.training import finetuning
from selfie_pipeline.training.augmentation import normalise
from selfie_pipeline.training.batches import Batches
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.finetuning import classify, finetune, fresh_classifier
from selfie_pipeline.training.schedule import learning_rate_factor

PROCESSOR = Device(type="cpu", bf16=False)
ROWS = np.arange(5, 205, 10)  # 20 digits


@pytest.fixture
def labels(digits):
    return digits[1][ROWS]


@pytest.fixture
def train(make_images, no_checkpoints, labels):
    def train(config, network):
        images = make_images(config)
        trained = finetune(
            network,
            recipe=config.finetune,
            seed=config.seed,
            images=images,
            rows=ROWS,
            labels=labels,
            device=PROCESSOR,
            checkpoints=no_checkpoints,
            title="finetune",
        )
        return trained, images

    return train


def test_it_learns_20_digits_by_heart(make_config, train, labels):
    config = make_config(
        {
            "augmentation.pad": 0,
            "augmentation.flip": False,
            "finetune.steps": 40,
            "finetune.batch_size": 20,
            "finetune.peak_learning_rate": 0.1,
            "finetune.warmup_steps": 5,
        }
    )
    network = fresh_classifier(config.model, 10, seed=0)
    trained, images = train(config, network)
    assert trained.history[-1].accuracy == 1
    network.load_state_dict(trained.tensors, strict=True)
    logits = classify(network, images, ROWS, PROCESSOR)
    assert (logits.argmax(axis=1) == labels).all()


@pytest.mark.parametrize("changes", [{}, {"finetune.clip_norm": 0.5}], ids=["plain", "clipped"])
def test_the_steps_are_those_of_sgd_written_out(make_config, make_images, train, labels, changes):
    """The recipe from the batches on: Nesterov, L2, the rate of each step.

    Rounding grows tenfold a step, so there are few.
    """
    config = make_config({"finetune.steps": 2, "finetune.weight_decay": 0.01} | changes)
    network = fresh_classifier(config.model, 10, seed=0)
    ours = copy.deepcopy(network)
    trained, images = train(config, network)

    label_of_row = torch.zeros(2000, dtype=torch.int64)
    label_of_row[ROWS] = torch.tensor(labels)
    mean, std = torch.from_numpy(images.grids.mean), torch.from_numpy(images.grids.std)
    recipe, momentum = config.finetune, {}
    states = []
    for batch in Batches(make_images(config), ROWS, config.seed, recipe):
        windows = images.cut_out(batch.patches, batch.corners, batch.flips)
        logits = ours.train()(normalise(windows, mean, std))
        loss = functional.cross_entropy(logits, label_of_row[batch.samples])
        ours.zero_grad()
        loss.backward()
        if recipe.clip_norm:
            torch.nn.utils.clip_grad_norm_(ours.parameters(), recipe.clip_norm)
        rate = recipe.peak_learning_rate * learning_rate_factor(batch.step, recipe)
        with torch.no_grad():
            for name, weight in ours.named_parameters():
                gradient = weight.grad + 0.01 * weight
                momentum[name] = 0.9 * momentum.get(name, 0) + gradient
                weight.sub_(rate * (gradient + 0.9 * momentum[name]))
        states.append(copy.deepcopy(ours.state_dict()))
    for name, tensor in trained.tensors.items():
        torch.testing.assert_close(tensor, states[-1][name], rtol=1e-3, atol=1e-4)
    before = states[-2]["stages.3.blocks.0.conv1.weight"]
    assert not torch.allclose(before, states[-1]["stages.3.blocks.0.conv1.weight"], atol=1e-4)


class TestFaultCheckpointsChosenOnTheTestSet:
    """Nothing that could choose is there: no other samples are read, and the last step's stay.

    That the tensors are the last step's is `test_the_steps_are_those_of_sgd_written_out`'s.
    """

    def test_finetuning_reads_no_sample_but_the_labeled(self, make_config, train):
        config = make_config({"finetune.steps": 6})
        _, images = train(config, fresh_classifier(config.model, 10, seed=0))
        assert set(images.grids.asked_for) == set(ROWS.tolist())
        assert len(images.grids.asked_for) == 6 * 8

    def test_the_tensors_are_those_that_the_network_ends_with(self, make_config, train):
        config = make_config()
        network = fresh_classifier(config.model, 10, seed=0)
        trained, _ = train(config, network)
        assert trained.tensors.keys() == network.state_dict().keys()
        for name, tensor in network.state_dict().items():
            assert torch.equal(trained.tensors[name], tensor), name

    def test_one_set_of_samples_is_all_that_finetuning_takes(self):
        parameters = inspect.signature(finetune).parameters
        assert [name for name in parameters if name in {"rows", "labels", "images"}]
        assert not [name for name in parameters if "test" in name or "val" in name]


def test_a_label_belongs_to_its_row(make_config, train, labels, monkeypatch):
    given = []
    task = finetuning.FinetuningTask

    def watched(*arguments):
        given.append(arguments[-1])
        return task(*arguments)

    monkeypatch.setattr(finetuning, "FinetuningTask", watched)
    config = make_config({"finetune.steps": 2})
    train(config, fresh_classifier(config.model, 10, seed=0))
    label_of_row = given[0].numpy()
    assert np.array_equal(label_of_row[ROWS], labels)
    others = np.setdiff1d(np.arange(len(label_of_row)), ROWS)
    assert (label_of_row[others] == -1).all()


def test_both_arms_share_what_is_fresh(make_config):
    model = make_config().model
    one, again, other = (fresh_classifier(model, 10, seed) for seed in (3, 3, 4))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(one.stem.conv.weight, other.stem.conv.weight)


@pytest.fixture
def classified(make_config, make_images):
    """A network whose statistics have seen images, and what it makes of rows."""
    config = make_config()
    images = make_images(config)
    torch.manual_seed(0)
    network = build_resnet(config.model, classes=10)
    network(images.central(np.arange(64)).float() / 64 - 1)

    def classified(rows):
        return classify(network, images, rows, PROCESSOR)

    return classified


def test_logits_come_in_the_order_of_the_rows(classified):
    rows = np.random.default_rng(0).permutation(1797)[:300]
    logits = classified(rows)
    assert logits.shape == (300, 10)
    assert logits.dtype == np.float32
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_allclose(classified(rows[order]), logits[order], rtol=1e-4, atol=1e-4)
    assert len(np.unique(logits, axis=0)) > 290


def test_logits_do_not_depend_on_the_other_rows(classified):
    rows = np.arange(300)
    together = classified(rows)
    for row in (0, 255, 256, 299):
        np.testing.assert_allclose(
            classified(rows[row : row + 1])[0], together[row], rtol=1e-4, atol=1e-4
        )


def test_classifying_changes_nothing(make_config, make_images):
    config = make_config()
    network = build_resnet(config.model, classes=10).train()
    before = copy.deepcopy(network.state_dict())
    classify(network, make_images(config), np.arange(10), PROCESSOR)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
