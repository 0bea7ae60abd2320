"""Tests of the pretraining network and its loss."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.models.selfie import Selfie, patch_accuracy, selfie_loss
from selfie_pipeline.training.data.augmentation import normalise

GRIDS = [  # rows of the grid, targets
    (2, 2),
    (3, 2),
    (3, 8),
    (4, 4),
    (4, 7),
    (5, 6),
    (7, 13),
]


def build_network(make_config, grid, targets, **changes):
    size = {"patch.canvas_size": 8 * grid, "patch.image_size": 8 * grid, "patch.targets": targets}
    config = make_config(size | changes)
    return Selfie(config.model, config.patch)


def random_orders(images, positions):
    return torch.rand(images, positions).argsort(dim=1)


def reference_loss(vectors, order, u, positions, targets):
    """Compute loss and accuracy one target position after another.

    Args:
        vectors: h of all patches, (B, N, D), float64.
        order: (B, N), the targets last.
        u: (B, D), float64.
        positions: (N, D), float64.
        targets: Number of targets.
    """
    losses, correct = [], []
    for image in range(len(vectors)):
        masked = order[image, -targets:]
        for position in masked:
            v = u[image] + positions[position]
            scores = np.array([v @ vectors[image, other] for other in masked])
            true = int(np.flatnonzero(masked == position)[0])
            shifted = scores - scores.max()
            losses.append(math.log(np.exp(shifted).sum()) - shifted[true])
            correct.append(scores.argmax() == true)
    return np.mean(losses), np.mean(correct)


@pytest.mark.parametrize("encoder_positions", [True, False])
@pytest.mark.parametrize("positions", ["table", "row_column"])
@pytest.mark.parametrize(("grid", "targets"), GRIDS)
def test_loss_and_accuracy_equal_those_of_the_reference(
    make_config, grid, targets, positions, encoder_positions
):
    torch.manual_seed(grid * targets)
    changes = {"model.positions": positions, "model.encoder_positions": encoder_positions}
    network = build_network(make_config, grid, targets, **changes).double().eval()
    with torch.no_grad():
        for parameter in network.positions.parameters():
            parameter.normal_()  # small ones would hide a wrong position
    patches = torch.rand(5, grid**2, 3, 8, 8, dtype=torch.float64)
    order = random_orders(5, grid**2)
    table = network.positions().detach()
    with torch.inference_mode():
        vectors = network.embed(patches)
        context = [
            torch.stack([vectors[b, n] + table[n] * encoder_positions for n in order[b, :-targets]])
            for b in range(5)
        ]
        u = network.pooling(torch.stack(context))
        scores = network(patches, order)
    loss, accuracy = reference_loss(
        vectors.numpy(), order.numpy(), u.numpy(), table.numpy(), targets
    )
    assert scores.shape == (5, targets, targets)
    assert scores.dtype == torch.float32
    assert selfie_loss(scores).item() == pytest.approx(loss, rel=1e-5)
    assert patch_accuracy(scores).item() == pytest.approx(accuracy)


@pytest.mark.parametrize("targets", [2, 4, 13])
def test_the_loss_of_given_scores_is_exact(targets):
    scores = torch.randn(6, targets, targets, dtype=torch.float64) * 3
    exponentials = np.exp(scores.numpy())
    expected = np.mean(
        [
            -math.log(exponentials[b, i, i] / exponentials[b, i].sum())
            for b in range(6)
            for i in range(targets)
        ]
    )
    assert selfie_loss(scores).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("targets", [2, 4, 13])
def test_the_loss_of_equal_scores_is_ln_t(targets):
    assert selfie_loss(torch.zeros(3, targets, targets)).item() == pytest.approx(math.log(targets))


def test_accuracy_counts_the_diagonal():
    scores = torch.zeros(2, 3, 3)
    scores[0] = torch.eye(3)
    scores[1] = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert patch_accuracy(scores).item() == pytest.approx(4 / 6)


class TestFaultSoftmaxBeforeTheCrossEntropy:
    """It would limit each score to [0, 1], so the loss of four targets would be at least 0.74."""

    def test_the_loss_of_perfect_scores_is_zero(self):
        assert selfie_loss(30 * torch.eye(4).expand(8, 4, 4)).item() < 1e-6

    def test_the_networks_scores_are_logits(self, make_config):
        torch.manual_seed(0)
        network = build_network(make_config, 4, 4)
        with torch.no_grad():
            network.positions.table.normal_()
        scores = network(torch.rand(8, 16, 3, 8, 8), random_orders(8, 16))
        assert scores.min() < 0
        assert scores.max() > 1
        assert not torch.allclose(scores.sum(dim=-1), torch.ones(8, 4))

    def test_the_loss_of_a_memorised_batch_falls_below_0_74(self, make_config):
        torch.manual_seed(0)
        network = build_network(make_config, 4, 4)
        patches, order = torch.rand(2, 16, 3, 8, 8), random_orders(2, 16)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        for _ in range(15):
            optimizer.zero_grad()
            loss = selfie_loss(network(patches, order))
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.5


@pytest.mark.parametrize(("grid", "targets", "positions"), [(4, 4, "table"), (7, 13, "row_column")])
@pytest.mark.parametrize("width", [8, 16])
def test_at_initialisation_loss_and_accuracy_are_at_chance(
    make_config, digits, grid, targets, positions, width
):
    torch.manual_seed(0)
    changes = {"model.positions": positions, "model.width": width}
    network = build_network(make_config, grid, targets, **changes)
    pixels = nn.functional.interpolate(digits[0][:64], 8 * grid)
    mean = pixels.float().mean(dim=(0, 2, 3)) / 255
    std = pixels.float().std(dim=(0, 2, 3)) / 255
    with torch.no_grad():
        scores = network(patchify(normalise(pixels, mean, std), 8), random_orders(64, grid**2))
    assert patch_accuracy(scores).item() == pytest.approx(1 / targets, rel=0.3)
    assert selfie_loss(scores).item() == pytest.approx(math.log(targets), rel=0.15)


class TestFaultTheTargetPatchLeaksIntoTheQuery:
    TARGETS = 4

    @pytest.fixture
    def network(self, make_config):
        torch.manual_seed(0)
        network = build_network(make_config, 4, self.TARGETS).eval()
        with torch.no_grad():
            network.positions.table.normal_()
        return network

    @pytest.fixture
    def patches(self):
        return torch.rand(3, 16, 3, 8, 8)

    @pytest.fixture
    def order(self):
        return random_orders(3, 16)

    @pytest.fixture
    def run(self, network, monkeypatch):
        """A function that returns the scores and the queries that they were computed from."""

        def run(patches, order):
            recorded = []
            query = type(network).query

            def query_and_record(self, *args, **kwargs):
                recorded.append(query(self, *args, **kwargs))
                return recorded[-1]

            monkeypatch.setattr(type(network), "query", query_and_record)
            with torch.inference_mode():
                scores = network(patches, order)
            monkeypatch.undo()
            return scores, recorded[0]

        return run

    @pytest.mark.parametrize("target", range(TARGETS))
    def test_changing_a_target_patch_changes_no_query_and_only_its_own_column(
        self, run, patches, order, target
    ):
        scores, queries = run(patches, order)
        position = order[:, -self.TARGETS + target]
        changed = patches.clone()
        changed[torch.arange(3), position] = torch.rand(3, 3, 8, 8)
        scores_changed, queries_changed = run(changed, order)
        torch.testing.assert_close(queries_changed, queries, rtol=1e-5, atol=1e-6)
        others = [column for column in range(self.TARGETS) if column != target]
        torch.testing.assert_close(
            scores_changed[:, :, others], scores[:, :, others], rtol=1e-4, atol=1e-4
        )
        assert not torch.allclose(scores_changed[:, :, target], scores[:, :, target], atol=1e-3)

    def test_changing_a_context_patch_changes_the_queries(self, run, patches, order):
        _, queries = run(patches, order)
        changed = patches.clone()
        changed[torch.arange(3), order[:, 0]] = torch.rand(3, 3, 8, 8)
        _, queries_changed = run(changed, order)
        assert not torch.allclose(queries_changed, queries, atol=1e-4)

    def test_permuting_the_target_patches_permutes_the_columns(self, run, patches, order):
        scores, queries = run(patches, order)
        permutation = torch.tensor([2, 0, 3, 1])
        targets = order[:, -self.TARGETS :]
        image = torch.arange(3)[:, None]
        changed = patches.clone()
        changed[image, targets] = patches[image, targets[:, permutation]]
        scores_changed, queries_changed = run(changed, order)
        torch.testing.assert_close(queries_changed, queries, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(scores_changed, scores[:, :, permutation], rtol=1e-4, atol=1e-4)

    def test_the_order_of_the_context_does_not_matter(self, run, patches, order):
        scores, _ = run(patches, order)
        shuffled = order.clone()
        shuffled[:, :12] = order[:, torch.randperm(12)]
        torch.testing.assert_close(run(patches, shuffled)[0], scores, rtol=1e-4, atol=1e-4)


def test_each_image_of_a_batch_has_its_own_order(make_config):
    torch.manual_seed(0)
    network = build_network(make_config, 4, 4).eval()
    patches, order = torch.rand(3, 16, 3, 8, 8), random_orders(3, 16)
    with torch.inference_mode():
        together = network(patches, order)
        alone = torch.cat([network(patches[b : b + 1], order[b : b + 1]) for b in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_u_depends_on_the_context_positions_only_if_they_are_in_the_encoder(make_config):
    for switch in (True, False):
        torch.manual_seed(0)
        network = build_network(make_config, 4, 4, **{"model.encoder_positions": switch}).eval()
        context, order = torch.randn(1, 12, 128), torch.arange(16)[None]
        moved = order.clone()
        moved[0, :2] = order[0, [1, 0]]
        with torch.inference_mode():
            same = torch.allclose(
                network.query(context, order), network.query(context, moved), atol=1e-6
            )
        assert same is not switch


def test_every_parameter_has_a_gradient(make_config):
    network = build_network(make_config, 4, 4)
    selfie_loss(network(torch.rand(8, 16, 3, 8, 8), random_orders(8, 16))).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # The gradient of the keys' bias is only rounding: it adds the same to every score of a query.
    assert idle == []


def test_the_size_is_the_25_07_million_of_the_paper(paper_config):
    network = Selfie(paper_config.model, paper_config.patch)
    p_and_a = [*network.patch_network.parameters(), *network.pooling.parameters()]
    assert sum(parameter.numel() for parameter in p_and_a) / 1e6 == pytest.approx(25.07, abs=0.01)
    assert network.positions.table.numel() == 16 * 1024
