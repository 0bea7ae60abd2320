"""Tests of links between the folders of a data set."""

import io
import tarfile

import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.sources import open_source
from selfie_pipeline.sources.image_folder import ImageFolder

TRAIN = [f"train/{name}/{number}.png" for name in ("cat", "dog") for number in range(10)]


def add(folder, *places):
    """Write files that are listed as images."""
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(place)


def listed(source):
    """Return (split, class, place) of every sample."""
    samples = source.samples()
    return list(zip(samples["split"], samples["class_name"], samples["place"], strict=True))


def link(folder, place, target):
    """Make a link to a target that is relative to the link."""
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).symlink_to(target)


@pytest.mark.parametrize("train", ["train/", ""])
def test_links_to_the_folders_around_them_are_skipped(folder, tmp_path, train):
    add(folder, *(f"{train}{name}/{n}.png" for name in ("cat", "dog") for n in range(5)))
    expected = listed(ImageFolder(folder))

    link(folder, f"{train}all", ".")
    link(folder, f"{train}dog/photos", folder)
    link(folder, f"{train}dog/up", tmp_path.parent)

    assert listed(ImageFolder(folder)) == expected


def test_a_loop_through_an_outer_folder_is_followed_once(folder, tmp_path):
    add(tmp_path, "outer/1.png")
    add(folder, "cat/1.png", "cat/2.png")
    link(folder, "dog", tmp_path / "outer")
    link(tmp_path, "outer/back", folder)

    places = [place for *_, place in listed(ImageFolder(folder))]

    assert sorted(places) == ["cat/1.png", "cat/2.png", "dog/1.png"]


@pytest.mark.parametrize("train", ["train/", ""])
def test_a_link_from_a_class_to_another_is_refused(folder, train):
    add(folder, *(f"{train}{name}/{n}.png" for name in ("cat", "dog") for n in range(5)))
    link(folder, f"{train}cat/see", "../dog")
    link(folder, f"{train}dog/see", "../cat")

    with pytest.raises(UserError, match=r"see.* are one folder in .*; remove the link") as error:
        ImageFolder(folder)
    assert "\n" not in str(error.value)


def test_a_folder_in_two_splits_is_refused(folder):
    add(folder, *TRAIN)
    link(folder, "test", "train")

    with pytest.raises(UserError, match=r"test/cat and train/cat are one folder"):
        ImageFolder(folder)


def test_links_within_a_class_are_listed_once(folder):
    add(folder, *TRAIN, "train/cat/zoo/1.png", "test/cat/1.png", "test/dog/1.png")
    expected = listed(ImageFolder(folder))

    link(folder, "train/cat/best", "zoo")

    assert listed(ImageFolder(folder)) == expected


def test_an_unlabeled_folder_that_a_class_links_to_is_labeled(folder, caplog):
    add(folder, "unlabeled/a/1.png", "unlabeled/b/1.png", "unlabeled/c/1.png", "train/dog/1.png")
    link(folder, "train/cat", "../unlabeled/a")
    link(folder, "test/cat", "../unlabeled/b")

    assert listed(ImageFolder(folder)) == [
        ("train", "cat", "train/cat/1.png"),
        ("train", "dog", "train/dog/1.png"),
        ("test", "cat", "test/cat/1.png"),
        ("unlabeled", "", "unlabeled/c/1.png"),
    ]
    assert "Skipped 2 files, such as unlabeled/a/1.png: links list their folders" in caplog.text


def test_splits_may_be_links_to_folders_of_the_same_data_set(folder):
    add(folder, *(f"raw/{place}" for place in TRAIN), "raw/test/cat/1.png", "raw/test/dog/1.png")
    link(folder, "train", "raw/train")
    link(folder, "test", "raw/test")
    link(folder, "val", "test")

    found = listed(ImageFolder(folder))

    assert [place for split, _, place in found if split == "train"] == TRAIN
    assert [place for split, _, place in found if split == "test"] == [
        "test/cat/1.png",
        "test/dog/1.png",
    ]


def test_many_links_take_no_longer_than_their_folders(folder):
    names = [f"unlabeled/{number:02d}" for number in range(12)]
    add(folder, *(f"{name}/1.png" for name in names))
    for name in names:
        for other in names:
            if other != name:
                link(folder, f"{name}/to-{other[-2:]}", f"../{other[-2:]}")

    assert len(listed(ImageFolder(folder))) == 12


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_an_archive_beside_linked_splits_is_not_read(folder, tmp_path, data_config):
    add(tmp_path, *(f"ssd/{place}" for place in TRAIN), "ssd/test/cat/1.png", "ssd/test/dog/1.png")
    link(folder, "train", "../ssd/train")
    link(folder, "test", "../ssd/test")
    write_tar(folder / "images.tar", {"1.png": b"an image"})

    source = open_source(data_config(folder="images"), tmp_path)

    assert source.classes == ("cat", "dog")
    assert len(listed(source)) == len(TRAIN) + 2


def test_shards_in_a_linked_folder_are_found(folder, tmp_path, data_config):
    add(folder, "notes.txt")
    (tmp_path / "ssd").mkdir()
    write_tar(tmp_path / "ssd/0.tar", {"1.png": b"an image", "1.cls": b"cat"})
    link(folder, "train", "../ssd")
    link(folder, "train/again", ".")

    places = [place for *_, place in listed(open_source(data_config(folder="images"), tmp_path))]

    assert places == ["train/0.tar/1.png"]


def test_a_subfolder_that_cannot_be_read_is_refused(folder, tmp_path, data_config, make_unreadable):
    add(folder, *TRAIN)
    write_tar(folder / "0.tar", {"1.png": b"an image", "1.cls": b"cat"})
    make_unreadable(folder)

    with pytest.raises(UserError, match=r"dd can't be read: File name too long$"):
        open_source(data_config(folder="images"), tmp_path)
