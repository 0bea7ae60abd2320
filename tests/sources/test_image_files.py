"""Tests of listing image files and reading their windows."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfie_pipeline.config import PatchConfig, UserError
from selfie_pipeline.sources.decoding import decode_file
from selfie_pipeline.sources.image_files import find_files, read_windows

PATCH = PatchConfig(canvas_size=16, image_size=8, patch_size=4, targets=2)


def add_image(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_files_of_any_name_are_found_at_any_depth(tmp_path: Path) -> None:
    places = ["b/c/2.png", "a.png", "b/notes", "b-1.png", ".hidden/3.png", ".DS_Store"]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "dead").symlink_to("nowhere")

    assert find_files(tmp_path) == (
        tmp_path,
        [".DS_Store", "a.png", "b/c/2.png", "b/notes", "b-1.png", "dead"],
    )


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^images = .* has no files; allowed: a folder"):
        find_files(tmp_path)
    with pytest.raises(UserError, match=r"^images = .*/nowhere does not exist; allowed: a folder"):
        find_files(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"^images = .*\*\.tif does not exist; .* photos/\*\.jpg$"):
        find_files(tmp_path / "*.tif")


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, make_unreadable: Callable[[Path], None]
) -> None:
    make_unreadable(tmp_path)

    with pytest.raises(UserError, match=r"^images: .*dd can't be read: File name too long$"):
        find_files(tmp_path)


def test_a_file_and_patterns_are_found(tmp_path: Path) -> None:
    for place in ("a.png", "b/1.png", "b/2.jpg", "b/c/3.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()

    def names(images: str) -> tuple[str, list[str]]:
        folder, files = find_files(tmp_path / images)
        return folder.name, files

    assert names("a.png") == (tmp_path.name, ["a.png"])
    assert names("b/*.png") == ("b", ["1.png"])
    assert names("**/*.png") == (tmp_path.name, ["a.png", "b/1.png", "b/c/3.png"])
    assert names("[ab]") == (tmp_path.name, ["b/1.png", "b/2.jpg", "b/c/3.png"])


def test_linked_folders_are_found_as_by_a_pattern(tmp_path: Path) -> None:
    for place in ("photos/a/1.png", "elsewhere/2.png", "elsewhere/deep/3.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "photos/b").symlink_to("../elsewhere")
    (tmp_path / "photos/a/loop").symlink_to("..")
    expected = ["a/1.png", "b/2.png", "b/deep/3.png"]

    assert find_files(tmp_path / "photos") == (tmp_path / "photos", expected)
    assert find_files(tmp_path / "photos/*") == (tmp_path / "photos", expected)


def touch(folder: Path, *places: str) -> None:
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()


@pytest.mark.parametrize(
    "pattern", ["**", "**/*.png", "**/**/*.png", "*/**", "**/[a-z]*/**/*.png", "*"]
)
def test_patterns_skip_links_to_a_folder_around_them(tmp_path: Path, pattern: str) -> None:
    """Two such links lead to a number of paths that doubles with each level."""
    touch(tmp_path, "a/1.png", "a/deep/2.png", "b/3.png", "b/.hidden/4.png")
    for link in ("a/loop", "a/deep/again", "around"):
        (tmp_path / link).symlink_to(tmp_path)

    _, names = find_files(tmp_path / pattern)

    assert names == ["a/1.png", "a/deep/2.png", "b/3.png"]


def test_two_stars_stand_for_folders_around_and_below_other_parts(tmp_path: Path) -> None:
    touch(tmp_path, "a/x/1.png", "x/2.png", "x/b/c/3.png", "y/4.png", "a/x/.5.png")

    def names(pattern: str) -> list[str]:
        return find_files(tmp_path / pattern)[1]

    assert names("**/x/*.png") == ["a/x/1.png", "x/2.png"]
    assert names("**/x/**/*.png") == ["a/x/1.png", "x/2.png", "x/b/c/3.png"]
    assert names("x/**/3.png") == ["b/c/3.png"]  # in the folder x
    assert names("**/c") == ["x/b/c/3.png"]


def test_patterns_leave_out_what_is_neither_file_nor_folder(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    (tmp_path / "dead.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")

    assert find_files(tmp_path / "*.png")[1] == ["1.png", "dead.png"]
    with pytest.raises(UserError, match=r"^images = .*/pipe\.png has no files; allowed"):
        find_files(tmp_path / "pipe.png")


def test_an_empty_folder_that_fits_a_pattern_is_refused_only_on_its_own(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^images = .*/\* has no files; allowed: a folder"):
        find_files(tmp_path / "*")

    (tmp_path / "1.png").touch()
    assert find_files(tmp_path / "*") == (tmp_path, ["1.png"])


def test_a_pattern_in_a_folder_whose_name_looks_like_one(tmp_path: Path) -> None:
    (tmp_path / "photos [v2]").mkdir()
    (tmp_path / "photos [v2]/1.png").touch()

    assert find_files(tmp_path / "photos [v2]/*.png") == (tmp_path / "photos [v2]", ["1.png"])


def test_windows_are_the_centres_of_the_images_in_order(tmp_path: Path) -> None:
    paths = [add_image(tmp_path / f"{number}.png", number) for number in range(5)]

    windows, reasons, _ = read_windows(paths, PATCH)

    assert reasons == [None] * 5
    expected = np.stack([decode_file(path, 16)[0][4:12, 4:12] for path in paths])
    np.testing.assert_array_equal(windows, expected)


def test_unreadable_files_have_a_reason_and_no_window(tmp_path: Path) -> None:
    paths = [tmp_path / "empty.png", add_image(tmp_path / "intact.png", 0), tmp_path / "absent.png"]
    paths[0].touch()

    windows, reasons, _ = read_windows(paths, PATCH)

    assert reasons == ["empty", None, "can't be read: No such file or directory"]
    np.testing.assert_array_equal(windows, decode_file(paths[1], 16)[0][None, 4:12, 4:12])


def test_without_files_there_are_no_windows() -> None:
    windows, reasons, _ = read_windows([], PATCH)

    assert windows.shape == (0, 8, 8, 3)
    assert reasons == []
