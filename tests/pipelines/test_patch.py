"""Tests of the nodes of the pipeline `patch` alone; the others run whole pipelines."""

from __future__ import annotations

import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.pipelines.patch.nodes import _UnreadableLimit


def check(unreadable: dict[str, str]) -> None:
    limit = _UnreadableLimit([*unreadable, "train/cat/1.jpg"], 0.0)
    for sample, reason in enumerate(unreadable.values()):
        limit({sample: reason})


def test_files_that_are_not_named_as_images_do_not_count() -> None:
    check(
        {
            "train/cat/.gitkeep": "empty",
            "train/cat/desktop.ini": "empty",
            "train/dog/.empty.jpg": "empty",
            "train/dog/notes.txt": "not an image",
        }
    )


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("train/cat/2.jpg", "empty"),
        ("train/cat/2.jpg", "not an image"),
        ("train/cat/2", "damaged: truncated"),
    ],
)
def test_damaged_images_count(place: str, reason: str) -> None:
    with pytest.raises(UserError, match=r"^1 or more of 3 files can't be used, such as train/cat"):
        check({"train/cat/.gitkeep": "empty", place: reason})
