"""Tests of the preprocessing that a classifier's provenance describes."""

import numpy as np
import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.models.preprocessing import load_preprocessing


@pytest.fixture
def provenance(make_config):
    return {
        "configuration": {"patch": make_config().patch.model_dump()},
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "classes": ["cat", "owl"],
    }


def test_the_preprocessing_is_that_of_the_provenance(make_config, provenance):
    found = load_preprocessing(provenance)

    assert found.patch == make_config().patch
    assert found.mean.dtype == found.std.dtype == np.float32
    np.testing.assert_array_equal(found.mean, np.float32([0.5, 0.4, 0.3]))
    np.testing.assert_array_equal(found.std, np.float32([0.2, 0.25, 0.3]))
    assert found.classes == ["cat", "owl"]


@pytest.mark.parametrize("key", ["configuration", "mean", "std", "classes"])
def test_a_provenance_without_preprocessing_is_an_error(provenance, key):
    del provenance[key]

    with pytest.raises(
        UserError, match=f"does not describe its preprocessing .*{key}.*run .* again"
    ) as caught:
        load_preprocessing(provenance)

    assert "\n" not in str(caught.value)


def test_control_characters_in_the_names_of_classes_are_escaped(provenance):
    found = load_preprocessing(provenance | {"classes": ["c\nat", "\x1b[2Jowl"]})

    assert found.classes == [r"c\nat", r"\x1b[2Jowl"]
