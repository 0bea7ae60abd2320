"""Tests of the source of scikit-learn's digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.digits import Digits


@pytest.fixture(scope="module")
def digits():
    return Digits()


def test_the_split_is_fixed_and_stratified(digits):
    samples = digits.samples()

    assert samples["split"].value_counts().to_dict() == {"train": 1257, "test": 540}
    shares = samples["split"].eq("test").groupby(samples["label"]).mean()
    assert shares.between(0.29, 0.31).all()
    assert samples.equals(Digits().samples())


def test_labels_and_images_are_in_the_library_order(digits, all_images):
    library = load_digits()

    images = all_images(digits, 8)

    assert digits.samples()["label"].tolist() == library.target.tolist()
    assert digits.classes == tuple(str(name) for name in library.target_names)
    assert np.array_equal(images[..., 1], np.rint(library.images * 255 / 16).astype(np.uint8))


def test_digits_are_grey_at_any_size_over_the_full_range(digits, all_images):
    images = all_images(digits, 32)

    assert images.shape == (1797, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images[..., 0], images[..., 1])
    assert np.array_equal(images[..., 0], images[..., 2])
    assert (images.min(), images.max()) == (0, 255)


def test_the_fingerprint_depends_on_pixels_and_labels(digits):
    other_label, other_pixel = Digits(), Digits()
    other_label._labels[0] = 7
    other_pixel._grey[0, 0, 0] += 1
    sources = (digits, other_label, other_pixel)

    assert digits.fingerprint(digits.samples()) == Digits().fingerprint(Digits().samples())
    assert len({source.fingerprint(source.samples()) for source in sources}) == 3


def test_the_fingerprint_depends_on_the_split(digits, monkeypatch):
    samples = digits.samples()
    before = digits.fingerprint(samples)
    monkeypatch.setattr("selfie_pipeline.sources.digits._SPLIT_SEED", 1)

    assert digits.fingerprint(digits.samples()) != before
    with pytest.raises(UserError, match="the library's digits have changed"):
        digits.fingerprint(samples)
