"""Tests of the source of class folders: listing, splits, damage, changes."""

import hashlib
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from selfie_pipeline.config import UserError
from selfie_pipeline.sources import decoding, image_folder
from selfie_pipeline.sources.decoding import decode_file
from selfie_pipeline.sources.image_folder import ImageFolder
from selfie_pipeline.sources.label_tables import LabelRow, LabelTable
from selfie_pipeline.sources.samples import check_samples

COLUMNS = ["split", "label", "class_name", "place", "bytes", "sha256"]


def add(folder, *places):
    """Write a small, different image to each place."""
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = hashlib.sha256(place.encode()).digest()[:27]
        pixels = np.frombuffer(colours, dtype=np.uint8).reshape(3, 3, 3)
        Image.fromarray(pixels).resize((12, 9)).save(path, format="PNG")


TRAIN = [f"train/{name}/{number}.png" for name in ("cat", "dog") for number in range(10)]


def listed(source):
    """Return (split, class, place) of every sample."""
    samples = source.samples()
    return list(zip(samples["split"], samples["class_name"], samples["place"], strict=True))


def test_the_table_lists_training_then_test_then_unlabeled_files(folder):
    add(folder, "unlabeled/b.png", "unlabeled/a/z.png", "test/dog/1.png", "test/cat/2.png")
    add(folder, "train/dog/1.png", "train/cat/sub/sub/1.jpg", "train/cat/2.png")

    source = ImageFolder(folder)
    samples = source.samples()

    assert source.classes == ("cat", "dog")
    assert samples.columns.tolist() == COLUMNS
    assert samples.index.name == "sample"
    assert samples["label"].tolist() == [0, 0, 1, 0, 1, -1, -1]
    assert listed(source) == [
        ("train", "cat", "train/cat/2.png"),
        ("train", "cat", "train/cat/sub/sub/1.jpg"),
        ("train", "dog", "train/dog/1.png"),
        ("test", "cat", "test/cat/2.png"),
        ("test", "dog", "test/dog/1.png"),
        ("unlabeled", "", "unlabeled/a/z.png"),
        ("unlabeled", "", "unlabeled/b.png"),
    ]
    for place, size, sha256 in samples[["place", "bytes", "sha256"]].to_numpy().tolist():
        content = (folder / place).read_bytes()
        assert (size, sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_reading_many_files_is_logged_where_there_is_no_terminal(folder, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr("selfie_pipeline.progress._LINE_INTERVAL_S", 1e-9)
    add(folder, "train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "test/dog/2.png")

    ImageFolder(folder).samples()

    assert caplog.messages[0].startswith("Reading files: 1 of 4 images, ")


def test_images_are_in_the_table_order_from_any_sample_on(folder, all_images, monkeypatch):
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 3 * 3 * 8 * 8)
    add(folder, *TRAIN, "test/cat/a.png", "test/dog/b.png")
    source = ImageFolder(folder)
    samples = source.samples()
    expected = np.stack([decode_file(folder / place, 8)[0] for place in samples["place"]])

    assert np.array_equal(all_images(source, 8), expected)
    assert np.array_equal(all_images(source, 8, start=7), expected[7:])
    assert [len(chunk.images) for chunk in source.images(samples, 8, 14)] == [3, 3, 2]
    assert list(source.images(samples, 8, 22)) == []


UNREADABLE = {
    "train/cat/empty.jpg": b"",
    "train/cat/page.jpg": b"<html>",
    "train/cat/.DS_Store": b"\0\0\0\1Bud1",
    "train/cat/notes.txt": b"my cat",
}


def test_an_unreadable_file_is_a_zero_image_with_a_reason(folder):
    add(folder, *TRAIN, "test/cat/a.png", "test/dog/b.png", "train/cat/.hidden.png")
    for place, content in UNREADABLE.items():
        (folder / place).write_bytes(content)
    cut_off = folder / "train/dog/9.png"
    cut_off.write_bytes(cut_off.read_bytes()[:-30])
    (folder / "train/dog/nowhere.png").symlink_to(folder / "absent.png")
    source = ImageFolder(folder)
    samples = source.samples()

    (chunk,) = source.images(samples, 8)

    reasons = {samples["place"][row]: reason for row, reason in chunk.unreadable.items()}
    assert reasons.pop("train/dog/9.png").startswith("damaged: ")
    assert reasons == {
        "train/cat/empty.jpg": "empty",
        "train/cat/page.jpg": "not an image",
        "train/cat/.DS_Store": "not an image",
        "train/cat/notes.txt": "not an image",
        "train/dog/nowhere.png": "can't be read: No such file or directory",
    }
    zero = ~chunk.images.any(axis=(1, 2, 3))
    assert np.flatnonzero(zero).tolist() == sorted(chunk.unreadable)
    (later,) = source.images(samples, 8, start=4)
    assert later.unreadable == {k: v for k, v in chunk.unreadable.items() if k >= 4}


def test_a_file_whose_name_is_not_utf8_is_read(folder):
    add(folder, *TRAIN, "test/cat/a.png", "test/dog/b.png")
    file = os.fsdecode(os.fsencode(folder) + b"/train/cat/caf\xe9.png")
    shutil.copy(folder / TRAIN[0], file)
    add(folder, r"train/cat/\xe8.png")  # a name with a backslash
    source = ImageFolder(folder)
    samples = source.samples()

    (chunk,) = source.images(samples, 8)

    assert not chunk.unreadable
    places = samples["place"].tolist()
    for place, path in [(r"caf\xe9.png", file), (r"\xe8.png", folder / r"train/cat/\xe8.png")]:
        row = places.index(f"train/cat/{place}")
        assert np.array_equal(chunk.images[row], decode_file(Path(path), 8)[0])
    Path(file).write_bytes(b"changed")
    with pytest.raises(UserError, match=r"caf\\xe9\.png has changed since the samples were"):
        list(source.images(samples, 8))


def test_class_folders_with_composed_and_decomposed_letters_are_one_class(folder):
    """Archives from macOS have names with decomposed letters."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    add(folder, f"train/{composed}/1.png", "train/bar/1.png", f"train/{decomposed}/2.png")
    add(folder, f"test/{decomposed}/3.png", f"val/{composed}.png")
    (folder / "val.txt").write_text(f"{decomposed}.png {decomposed}\n")

    assert listed(ImageFolder(folder)) == [
        ("train", "bar", "train/bar/1.png"),
        ("train", composed, f"train/{decomposed}/2.png"),
        ("train", composed, f"train/{composed}/1.png"),
        ("test", composed, f"test/{decomposed}/3.png"),
    ]
    shutil.rmtree(folder / "test")
    assert ("test", composed, f"val/{composed}.png") in listed(ImageFolder(folder))


def test_the_fingerprint_has_the_missing_decoders_of_the_files(folder, without_heif):
    """So the images are read again after the installation."""
    add(folder, *TRAIN, "test/cat/a.png", "test/dog/b.png")

    def fingerprint():
        source = ImageFolder(folder)
        return source.fingerprint(source.samples())

    before = fingerprint()
    with without_heif():
        assert fingerprint() == before
    Image.new("RGB", (8, 8)).save(folder / "train/cat/x.HEIC", format="HEIF")
    with without_heif():
        missing = fingerprint()
    assert missing != fingerprint()


def test_links_are_followed_and_loops_and_hidden_folders_are_not(folder, tmp_path):
    add(tmp_path, "elsewhere/1.png")
    add(folder, "train/cat/1.png", "train/.ipynb_checkpoints/1.png", "test/cat/1.png")
    (folder / "train/cat/.git").mkdir()
    (folder / "train/dog").symlink_to(tmp_path / "elsewhere")
    (folder / "train/cat/again").symlink_to(folder / "train/cat")
    os.mkfifo(folder / "train/cat/pipe")

    assert [place for *_, place in listed(ImageFolder(folder))] == [
        "train/cat/1.png",
        "train/dog/1.png",
        "test/cat/1.png",
    ]


def test_without_a_test_split_a_fixed_share_of_each_class_is_drawn(folder, caplog):
    caplog.set_level("INFO", "selfie_pipeline")
    add(folder, *TRAIN, "train/owl/a.png", "train/owl/b.png", "train/ant/a.png", "unlabeled/a.png")

    samples = ImageFolder(folder).samples()

    counts = pd.crosstab(samples["class_name"], samples["split"])
    assert counts["test"].to_dict() == {"": 0, "ant": 0, "cat": 2, "dog": 2, "owl": 1}
    assert counts["train"].to_dict() == {"": 0, "ant": 1, "cat": 8, "dog": 8, "owl": 1}
    assert samples["place"].is_unique
    pd.testing.assert_frame_equal(ImageFolder(folder).samples(), samples)
    line, again = caplog.messages  # of both
    assert line == again
    assert "5 of 23 images were drawn as one: 20 % of each class, and at least one image" in line
    assert line.endswith(". Without test images: ant")


def splits(folder):
    samples = ImageFolder(folder).samples()
    return dict(zip(samples["place"].str.removeprefix("train/"), samples["split"], strict=True))


def test_class_folders_without_train_are_the_training_data(folder, caplog):
    caplog.set_level("INFO", "selfie_pipeline")
    add(folder, *(f"{name}/deep/{n}.png" for name in ("daisy", "rose") for n in range(10)))
    add(folder, "Unlabeled/a.png", "loose.png", ".cache/1.png", "notes/._1.png")
    (folder / "notes/read.me").write_text("daisies and roses")

    source = ImageFolder(folder)

    assert source.classes == ("daisy", "rose")
    counts = pd.crosstab(source.samples()["class_name"], source.samples()["split"])
    assert counts["train"].to_dict() == {"": 0, "daisy": 8, "rose": 8}
    assert counts["test"].to_dict() == {"": 0, "daisy": 2, "rose": 2}
    assert counts["unlabeled"].to_dict() == {"": 1, "daisy": 0, "rose": 0}
    check_samples(source.samples(), source.classes)
    skipped, drawn = caplog.messages
    assert skipped.startswith("Skipped 3 files, such as loose.png: neither in a split")
    assert drawn.startswith(
        "No test split with a training class was found (test/, val/ …), so 4 of 20 images were "
        "drawn as one: 20 %"
    )


def test_classes_whose_names_differ_only_in_case_or_punctuation_are_named(folder, caplog):
    names = ("Red Fox", "red_fox", "fox", "C", "C++")
    add(folder, *(f"{split}/{name}/1.png" for name in names for split in ("train", "test")))
    add(folder, "unlabeled/1.png")

    assert ImageFolder(folder).classes == ("C", "C++", "Red Fox", "fox", "red_fox")
    (line,) = caplog.messages
    assert line.startswith(
        "Classes whose names differ only in case, spaces or punctuation: C (2 images) and C++ "
        "(2 images), Red Fox (2 images) and red_fox (2 images); "
    )


@pytest.mark.parametrize("names", [("cat", "RED_FOX"), ("cat", "RED_FOX", "owl")])
def test_a_test_split_whose_classes_differ_only_in_case_or_punctuation_is_refused(folder, names):
    add(folder, "train/Cat/1.png", "train/Red Fox/1.png", "val/Cat/1.png")
    add(folder, *(f"Test/{name}/1.png" for name in names))

    with pytest.raises(UserError) as error:
        ImageFolder(folder)
    assert str(error.value) == (
        "the split test has the classes RED_FOX, cat, which differ from the training classes Cat, "
        "Red Fox only in case, spaces or punctuation; rename the folders or correct the labels"
    )


@pytest.mark.parametrize("names", [("owl", "ant"), ("++", "--")])
def test_a_test_split_of_other_classes_is_left_out(folder, caplog, names):
    caplog.set_level("INFO", "selfie_pipeline")
    add(folder, *TRAIN, "train/-+/1.png", *(f"test/{name}/1.png" for name in names))

    assert not any(place.startswith("test/") for *_, place in listed(ImageFolder(folder)))
    assert "a test image needs a class that training images have" in caplog.messages[0]
    assert caplog.messages[1].startswith("No test split with a training class was found")


def test_a_later_test_split_is_not_compared(folder):
    add(folder, *TRAIN, "test/cat/1.png", "val/Cat/1.png", "val/Dog/1.png")

    assert ("test", "cat", "test/cat/1.png") in listed(ImageFolder(folder))


def test_files_of_other_kinds_are_not_drawn_for_the_test_split(folder):
    """Such as those that macOS leaves beside each image."""
    names = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(5)]
    add(folder, *names)
    for name in names:
        path = folder / name
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
        path.with_name(".DS_Store").write_bytes(b"Bud1")

    samples = ImageFolder(folder).samples()

    test = samples.loc[samples["split"] == "test", "place"].tolist()
    assert len(test) == 2
    assert {place.split("/")[0] for place in test} == {"cat", "dog"}
    assert set(test) <= set(names)


def test_a_file_in_place_of_the_folder_is_named_as_such(tmp_path):
    (tmp_path / "images.zip").touch()

    with pytest.raises(UserError, match=r"images\.zip is a file, not a folder; put images"):
        ImageFolder(tmp_path / "images.zip")


def test_the_drawn_split_is_the_same_with_and_without_train(folder, tmp_path):
    places = [f"{name}/{n}.png" for name in ("daisy", "rose") for n in range(10)]
    add(folder, *places)
    add(tmp_path / "other", *(f"train/{place}" for place in places))

    assert splits(folder) == splits(tmp_path / "other")


def test_added_files_move_few_of_the_drawn_ones(folder):
    add(folder, *(f"{name}/{n}.png" for name in ("daisy", "rose") for n in range(50)))
    before = splits(folder)

    add(folder, "daisy/new.png", "rose/a.png", "rose/b.png")

    after = splits(folder)
    assert sum(before[place] != after[place] for place in before) <= 3


def test_class_folders_may_have_a_test_split_beside_them(folder):
    add(folder, "daisy/1.png", "rose/1.png", "test/daisy/2.png", "test/rose/2.png")

    assert [split for split, *_ in listed(ImageFolder(folder))] == ["train"] * 2 + ["test"] * 2


@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("test", ["testing", "val", "Valid", "validation", "dev", "eval"])
def test_splits_are_found_under_their_common_names(folder, train, test):
    add(folder, f"{train}/cat/1.png", f"{train}/dog/1.png", f"{test}/cat/2.png")

    assert listed(ImageFolder(folder)) == [
        ("train", "cat", f"{train}/cat/1.png"),
        ("train", "dog", f"{train}/dog/1.png"),
        ("test", "cat", f"{test}/cat/2.png"),
    ]


def test_val_is_the_test_split_if_there_is_no_test(folder):
    add(folder, *TRAIN, "val/cat/a.png")
    assert ("test", "cat", "val/cat/a.png") in listed(ImageFolder(folder))

    add(folder, "test/cat/b.png")
    places = [place for _, _, place in listed(ImageFolder(folder))]
    assert "test/cat/b.png" in places
    assert "val/cat/a.png" not in places


def test_a_second_test_split_and_a_stray_folder_are_named(folder, caplog):
    add(folder, *TRAIN, "val/cat/a.png", "test/cat/b.png", "more/cat/c.png", "more/cat/d.png")

    assert len(listed(ImageFolder(folder))) == len(TRAIN) + 1
    stray, unused = caplog.messages
    assert stray.startswith("Skipped 2 files, such as more/cat/c.png: neither in a split")
    assert unused == "Skipped 1 files, such as val/cat/a.png: the test split is test, not val"


def test_a_folder_around_the_splits_or_classes_is_named(folder):
    add(folder, "photos/train/cat/1.png", "photos/train/dog/1.png", "photos/test/cat/2.png")
    with pytest.raises(UserError, match=r"1 of its folders have: photos; .* as in .*/photos, or"):
        ImageFolder(folder)


def test_a_folder_around_the_class_folders_is_named(folder):
    add(folder, "photos/cat/1.png", "photos/dog/1.png")

    with pytest.raises(UserError, match=r"photos, with the folders cat, dog; .*=.*/images/photos"):
        ImageFolder(folder)


def test_folders_outside_a_single_class_folder_are_not_taken_for_classes_in_it(folder):
    add(folder, "cat/0.jpg", "unlabeled/a/1.jpg", "unlabeled/b/2.jpg", "test/cat/3.jpg")

    assert ImageFolder(folder).classes == ("cat",)


@pytest.mark.parametrize("place", ["test/1.png", "test/images/1.png"])
def test_a_test_folder_without_labels_is_skipped(folder, caplog, place):
    """ImageNet and Tiny-ImageNet have such folders."""
    add(folder, *TRAIN, "val/cat/a.png", "val/dog/a.png", place)

    found = listed(ImageFolder(folder))

    assert {place for split, _, place in found if split == "test"} == {
        "val/cat/a.png",
        "val/dog/a.png",
    }
    assert "Skipped 1 files" in caplog.text
    assert place in caplog.text


@pytest.mark.parametrize(
    ("truth", "lines", "images"),
    [
        ("LOC_val_solution.csv", "ImageId,PredictionString\nv1,dog 1 2 3 4\nv2,cat\n", "val"),
        ("val/val_annotations.txt", "v1.JPEG\tdog\t1\t2\nv2.JPEG\tcat\t1\t2\n", "val/images"),
        ("val.txt", "v1.JPEG dog\nv2.JPEG cat\n", "val"),
        ("val.txt", "images/v1.JPEG dog\nimages/v2.JPEG cat\n", "val/images"),
    ],
)
def test_a_flat_folder_gets_its_classes_from_the_ground_truth(folder, caplog, truth, lines, images):
    add(folder, *TRAIN, f"{images}/v1.JPEG", f"{images}/v2.JPEG", f"{images}/v3.JPEG")
    (folder / truth).write_text(lines)

    test = [sample for sample in listed(ImageFolder(folder)) if sample[0] == "test"]

    assert test == [
        ("test", "dog", f"{images}/v1.JPEG"),
        ("test", "cat", f"{images}/v2.JPEG"),
    ]
    (line,) = caplog.messages
    assert line == f"Skipped 1 files, such as {images}/v3.JPEG: not in the ground truth"


@pytest.mark.parametrize(
    "lines", ["cat/1.png\ndog/1.png\n", "cat/1.png 0\ndog/1.png 1\n", "a/0 0\n"]
)
@pytest.mark.parametrize("train", ["train/", ""])
def test_a_ground_truth_beside_class_folders_is_ignored(folder, caplog, lines, train):
    add(folder, *(f"{train}{name}/{n}.png" for name in ("cat", "dog") for n in range(5)))
    add(folder, "test/cat/1.png", "test/dog/1.png")
    (folder / "test.txt").write_text(lines)

    test = [sample for sample in listed(ImageFolder(folder)) if sample[0] == "test"]

    assert test == [("test", "cat", "test/cat/1.png"), ("test", "dog", "test/dog/1.png")]
    assert not caplog.messages


def test_a_ground_truth_beside_class_folders_that_a_table_classifies_is_ignored(folder, tmp_path):
    add(folder, "train/1.png", "test/cat/2.png", "test/dog/3.png")
    (folder / "test.txt").write_text("cat/2.png\n")
    rows = [LabelRow("1.png", "cat", "")]

    source = ImageFolder(folder, [LabelTable(tmp_path / "labels.csv", rows)])

    assert ("test", "cat", "test/cat/2.png") in listed(source)


def test_a_class_without_training_files_is_refused(folder):
    add(folder, *TRAIN, "val/cat/a.png", "val/owl/a.png")
    source = ImageFolder(folder)

    with pytest.raises(UserError, match=r"no training samples of 1 of the 3 classes: 'owl'"):
        check_samples(source.samples(), source.classes)


def test_all_images_may_be_unlabeled(folder):
    add(folder, "unlabeled/a.png", "unlabeled/deep/b.png")

    source = ImageFolder(folder)
    samples = source.samples()

    assert source.classes == ()
    assert samples["label"].tolist() == [-1, -1]
    check_samples(samples, source.classes)


def test_the_fingerprint_depends_on_contents_names_and_splits_only(folder, tmp_path):
    add(folder, *TRAIN, "test/cat/a.png", "test/dog/b.png")

    def fingerprint(folder):
        source = ImageFolder(folder)
        return source.fingerprint(source.samples())

    before = fingerprint(folder)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    os.utime(moved / TRAIN[0], (0, 0))
    assert fingerprint(moved) == before

    (moved / "unlabeled").mkdir()
    (moved / TRAIN[3]).rename(moved / "unlabeled/3.png")
    assert fingerprint(moved) != before
    add(folder, TRAIN[4].replace(".png", ".PNG"))
    other_name = fingerprint(folder)
    shutil.copy(folder / TRAIN[0], folder / TRAIN[1])
    assert len({before, other_name, fingerprint(folder)}) == 3


def resize(path):
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    "change",
    [
        resize,
        lambda path: path.unlink(),
        lambda path: shutil.copy(path, path.with_name("another.png")),
    ],
    ids=["resized", "removed", "added"],
)
def test_added_removed_and_resized_files_are_detected_at_once(folder, change):
    add(folder, *TRAIN, "test/cat/a.png")
    samples = ImageFolder(folder).samples()
    change(folder / TRAIN[5])

    with pytest.raises(UserError, match=r"the raw files have changed since .*pipeline=ingest"):
        ImageFolder(folder).fingerprint(samples)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("change", [flip_a_bit, lambda path: path.unlink()])
def test_a_changed_file_is_detected_when_it_is_decoded(folder, change):
    add(folder, *TRAIN, "test/cat/a.png")
    source = ImageFolder(folder)
    samples = source.samples()
    change(folder / TRAIN[5])

    with pytest.raises(UserError, match=r"train/cat/5\.png has changed since the samples were"):
        list(source.images(samples, 8))


def test_a_class_whose_name_is_not_utf8_is_escaped(folder):
    add(folder, "cat/1.png", "dog/1.png")
    (folder / "dog").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))

    source = ImageFolder(folder)

    assert source.classes == (r"caf\xe9", "cat")
    assert r"caf\xe9/1.png" in source.samples()["place"].tolist()
    source.fingerprint(source.samples())


def test_a_large_file_is_not_read_into_memory(folder, monkeypatch):
    monkeypatch.setattr(image_folder, "_MOST_BYTES_IN_MEMORY", 2**20)
    add(folder, *TRAIN, "test/cat/a.png")
    with (folder / "train/cat/photos.zip").open("wb") as file:
        file.truncate(2**28)  # sparse
    picture = folder / "train/dog/0.png"
    picture.write_bytes(picture.read_bytes() + bytes(2**20))  # Pillow ignores what follows
    source = ImageFolder(folder)
    samples = source.samples()

    tracemalloc.start()
    (chunk,) = source.images(samples, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert [samples["place"][row] for row in chunk.unreadable] == ["train/cat/photos.zip"]
    assert set(chunk.unreadable.values()) == {"not an image"}
    assert peak < 2**26
    flip_a_bit(picture)
    with pytest.raises(UserError, match=r"dog/0\.png has changed"):
        list(source.images(samples, 8))


def test_a_table_of_another_format_is_stale(folder):
    add(folder, *TRAIN, "test/cat/a.png")
    source = ImageFolder(folder)
    of_shards = source.samples().drop(columns=["bytes", "sha256"])

    with pytest.raises(UserError, match=r"the raw files have changed since"):
        source.fingerprint(of_shards)


@pytest.mark.parametrize("places", [[], ["a.png"], ["train/a.png"], ["test/cat/a.png"]])
def test_a_folder_without_images_is_refused_with_the_layout(folder, places):
    add(folder, *places)

    with pytest.raises(UserError, match=r"no files in class folders or unlabeled/; put ima") as e:
        ImageFolder(folder)
    assert "\n" not in str(e.value)


def test_training_images_without_a_class_are_logged(folder, caplog):
    add(folder, "train/a.png", "train/b.png")

    with pytest.raises(UserError, match="no files in class folders"):
        ImageFolder(folder)
    assert "Skipped 2 files, such as train/a.png: not in a class folder" in caplog.text


def test_control_characters_of_skipped_files_are_escaped(folder, caplog):
    add(folder, *TRAIN, "test/cat/a.png", "train/\x1b[31mred\nINFO a line.png")
    add(folder, "extra\x1b/cat/1.png")

    ImageFolder(folder)

    assert all(message.isprintable() for message in caplog.messages)
    assert r"such as train/\x1b[31mred\nINFO a line.png: not in a class folder" in caplog.text


def test_real_images_are_decoded_as_by_pillow(imagenette_mini, all_images):
    source = ImageFolder(imagenette_mini)
    samples = source.samples()

    images = all_images(source, 224)

    assert samples["split"].value_counts().to_dict() == {"train": 240, "test": 80}
    assert source.classes[0] == "n01440764"
    for row in (0, 17, 300):
        with Image.open(imagenette_mini / samples["place"][row]) as image:
            assert np.array_equal(images[row], np.asarray(image.convert("RGB")))
