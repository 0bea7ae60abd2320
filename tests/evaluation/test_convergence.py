"""Tests of the signs of convergence, over made-up histories."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from selfie_pipeline.evaluation.convergence import has_converged, measure_convergence


def make_history(loss, accuracy, steps: int = 1000, log_every: int = 20) -> pd.DataFrame:
    """Return a history whose rows are means over their steps, as a training makes it."""
    ends = [*range(log_every, steps, log_every), steps]
    edges = [0, *ends]
    rows = []
    for start, end in zip(edges, ends, strict=False):
        progress = np.arange(start + 1, end + 1) / steps
        rows.append(
            {"step": end, "loss": loss(progress).mean(), "accuracy": accuracy(progress).mean()}
        )
    return pd.DataFrame(rows)


def measure(history: pd.DataFrame) -> dict[str, float | None]:
    """Measure the convergence on so many classes that chance is far above all losses here."""
    return measure_convergence(history, np.arange(100_000))


def constant(value: float):
    return lambda progress: np.full_like(progress, value)


@pytest.mark.parametrize("log_every", [1, 10, 33, 200])
def test_the_means_are_those_of_the_fifths(log_every: int) -> None:
    ending = measure(make_history(lambda p: 2 - p, lambda p: p, log_every=log_every))
    tolerance = log_every / 1000 / 2 + 1e-9  # a row is in the fifth in which it ends
    assert ending["loss"] == pytest.approx(1.1, abs=tolerance + 0.001)
    assert ending["loss_before"] == pytest.approx(1.3, abs=tolerance + 0.001)
    assert ending["loss_middle"] == pytest.approx(1.5, abs=tolerance + 0.001)
    assert ending["loss_first"] == pytest.approx(2 - log_every / 2000, abs=0.001)
    assert ending["accuracy"] == pytest.approx(0.9, abs=tolerance + 0.001)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 1000])
@pytest.mark.parametrize("log_every", [1, 3, 10_000])
def test_every_history_has_an_ending(steps: int, log_every: int) -> None:
    ending = measure(make_history(constant(1.0), constant(0.5), steps, log_every))
    assert ending["loss"] == 1.0
    assert ending["accuracy"] == 0.5
    assert ending["loss_before"] in (1.0, None)
    assert ending["loss_middle"] in (1.0, None)
    assert not has_converged(ending)


def test_a_history_of_one_row_tells_nothing_but_what_was_learned() -> None:
    assert not has_converged(measure(make_history(constant(1), constant(0.5), 20)))
    assert has_converged(measure(make_history(constant(1), constant(0.99), 20)))


def test_labels_that_are_learned_have_converged_whatever_the_loss_does() -> None:
    falling = make_history(lambda p: 0.1 * (1 - p) + 1e-4, constant(0.995))
    assert has_converged(measure(falling))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 7.0])
@pytest.mark.parametrize("log_every", [5, 20, 50])
def test_a_loss_that_falls_has_not_converged_and_one_that_is_flat_has(
    scale: float, log_every: int
) -> None:
    """At any scale, and however often it is logged."""
    accuracy = constant(0.8)
    falling = make_history(lambda p: scale * np.exp(-2 * p), accuracy, log_every=log_every)
    flat = make_history(lambda p: scale * (0.5 + np.exp(-20 * p)), accuracy, log_every=log_every)
    assert not has_converged(measure(falling))
    assert has_converged(measure(flat))


@pytest.mark.parametrize("loss", [constant(2.3), lambda p: 2.3 - 0.05 * p])
def test_a_loss_that_never_fell_has_not_converged(loss) -> None:
    ending = measure(make_history(loss, constant(0.1)))
    assert not has_converged(ending)
    assert has_converged(ending | {"loss_first": None})  # unknown in results of earlier commits


@pytest.mark.parametrize("fall", [0.5, 0.6, 0.7])
def test_a_loss_that_is_flat_only_because_the_rate_decayed_has_not_converged(fall: float) -> None:
    """Its slope is proportional to the learning rate, which follows a cosine."""
    ending = measure(
        make_history(lambda p: 1.5 - fall * (p + np.sin(np.pi * p) / np.pi), constant(0.5))
    )
    assert ending["loss"] > 0.95 * ending["loss_before"]
    assert not has_converged(ending)
    assert has_converged(ending | {"loss_middle": None})  # unknown in results of earlier commits


def test_the_faster_the_fall_the_less_converged() -> None:
    """From some rate on, all faster falls count as not converged."""
    found = [
        has_converged(measure(make_history(lambda p, rate=rate: np.exp(-rate * p), constant(0.5))))
        for rate in np.linspace(0.1, 3, 30)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0]
    assert not found[-1]


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_decide(seed: int) -> None:
    rng = np.random.default_rng(seed)
    falling = make_history(lambda p: rng.normal(2 - p, 0.05), constant(0.6))
    flat = make_history(lambda p: rng.normal(1 + np.exp(-20 * p), 0.05), constant(0.6))
    assert not has_converged(measure(falling))
    assert has_converged(measure(flat))


def test_the_limits_themselves_have_converged() -> None:
    ending = {"loss": 1.0, "loss_before": 2.0, "accuracy": 0.5}
    assert not has_converged(ending)
    assert has_converged(ending | {"accuracy": 0.98})
    assert not has_converged(ending | {"accuracy": 0.9799})
    assert has_converged(ending | {"loss": 0.95 * 2.0})
    assert not has_converged(ending | {"loss": 0.9499 * 2.0})


@pytest.mark.parametrize(("rise", "expected"), [(0, True), (0.5, False)])
def test_a_loss_that_rises_again_has_not_converged(rise: float, expected: bool) -> None:
    history = make_history(lambda p: 1 + np.exp(-20 * p) + rise * p, constant(0.5))
    assert has_converged(measure(history)) is expected


def test_a_training_at_chance_has_not_converged_though_its_first_loss_was_higher() -> None:
    """A high learning rate first makes the loss far larger than that of guessing."""
    stuck = make_history(lambda p: np.log(10) + 4 * np.exp(-20 * p), constant(0.1))
    labels = np.repeat(np.arange(10), 7)
    assert measure_convergence(stuck, labels)["loss_chance"] == pytest.approx(np.log(10))
    assert not has_converged(measure_convergence(stuck, labels))
    assert has_converged(measure_convergence(stuck, np.arange(1000)))  # far below ln 1000


def test_chance_knows_how_frequent_the_classes_are() -> None:
    history = make_history(constant(0.5), constant(0.5))
    chance = measure_convergence(history, np.array([0] * 9 + [1]))["loss_chance"]
    assert chance == pytest.approx(-0.9 * np.log(0.9) - 0.1 * np.log(0.1))
