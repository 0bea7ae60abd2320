"""Tests of the nodes of the pipeline `patch` alone; the others run whole pipelines."""

from __future__ import annotations

import pytest

from selfie_pipeline.pipelines.patch.nodes import _find_damaged


def test_files_that_are_not_named_as_images_do_not_count() -> None:
    others = {
        "train/cat/.gitkeep": "empty",
        "train/cat/desktop.ini": "empty",
        "train/dog/.empty.jpg": "empty",
        "train/dog/notes.txt": "not an image",
    }

    assert _find_damaged(others.items()) == {}


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("train/cat/2.jpg", "empty"),
        ("train/cat/2.jpg", "not an image"),
        ("train/cat/2", "damaged: truncated"),
    ],
)
def test_damaged_images_count(place: str, reason: str) -> None:
    found = _find_damaged([("train/cat/.gitkeep", "empty"), (place, reason)])

    assert found == {place: reason}
