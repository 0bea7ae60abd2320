"""Tests of tar files: those that `webdataset` writes, and damaged ones."""

import io
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from selfie_pipeline.config import UserError
from selfie_pipeline.sources import open_source
from selfie_pipeline.sources.decoding import decode_file


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def opened(folder, data_config):
    return lambda **changes: open_source(data_config(**changes), folder.parent)


def image(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((12, 9))


def write(folder, split, labels, count=3, extension="jpg", **more):
    """Write shards of `count` samples; a label of None is left out."""
    pattern = str(folder / f"{split}-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=count, verbose=0) as writer:
        for number, label in enumerate(labels):
            sample = {"__key__": f"{number:06d}", extension: image(number), **more}
            writer.write(sample if label is None else sample | {"cls": label})


def test_shards_of_webdataset_are_read_with_their_splits_and_classes(folder, opened):
    write(folder, "set-train", [10, 9, None, 10, 9])
    write(folder, "set-val", [9, 10], extension="png")

    source = opened()
    samples = source.samples()

    assert source.classes == ("9", "10")
    assert samples[["split", "class_name", "place"]].to_numpy().tolist() == [
        ["train", "10", "set-train-000000.tar/000000.jpg"],
        ["train", "9", "set-train-000000.tar/000001.jpg"],
        ["unlabeled", "", "set-train-000000.tar/000002.jpg"],
        ["train", "10", "set-train-000001.tar/000003.jpg"],
        ["train", "9", "set-train-000001.tar/000004.jpg"],
        ["test", "9", "set-val-000000.tar/000000.png"],
        ["test", "10", "set-val-000000.tar/000001.png"],
    ]


def test_classes_that_are_equal_as_numbers_are_in_the_order_of_their_names(folder, opened):
    write(folder, "set-train", ["1", "01", "2", "001"])

    assert opened().classes == ("001", "01", "1", "2")


def test_the_images_are_those_in_the_tar_files_from_any_sample_on(folder, opened, all_images):
    write(folder, "train", [0, 1, 0, 1, 0])
    write(folder, "test", [None])  # left out, as it has no class
    write(folder, "unlabeled", [None, 1], json={"width": 12})
    source = opened()

    images = all_images(source, 8)

    expected = []
    for name in ("train-000000", "train-000001", "unlabeled-000000"):
        with tarfile.open(folder / f"{name}.tar") as tar:
            files = [member for member in tar if member.name.endswith("jpg")]
            expected += [decode_file(tar.extractfile(file), 8)[0] for file in files]
    is_test = source.samples()["split"] == "test"
    assert is_test.sum() == 2  # drawn, one of each class
    assert np.array_equal(images, np.stack(expected))
    assert np.array_equal(all_images(source, 8, start=4), images[4:])


def test_other_files_of_a_sample_and_samples_without_an_image_are_skipped(folder, opened, caplog):
    masks = {"seg.png": image(99), "txt": "a caption"}
    write(folder, "train", [0, 1, 0, 1], **masks)
    write(folder, "more", [0, 1], extension="seg.png")

    places = opened().samples()["place"]

    assert places.str.endswith(".jpg").all()
    assert len(places) == 4
    assert "more-000000.tar: 2 samples without an image are skipped" in caplog.text


def test_classes_that_do_not_follow_their_images_are_refused(folder, opened):
    """tar without --sort packs files in the order of the directory."""
    with tarfile.open(folder / "train.tar", "w") as tar:
        for extension in ("png", "cls"):
            for number in range(4):
                file = io.BytesIO()
                image(number).save(file, "png")
                content = file.getvalue() if extension == "png" else b"cat"
                info = tarfile.TarInfo(f"{number}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    with pytest.raises(UserError, match=r"4 classes have no image .* 0\.cls, and 4 images .*sort"):
        opened()


def test_only_regular_files_that_are_not_hidden_are_images(folder, opened):
    write(folder, "train", [0, 1, 0, 1], count=9)
    with tarfile.open(folder / "train-000000.tar", "a") as tar:
        for name, kind in (
            ("folder.jpg", tarfile.DIRTYPE),
            ("link.jpg", tarfile.SYMTYPE),
            ("sparse.jpg", tarfile.GNUTYPE_SPARSE),
            (".jpg", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "000000.jpg"
            tar.addfile(member)

    places = opened().samples()["place"].tolist()

    assert places == [f"train-000000.tar/{number:06d}.jpg" for number in range(4)]


def test_members_of_a_packed_folder_are_named_by_their_paths_in_it(folder, opened, tmp_path):
    """`tar -cf train.tar -C packed .` writes ./0.jpg."""
    for number in range(4):
        path = tmp_path / f"packed/{number % 2}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(number).save(path)
    with tarfile.open(folder / "train.tar", "w") as tar:
        tar.add(tmp_path / "packed", ".")
        assert "./0/0.jpg" in tar.getnames()
    rows = ["file,class", "train.tar/0/0.jpg,cat", "train.tar/1/1.jpg,dog"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))

    samples = opened(labels="labels.csv").samples()

    assert samples[["class_name", "place"]].to_numpy().tolist() == [
        ["cat", "train.tar/0/0.jpg"],
        ["", "train.tar/0/2.jpg"],
        ["dog", "train.tar/1/1.jpg"],
        ["", "train.tar/1/3.jpg"],
    ]


def test_the_format_of_the_images_is_logged(folder, opened, caplog):
    caplog.set_level("INFO", "selfie_pipeline")
    write(folder, "train", [0, 1] * 2, count=2)
    write(folder, "test", [0, 1])
    image(1).save(folder / "preview.jpg")

    opened()

    assert caplog.messages == [f"{folder}: the images are in 3 tar files; other files are left out"]


def test_tar_files_without_classes_are_unlabeled_if_there_are_no_image_files(folder, opened):
    """Those beside class folders are what ImageNet's folders were unpacked from."""
    write(folder, "images", [None] * 3)
    assert set(opened().samples()["split"]) == {"unlabeled"}

    for name in ("cat", "dog"):
        (folder / name).mkdir()
        image(1).save(folder / name / "1.png")
    assert opened().classes == ("cat", "dog")


def test_tar_files_without_images_are_refused(folder, opened):
    write(folder, "train", [0, 1], extension="seg.png")

    with pytest.raises(UserError, match="have no training or unlabeled images"):
        opened()


def cut_off(content):
    return content[:2000]


def overwrite_a_header(content):
    start = content.rindex(b"000002.")
    return content[:start] + b"\xff" * 512 + content[start + 512 :]


@pytest.mark.parametrize("damage", [cut_off, overwrite_a_header, lambda _: b"no tar" * 200])
def test_a_damaged_tar_file_is_named(folder, opened, damage):
    write(folder, "train", [0, 1, 0, 1, 0, 1])
    path = folder / "train-000000.tar"
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(UserError, match=r"train-000000\.tar is damaged: ") as error:
        opened()
    assert "\n" not in str(error.value)


def test_a_class_that_is_no_text_is_refused(folder, opened):
    write(folder, "train", [b"\xff\xfe", b"1"])

    with pytest.raises(UserError, match=r"is damaged: 000000\.cls is no text"):
        opened()


def test_a_damaged_image_is_unreadable(folder, opened):
    write(folder, "train", [0, 1, 0, 1], count=9)
    path = folder / "train-000000.tar"
    content = path.read_bytes()
    start = content.index(b"\xff\xd8")
    path.write_bytes(content[:start] + bytes(100) + content[start + 100 :])
    source = opened()

    (chunk,) = source.images(source.samples(), 8)

    assert chunk.unreadable == {0: "not an image"}


def test_the_fingerprint_depends_on_the_bytes(folder, opened):
    write(folder, "train", [0, 1, 0, 1])
    source = opened()
    before = source.fingerprint(source.samples())

    path = folder / "train-000000.tar"
    path.write_bytes(path.read_bytes() + bytes(512))

    source = opened()
    assert source.fingerprint(source.samples()) != before


def test_the_fingerprint_has_the_missing_decoders_of_the_images(folder, opened, without_heif):
    """So the images are read again after the installation."""
    write(folder, "train", ["a", "b"])
    source = opened()
    before = source.fingerprint(source.samples())
    with without_heif():
        assert source.fingerprint(source.samples()) == before

    file = io.BytesIO()
    image(1).save(file, "HEIF")
    with tarfile.open(folder / "train-000000.tar", "a") as tar:
        member = tarfile.TarInfo("a.heic")
        member.size = len(file.getvalue())
        tar.addfile(member, io.BytesIO(file.getvalue()))
    source = opened()
    with without_heif():
        missing = source.fingerprint(source.samples())
    assert missing != source.fingerprint(source.samples())
