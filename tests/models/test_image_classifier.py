"""Tests of the classifier with its preprocessing, beside that of the training images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfie_pipeline.models.backbone import build_resnet
from selfie_pipeline.models.image_classifier import ImageClassifier, fit_window
from selfie_pipeline.models.preprocessing import Preprocessing
from selfie_pipeline.sources.base import fit_image

MEAN, STD = np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.25, 0.3])


def draw_image(height: int, width: int) -> np.ndarray:
    """Return noise, the hardest image to resize alike: (height, width, 3), uint8."""
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(height, width, 3), dtype=np.uint8)


def fit(image: np.ndarray, canvas_size: int, window_size: int) -> np.ndarray:
    """Return the central window of the canvas as the project's readers make it: (S, S, 3)."""
    canvas = fit_image(image, canvas_size)
    margin = (canvas_size - window_size) // 2
    return canvas[margin : margin + window_size, margin : margin + window_size].astype(np.float32)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (32, 32),
        (1, 1),
        (1, 40),
        (20, 21),
        (31, 64),
        (32, 77),
        (100, 100),
        (375, 500),
        (30, 3001),
        (64, 31),
        (500, 375),
        (3001, 30),
    ],
)
@pytest.mark.parametrize(("canvas_size", "window_size"), [(32, 32), (40, 32), (41, 28)])
def test_the_window_is_that_of_the_training_images(height, width, canvas_size, window_size):
    image = draw_image(height, width)

    window = fit_window(torch.from_numpy(image), canvas_size, window_size)  # (3, S, S)

    difference = np.abs(window.permute(1, 2, 0).numpy() - fit(image, canvas_size, window_size))
    assert difference.max() <= 2  # torch rounds its weights
    assert (difference > 0).mean() < 0.02


def test_an_image_of_the_canvas_keeps_its_pixels():
    image = draw_image(40, 52)

    window = fit_window(torch.from_numpy(image), 40, 32)

    np.testing.assert_array_equal(window.permute(1, 2, 0).numpy(), image[4:36, 10:42])


def test_probabilities_are_those_of_the_normalised_window(make_config):
    config = make_config({"patch.canvas_size": 40})
    torch.manual_seed(0)
    network = build_resnet(config.model, 5).eval()
    preprocessing = Preprocessing(config.patch, MEAN, STD, list("abcde"))
    image = draw_image(50, 90)

    with torch.inference_mode():
        found = ImageClassifier(network, preprocessing).eval()(torch.from_numpy(image))
        pixels = fit_window(torch.from_numpy(image), 40, 32).permute(1, 2, 0).numpy()
        normalised = (pixels / 255 - MEAN) / STD  # (32, 32, 3)
        logits = network(torch.from_numpy(normalised).permute(2, 0, 1)[None])  # (1, 5)

    torch.testing.assert_close(found, torch.softmax(logits[0], dim=0), rtol=0, atol=1e-6)
