"""Tests of the source of ImageNet 32×32."""

import pickle

import numpy as np
import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.imagenet32 import open_imagenet32


def make_part(images, seed):
    generator = np.random.default_rng(seed)
    return {
        "data": generator.integers(0, 256, (images, 3072), dtype=np.uint8),
        "labels": np.arange(images) % 3 + 1,
        "mean": generator.random(3072),
    }


PARTS = {"train_data_batch_1": make_part(5, 1), "train_data_batch_2": make_part(3, 2)}
PARTS |= {f"train_data_batch_{number}": make_part(1, number) for number in range(3, 11)}
PARTS["val_data"] = {key: make_part(4, 11)[key] for key in ("data", "labels")}  # without a mean
LABELS = [0, 1, 2, 0, 1, 0, 1, 2, *[0] * 8, 0, 1, 2, 0]


def write_stored(folder, name, part):
    np.savez(folder / f"{name}.npz", **part)


def write_compressed(folder, name, part):
    np.savez_compressed(folder / f"{name}.npz", **part)


def write_pickle(folder, name, part):
    part = part | {"labels": part["labels"].tolist()}
    (folder / name).write_bytes(pickle.dumps(part, protocol=4))


@pytest.fixture(params=[write_stored, write_compressed, write_pickle])
def write(request, tmp_path):
    """Return a function that writes a part in one of the formats."""
    return lambda name, part: request.param(tmp_path, name, part)


@pytest.fixture
def folder(tmp_path, write):
    for name, part in PARTS.items():
        write(name, part)
    return tmp_path


def test_the_table_has_the_training_parts_by_number_then_the_test_part(folder):
    source = open_imagenet32(folder)
    samples = source.samples()

    assert source.classes == ("1", "2", "3")
    assert samples["split"].tolist() == ["train"] * 16 + ["test"] * 4
    assert samples["label"].tolist() == LABELS
    assert samples["class_name"].tolist() == [str(label + 1) for label in LABELS]
    assert [place.replace(".npz", "") for place in samples["place"][[4, 5, 15, 19]]] == [
        "train_data_batch_1[4]",
        "train_data_batch_2[0]",
        "train_data_batch_10[0]",
        "val_data[3]",
    ]


@pytest.mark.parametrize("start", [0, 4, 5, 6, 16, 20])
def test_images_are_in_the_table_order_from_any_sample_on(folder, start):
    source = open_imagenet32(folder)

    chunks = list(source.images(source.samples(), 32, start))

    planes = np.concatenate([part["data"] for part in PARTS.values()]).reshape(-1, 3, 32, 32)
    expected = planes.transpose(0, 2, 3, 1)[start:]
    assert sum(len(chunk.images) for chunk in chunks) == 20 - start
    assert all(np.array_equal(*pair) for pair in zip(rows(chunks), expected, strict=True))
    assert not any(chunk.unreadable for chunk in chunks)


def rows(chunks):
    return [image for chunk in chunks for image in chunk.images]


def test_images_are_fitted_to_the_canvas(folder, all_images):
    assert all_images(open_imagenet32(folder), 48).shape == (20, 48, 48, 3)


def test_the_fingerprint_depends_on_the_files(folder, write):
    source = open_imagenet32(folder)
    before = source.fingerprint(source.samples())
    assert open_imagenet32(folder).fingerprint(source.samples()) == before

    part = PARTS["val_data"]
    other = part["data"].copy()
    other[3, 3071] ^= 1
    write("val_data", part | {"data": other})

    assert open_imagenet32(folder).fingerprint(source.samples()) != before


def test_labels_that_differ_from_the_listed_ones_are_detected(folder, write):
    samples = open_imagenet32(folder).samples()
    write("val_data", PARTS["val_data"] | {"labels": np.array([1, 2, 3, 2])})

    with pytest.raises(UserError, match="the raw files have changed since"):
        open_imagenet32(folder).fingerprint(samples)


def test_class_names_come_from_the_publishers_list(folder):
    (folder / "map_clsloc.txt").write_text(
        "n02119789 1 kit_fox\nn02100735 2 English_setter\nn02110185 3 crane\nn02096294 4 crane\n"
    )

    source = open_imagenet32(folder)

    assert source.classes == ("kit_fox", "English_setter", "crane")
    assert source.samples()["class_name"][1] == "English_setter"


def test_classes_of_the_same_name_are_told_apart(folder):
    (folder / "map_clsloc.txt").write_text(
        "n02012849 1 crane\nn02100735 2 dog\nn03126707 3 crane\n"
    )

    assert open_imagenet32(folder).classes == ("crane", "dog", "crane (3)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([1, 2, 0, 1, 2])}, "label 0, but labels start at 1"),
        ({"labels": np.array([[1], [2], [3], [1], [2]])}, "labels is not"),
        ({"labels": np.array([1.0, 2, 3, 1, 2])}, "labels is not"),
        ({"labels": np.array([], dtype=int)}, "labels is not"),
        ({"labels": np.array([1, 2, 3, 1, 2 * 10**9])}, "label 2000000000, of 20 images"),
        ({"labels": np.array([1, 2, 3, 1, 2**64 - 1], np.uint64)}, "label"),
        ({"labels": np.array([1, 2, 3, 1])}, r"shape \(4, 3072\)"),
        ({"data": np.zeros((5, 12288), np.uint8)}, r"shape \(5, 3072\)"),
        ({"data": np.zeros((5, 3072), np.int64)}, "uint8"),
    ],
)
def test_a_damaged_part_is_named(folder, write, change, message):
    write("train_data_batch_1", PARTS["train_data_batch_1"] | change)

    with pytest.raises(UserError, match=rf"train_data_batch_1(\.npz)? is damaged: .*{message}"):
        list(open_imagenet32(folder).images(None, 32))


def test_labels_that_are_no_array_are_damage(tmp_path):
    """As lists of several lengths in a pickle, of which numpy makes no array."""
    for name, part in PARTS.items():
        write_pickle(tmp_path, name, part)
    content = PARTS["val_data"] | {"labels": [1, [2], 3, 1]}
    (tmp_path / "val_data").write_bytes(pickle.dumps(content, protocol=4))

    with pytest.raises(UserError, match="val_data is damaged: labels is not a list of integers"):
        open_imagenet32(tmp_path)


@pytest.mark.parametrize("key", ["labels", "data"])
def test_a_part_without_an_entry_is_named(folder, write, key):
    part = dict(PARTS["train_data_batch_2"])
    if key == "labels":
        part["labels"] = np.array([], dtype=int)
    else:
        part["data"] = np.zeros(0)
    write("train_data_batch_2", part)

    with pytest.raises(UserError, match=f"train_data_batch_2.* is damaged: {key} is not"):
        list(open_imagenet32(folder).images(None, 32))


def test_a_cut_off_part_is_named(folder):
    (path,) = folder.glob("val_data*")
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(UserError, match=r"val_data.* is damaged"):
        list(open_imagenet32(folder).images(None, 32))


def test_missing_parts_are_named(folder):
    for number in (2, 9):
        next(folder.glob(f"train_data_batch_{number}*")).unlink()

    with pytest.raises(UserError, match=r"lacks train_data_batch_2(\.npz)?, train_data_batch_9"):
        open_imagenet32(folder)


def test_a_missing_part_has_the_format_of_the_others(tmp_path):
    """Parts of the other format, left over from another download, do not count."""
    for name in ("train_data_batch_1.npz", "train_data_batch_3.npz", "train_data_batch_2"):
        (tmp_path / name).touch()

    with pytest.raises(UserError, match=r"lacks train_data_batch_2\.npz;"):
        open_imagenet32(tmp_path)


def test_a_part_of_a_huge_number_is_missing_parts_too(folder):
    path = next(folder.glob("train_data_batch_2*"))
    path.rename(path.with_stem("train_data_batch_2000000000"))

    with pytest.raises(UserError, match=r"lacks train_data_batch_2(\.npz)?, train_data_batch_11"):
        open_imagenet32(folder)


def test_a_damaged_header_of_an_array_is_named(tmp_path):
    for name, part in PARTS.items():
        write_stored(tmp_path, name, part)
    path = tmp_path / "val_data.npz"
    path.write_bytes(path.read_bytes().replace(b"'shape': (4,)", b"'shape': (4,{"))

    with pytest.raises(UserError, match=r"val_data\.npz is damaged"):
        open_imagenet32(tmp_path)


def test_a_missing_test_part_is_named(folder):
    next(folder.glob("val_data*")).unlink()

    with pytest.raises(UserError, match="lacks val_data"):
        open_imagenet32(folder)


def test_an_empty_folder_is_refused_with_the_expected_files(tmp_path):
    with pytest.raises(UserError, match=r"lacks train_data_batch_1\.npz; put the parts of"):
        open_imagenet32(tmp_path)


def test_a_part_with_objects_is_not_unpickled(tmp_path):
    for name, part in PARTS.items():
        write_stored(tmp_path, name, part)
    np.savez(tmp_path / "val_data.npz", data=np.array([{}]), labels=np.array([{}]))

    with pytest.raises(UserError, match=r"val_data\.npz is damaged"):
        open_imagenet32(tmp_path)


def test_real_files_have_the_pixels_of_a_plain_read(imagenet32_mini, all_images):
    source = open_imagenet32(imagenet32_mini)
    names = ("train_data_batch_1", "train_data_batch_2", "val_data")
    real = [np.load(imagenet32_mini / f"{name}.npz") for name in names]

    pixels = np.concatenate([part["data"] for part in real])
    labels = np.concatenate([part["labels"] for part in real])
    assert np.array_equal(all_images(source, 32).transpose(0, 3, 1, 2).reshape(-1, 3072), pixels)
    assert source.samples()["label"].tolist() == (labels - 1).tolist()
    assert source.samples()["split"].value_counts().to_dict() == {"train": 1000, "test": 200}
    assert len(source.classes) == 50
