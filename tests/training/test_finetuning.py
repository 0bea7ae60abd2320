import copy
import inspect
import logging

import numpy as np
import pytest
import torch
from torch.nn import functional

from selfie_pipeline.config import UserError
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training import finetuning
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.augmentation import normalise
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.finetuning import (
    finetune,
    held_out_score,
    initialise_classifier,
    load_encoder_into,
    reestimate_statistics,
    set_initial_weights,
)
from selfie_pipeline.training.inference import compute_outputs
from selfie_pipeline.training.optimizer import (
    build_optimizer,
    learning_rate_factor,
    set_learning_rate,
)
from selfie_pipeline.training.tasks import FinetuningTask
from selfie_pipeline.weights import Weights

PROCESSOR = Device(type="cpu", bf16=False)
ROWS = np.arange(5, 205, 10)  # 20 digits


def fresh(config, seed=0):
    return initialise_classifier(config.model, config.finetune.architecture, config.patch, 10, seed)


@pytest.fixture
def labels(digits):
    return digits[1][ROWS]


@pytest.fixture
def train(make_images, no_checkpoints, labels):
    def train(config, network, pretrained=(), checkpoints=no_checkpoints, callbacks=()):
        images = make_images(config)
        trained = finetune(
            network,
            pretrained=pretrained,
            recipe=config.finetune,
            seed=config.seed,
            images=images,
            rows=ROWS,
            labels=labels,
            device=PROCESSOR,
            checkpoints=checkpoints,
            title="finetune",
            callbacks=callbacks,
        )
        return trained, images

    return train


HYBRID = {"finetune.architecture": "resnet36_attention"}
NOTHING_DROPS = {"model.attention.dropout": 0.0, "model.attention.attention_dropout": 0.0}


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
    network = fresh(config)
    trained, images = train(config, network)
    assert trained.history[-1].accuracy == 1
    network.load_state_dict(trained.tensors, strict=True)
    logits = compute_outputs(network, images, ROWS, PROCESSOR, "classify")
    assert (logits.argmax(axis=1) == labels).all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"finetune.clip_norm": 0.5}, HYBRID | NOTHING_DROPS],
    ids=["plain", "clipped", "hybrid"],
)
def test_the_steps_are_those_of_sgd_written_out(make_config, make_images, train, labels, changes):
    """The recipe from the batches on: Nesterov, L2, the rate of each step.

    Rounding grows tenfold a step, so there are few.
    """
    config = make_config({"finetune.steps": 2, "finetune.weight_decay": 0.01} | changes)
    network = fresh(config)
    ours = copy.deepcopy(network)
    trained, images = train(config, network)

    label_of_row = torch.zeros(2000, dtype=torch.int64)
    label_of_row[ROWS] = torch.tensor(labels)
    mean, std = torch.from_numpy(images.grids.mean), torch.from_numpy(images.grids.std)
    recipe, momentum = config.finetune, {}
    states = []
    for batch in Batches(make_images(config), ROWS, config.seed, recipe):
        windows = images.read_augmented(batch, config.patch.image_size)[:, 0]
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
    last = "head.fc.weight"
    assert not torch.allclose(states[-2][last], states[-1][last], atol=1e-4)


class TestFaultCheckpointsChosenOnTheTestSet:
    """Nothing that could choose is there: no other samples are read, and the last step's stay.

    That the tensors are the last step's is `test_the_steps_are_those_of_sgd_written_out`'s.
    """

    def test_finetuning_reads_no_sample_but_the_labeled(self, make_config, train):
        config = make_config({"finetune.steps": 6})
        _, images = train(config, fresh(config))
        assert set(images.grids.requested) == set(ROWS.tolist())
        assert len(images.grids.requested) == 6 * 8

    def test_the_tensors_are_those_that_the_network_ends_with(self, make_config, train):
        config = make_config()
        network = fresh(config)
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

    def watched(*arguments, **more):
        given.append(arguments[-1])
        return task(*arguments, **more)

    monkeypatch.setattr(finetuning, "FinetuningTask", watched)
    config = make_config({"finetune.steps": 2})
    train(config, fresh(config))
    label_of_row = given[0].numpy()
    assert np.array_equal(label_of_row[ROWS], labels)
    others = np.setdiff1d(np.arange(len(label_of_row)), ROWS)
    assert (label_of_row[others] == -1).all()


@pytest.mark.parametrize("architecture", ["resnet", "resnet36_attention"])
def test_both_arms_share_what_is_fresh(make_config, architecture):
    config = make_config({"finetune.architecture": architecture})
    one, again, other = (fresh(config, seed) for seed in (3, 3, 4))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(one.head.fc.weight, other.head.fc.weight)


def test_units_drop_by_seed_step_and_place_in_the_batch(make_config, make_images):
    config = make_config(HYBRID)
    network, images = fresh(config), make_images(config)
    network.patch_network.eval()  # its statistics would depend on the parts
    zeros = torch.zeros(205, dtype=torch.int64)

    def loss(seed=0, step=0, accumulate=1, part=0):
        recipe = config.finetune.model_copy(update={"accumulate": accumulate})
        task = FinetuningTask(network, recipe, images, zeros, seed=seed, pretrained=())
        batch = Batches(images, ROWS, 0, recipe).micro_batch(0, part)._replace(step=step)
        return task(batch)[0].item()

    assert loss() == loss()
    assert len({loss(), loss(seed=1), loss(step=1)}) == 3
    parts = [loss(accumulate=2, part=part) for part in (0, 1)]
    assert sum(parts) / 2 == pytest.approx(loss(), rel=1e-5)


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
PRETRAINED = ("stem.", "stages.0.", "stages.1.", "stages.2.")


def pretrained_names(network):
    """Return the names of the tensors that an encoder provides."""
    hybrid = hasattr(network, "patch_network")
    return [
        name
        for name in network.state_dict()
        if (not name.startswith("head.") if hybrid else name.startswith(PRETRAINED))
    ]


def differing(one, other):
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


SWITCHES = [{"finetune.reestimate_statistics": True}, {"finetune.pretrained_rate": 0.1}]


class TestMismatch:
    """Each switch changes what it says, and nothing else."""

    @pytest.fixture(params=["resnet", "resnet36_attention"])
    def changed(self, request, make_config):
        """A configuration with changes to its finetuning."""
        base = {"finetune.architecture": request.param}
        return lambda changes=None: make_config(base | (changes or {}))

    @pytest.mark.parametrize("changes", SWITCHES, ids=str)
    def test_no_switch_touches_the_supervised_arm(self, changed, train, changes):
        without, _ = train(changed(), fresh(changed()))
        having, _ = train(changed(changes), fresh(changed()))
        assert differing(without.tensors, having.tensors) == set()
        assert without.history == having.history

    def test_without_switches_the_names_of_pretrained_tensors_change_nothing(self, changed, train):
        network = fresh(changed())
        scratch, _ = train(changed(), copy.deepcopy(network))
        pretrained, _ = train(changed(), network, pretrained_names(network))
        assert differing(scratch.tensors, pretrained.tensors) == set()

    def test_statistics_estimated_anew_are_all_that_differs(self, changed, train):
        """Training does not read them, so after it everything else is the same."""
        network = fresh(changed())
        names = pretrained_names(network)
        without, _ = train(changed(), copy.deepcopy(network), names)
        having, _ = train(changed({"finetune.reestimate_statistics": True}), network, names)
        different = differing(without.tensors, having.tensors)
        assert different == {name for name in names if name.endswith(STATISTICS)} - {
            name for name in names if name.startswith("pooling.")
        }
        assert len(different) > 20
        assert without.history == having.history

    def test_they_are_estimated_on_the_labeled_samples(self, changed, train, monkeypatch):
        config = changed({"finetune.reestimate_statistics": True, "finetune.steps": 2})
        network = fresh(config)
        _, images = train(config, network, pretrained_names(network))
        assert set(images.grids.requested[:20]) == set(ROWS.tolist())
        assert len(images.grids.requested) == 20 + 2 * 8

        monkeypatch.setattr(finetuning, "_STATISTICS_SAMPLES", 6)
        _, images = train(config, network, pretrained_names(network))
        assert len(set(images.grids.requested[:6])) == 6
        assert len(images.grids.requested) == 6 + 2 * 8

    def test_estimating_is_cumulative_over_whole_images(self, changed, make_images, monkeypatch):
        monkeypatch.setattr(finetuning, "_STATISTICS_BATCH_SIZE", 10)
        config = changed()
        network, images = fresh(config).eval(), make_images(config)
        modules = [module for module in network.modules() if hasattr(module, "momentum")]
        momenta = [module.momentum for module in modules]
        before = copy.deepcopy(network.state_dict())

        reestimate_statistics(network, images, ROWS, PROCESSOR)

        p = getattr(network, "patch_network", network)
        mean, std = torch.from_numpy(images.grids.mean), torch.from_numpy(images.grids.std)
        with torch.no_grad():
            halves = [
                p.stem(normalise(images.read_central(half), mean, std))
                for half in (ROWS[:10], ROWS[10:])
            ]
        norm = p.stages[0].blocks[0].norm1  # it sees the stem's map
        means = torch.stack([half.mean(dim=(0, 2, 3)) for half in halves])
        variances = torch.stack([half.var(dim=(0, 2, 3)) for half in halves])
        torch.testing.assert_close(norm.running_mean, means.mean(dim=0))
        torch.testing.assert_close(norm.running_var, variances.mean(dim=0), rtol=1e-4, atol=0)
        assert norm.num_batches_tracked == 2
        assert [module.momentum for module in modules] == momenta
        assert not any(module.training for module in network.modules())
        different = differing(before, network.state_dict())
        assert all(name.endswith(STATISTICS) for name in different)
        assert all(name in pretrained_names(network) for name in different)

    def test_pretrained_weights_take_smaller_steps(self, changed, train):
        """The first step, from the same gradient; without warm-up its rate is the peak."""
        once = {"finetune.steps": 1, "finetune.warmup_steps": 0}
        network = fresh(changed())
        names, start = pretrained_names(network), copy.deepcopy(network.state_dict())
        full, _ = train(changed(once), copy.deepcopy(network), names)
        slow, _ = train(changed(once | {"finetune.pretrained_rate": 0.25}), network, names)
        weights = {name for name, _ in network.named_parameters()}
        assert weights & set(names)
        for name in weights & set(names):
            step = full.tensors[name] - start[name]
            torch.testing.assert_close(
                slow.tensors[name] - start[name], step / 4, rtol=1e-2, atol=1e-6
            )
        assert differing(full.tensors, slow.tensors) <= weights & set(names)

    def test_warm_up_and_decay_are_those_of_both_rates(self, changed, make_images):
        config = changed({"finetune.pretrained_rate": 0.25, "finetune.steps": 6})
        network = fresh(config)
        task = FinetuningTask(
            network,
            config.finetune,
            make_images(config),
            torch.zeros(1),
            seed=0,
            pretrained=pretrained_names(network),
        )
        optimizer = build_optimizer(task.parameter_groups(), config.finetune)
        for step in range(6):
            set_learning_rate(optimizer, step, config.finetune)
            fresh_rate, rate = (group["lr"] for group in optimizer.param_groups)
            expected = 0.05 * learning_rate_factor(step, config.finetune)
            assert fresh_rate == pytest.approx(expected)
            assert rate == pytest.approx(expected / 4)


HELD_OUT = np.arange(300, 400)


@pytest.fixture
def score_held_out(make_config, make_images, digits):
    return held_out_score(make_images(make_config()), HELD_OUT, digits[1][HELD_OUT], PROCESSOR)


def test_held_out_samples_are_scored_at_half_and_at_the_end_and_change_nothing(
    make_config, train, score_held_out, digits
):
    config = make_config({"finetune.steps": 6})
    halfway = []

    def watch(state):
        score_held_out(state)
        if state.step == 3:
            halfway.append(copy.deepcopy(state.network))

    plain, _ = train(config, fresh(config))
    scored, images = train(config, network := fresh(config), callbacks=[watch])

    assert plain.measured == {}
    for name, tensor in plain.tensors.items():
        assert torch.equal(scored.tensors[name], tensor), name
    for name, judged in (("held_out_half", halfway[0]), ("held_out", network)):
        logits = compute_outputs(judged, images, HELD_OUT, PROCESSOR, "classify")
        expected = (logits.argmax(axis=1) == digits[1][HELD_OUT]).mean()
        assert scored.measured[name] == pytest.approx(expected)


@pytest.mark.parametrize("stop", [2, 3, 4, 6])
def test_a_resumed_training_has_the_scores_of_an_undisturbed_one(
    make_config, train, score_held_out, tmp_path, stop
):
    """Stopped before, at and after half of the steps, and after the last."""
    config = make_config({"finetune.steps": 6})
    whole, _ = train(config, fresh(config), callbacks=[score_held_out])

    def crash_after(state):
        score_held_out(state)
        if state.step == stop + 1:
            raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path / "resumed", {}, every=1, resume="auto")
    try:
        train(config, fresh(config), checkpoints=checkpoints, callbacks=[crash_after])
    except KeyboardInterrupt:
        assert stop < 6
    resumed, _ = train(config, fresh(config), checkpoints=checkpoints, callbacks=[score_held_out])

    assert list(resumed.measured.items()) == list(whole.measured.items())  # the order is stored
    assert set(whole.measured) == {"held_out_half", "held_out"}


@pytest.mark.parametrize(
    ("key", "wanted", "pretrained"),
    [("encoder_positions", False, True), ("attention.heads", 2, 4)],
)
def test_an_encoder_whose_attention_works_in_another_way_is_refused(
    make_config, key, wanted, pretrained
):
    """Its tensors have the same shapes."""
    made, config = make_config(HYBRID), make_config(HYBRID | {f"model.{key}": wanted})
    tensors = Selfie(made.model, made.patch).state_dict()
    encoder = Weights(tensors, {"configuration": {"model": made.model.model_dump()}})

    with pytest.raises(UserError) as caught:
        load_encoder_into(fresh(config), encoder, config.model)

    assert str(caught.value).startswith(
        f"model.{key} = {wanted} does not fit the encoder, which has {pretrained}; the encoder was "
        "pretrained with other model parameters"
    )
    load_encoder_into(fresh(made), encoder, made.model)


def test_the_log_counts_the_pretrained_tensors_of_each_part(make_config, caplog):
    caplog.set_level(logging.INFO, "selfie_pipeline")
    config = make_config()
    encoder = Weights(Selfie(config.model, config.patch).state_dict(), {})

    names = set_initial_weights(fresh(config), encoder, config.model)

    stem = sum(name.startswith("stem.") for name in names)
    assert caplog.messages == [
        f"Loaded {len(names)} pretrained tensors: {len(names) - stem} of stages, {stem} of stem"
    ]


def test_the_log_counts_the_given_tensors(make_config, caplog):
    caplog.set_level(logging.INFO, "selfie_pipeline")
    config = make_config()
    given = Weights(dict(fresh(config, seed=1).state_dict()), {"weights": "a file"})

    names = set_initial_weights(fresh(config), given, config.model)

    assert caplog.messages == [f"Loaded {len(names)} given tensors"]
