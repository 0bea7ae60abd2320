"""Tests of Parquet files: those that Hugging Face's `datasets` writes, and others."""

import io
import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import datasets
from selfie_pipeline.config import UserError
from selfie_pipeline.sources import check_samples, open_source
from selfie_pipeline.sources.decoding import decode_file

NAMES = ["owl", "cat", "dog"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "raw/data").mkdir(parents=True)
    return tmp_path / "raw"


@pytest.fixture
def opened(folder, data_config):
    return lambda **changes: open_source(data_config(**changes), folder.parent)


def image(seed, size=(12, 9)):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


def encode(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def write_hub(folder, splits, names=NAMES):
    """Write splits of labels as the Hub stores them, two shards each."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    seeds = itertools.count()
    for split, labels in splits.items():
        rows = {"image": [image(next(seeds)) for _ in labels], "label": labels}
        dataset = datasets.Dataset.from_dict(rows, features)
        for number in range(2):
            name = f"data/{split}-{number:05d}-of-00002.parquet"
            dataset.shard(2, number, contiguous=True).to_parquet(folder / name)


HUB = {"train": [2, 1, 2, 1, 2], "test": [-1, -1], "validation": [1, 2, 1], "unlabeled": [-1] * 3}


def test_a_data_set_of_the_hub_is_read_with_its_splits_and_class_names(folder, opened, caplog):
    write_hub(folder, HUB)

    source = opened()
    samples = source.samples()

    assert source.classes == ("cat", "dog")  # as numbered there, without the owl, which is absent
    assert samples[["split", "class_name", "place"]].iloc[[0, 3, 5, -1]].to_numpy().tolist() == [
        ["train", "dog", "data/train-00000-of-00002.parquet[0]"],
        ["train", "cat", "data/train-00001-of-00002.parquet[0]"],
        ["unlabeled", "", "data/unlabeled-00000-of-00002.parquet[0]"],
        ["test", "cat", "data/validation-00001-of-00002.parquet[0]"],
    ]
    assert samples["split"].value_counts().to_dict() == {"train": 5, "test": 3, "unlabeled": 3}
    check_samples(samples, source.classes)
    assert "Skipped 2 files, such as data/test-00000-of-00002.parquet[0]: a test" in caplog.text


def test_the_images_are_those_of_the_rows_from_any_sample_on(folder, opened, all_images):
    write_hub(folder, HUB)
    source = opened()
    seeds = [*range(5), *range(10, 13), *range(7, 10)]  # the two of test/ have no class
    expected = np.stack([decode_file(io.BytesIO(encode(image(seed))), 8)[0] for seed in seeds])

    assert np.array_equal(all_images(source, 8), expected)
    assert np.array_equal(all_images(source, 8, start=6), expected[6:])


def test_long_row_groups_are_read_in_parts(folder, opened, all_images):
    rows = [{"bytes": encode(image(seed)), "path": None} for seed in range(150)]
    write(folder / "unlabeled.parquet", pa.table({"image": rows}), row_group_size=100)
    source = opened()
    expected = np.stack([decode_file(io.BytesIO(row["bytes"]), 8)[0] for row in rows])

    assert np.array_equal(all_images(source, 8), expected)
    assert np.array_equal(all_images(source, 8, start=40), expected[40:])


def test_a_fifth_is_drawn_without_a_test_split_and_folders_name_splits(folder, opened):
    write_hub(folder, {"train": [1, 2] * 5})
    (folder / "data").rename(folder / "default")

    assert opened().samples()["split"].value_counts().to_dict() == {"train": 8, "test": 2}


def write(path, table, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def images_table(count, **columns):
    images = [{"bytes": encode(image(n)), "path": None} for n in range(count)]
    return pa.table({"img": images, **columns})


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", None, "b"], ("a", "b")),
        ([10, 9, None, 10], ("9", "10")),
        (pa.array(["b", "a", None, "b"]).dictionary_encode(), ("a", "b")),
    ],
    ids=["text", "numbers", "dictionary"],
)
def test_labels_without_metadata_are_names_or_numbers(folder, opened, labels, classes):
    write(folder / "train.parquet", images_table(4, label=labels))
    write(folder / "test.parquet", images_table(4, label=labels))

    source = opened()

    assert source.classes == classes
    assert source.samples()["label"].tolist() == [1, 0, 1, 1, 0, -1, 1]  # test, then train


@pytest.mark.parametrize("type_", [pa.int64(), pa.int8(), pa.float64()])
def test_minus_one_is_no_class_without_metadata_too(folder, opened, type_):
    labels = pa.array([0, -1, 1, None, 1, 0], type_)
    write(folder / "train.parquet", images_table(6, label=labels))
    write(folder / "test.parquet", images_table(3, label=pa.array([1, -1, 0], type_)))

    source = opened()

    assert source.classes == ("0", "1")
    assert source.samples()["label"].tolist() == [1, 0, 0, -1, 1, -1, 1, 0]  # test, then train


@pytest.mark.parametrize("labels", [[-2, -1, 0, -1], ["-1", "a", "-1", "a"]], ids=str)
def test_minus_one_is_a_class_beside_other_negative_numbers_and_as_text(folder, opened, labels):
    write(folder / "train.parquet", images_table(4, label=labels))

    assert set(opened().classes) == {str(label) for label in labels}


@pytest.mark.parametrize(
    "type_",
    [pa.binary(), pa.large_binary(), pa.binary(3), pa.dictionary(pa.int8(), pa.binary())],
    ids=str,
)
def test_classes_in_bytes_are_refused(folder, opened, type_):
    labels = pa.array([b"cat", b"dog"] * 2).cast(type_)
    write(folder / "train.parquet", images_table(4, label=labels))

    with pytest.raises(UserError, match=r"column label has the type .*; allowed: text or numbers"):
        opened()


def test_published_names_with_decomposed_letters_are_those_of_a_table(folder, opened, tmp_path):
    """macOS stores the names of folders like this."""
    write_hub(folder, {"train": [0, 1] * 5, "unlabeled": [-1, -1]}, names=["cafe\u0301", "bar"])
    row = {"file": "data/unlabeled-00000-of-00002.parquet[0]", "class": "caf\u00e9"}
    pd.DataFrame([row]).to_csv(tmp_path / "labels.csv", index=False)

    assert opened(labels="labels.csv").classes == ("caf\u00e9", "bar")


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"[]",
        b"[" * 9999,
        b'{"info": {"features": []}}',
        b'{"info": {"features": {"label": 1}}}',
    ],
)
def test_metadata_of_another_layout_is_ignored(folder, opened, metadata):
    table = images_table(4, label=[7, 8, 7, 8])
    write(folder / "train.parquet", table.replace_schema_metadata({"huggingface": metadata}))

    assert opened().classes == ("7", "8")


def test_a_column_is_named_where_several_have_images_or_classes(folder, opened):
    class_label = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features(
        image=datasets.Image(), mask=datasets.Image(), fine=class_label, coarse=class_label
    )
    pictures = [image(n) for n in range(4)]
    rows = {"image": pictures, "mask": pictures[::-1], "fine": [0, 1, 0, 1], "coarse": [0, 0, 1, 1]}
    datasets.Dataset.from_dict(rows, features).to_parquet(folder / "train.parquet")

    with pytest.raises(UserError, match=r"columns of images: image, mask; .* data\.image_column"):
        opened()
    with pytest.raises(UserError, match=r"columns of classes: fine, coarse; .* data\.class_column"):
        opened(image_column="mask")
    with pytest.raises(UserError, match=r"data\.class_column = x is not a column of .*; allowed"):
        opened(image_column="mask", class_column="x")
    source = opened(image_column="mask", class_column="coarse")
    assert source.samples()["class_name"].tolist() == ["a", "a", "b", "b"]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_columns_that_may_have_the_classes_are_named_if_none_is_found(folder, opened, caplog):
    columns = {"breed": ["a", "b"] * 2, "split": ["x"] * 4, "width": [12] * 4, "box": [[1, 2]] * 4}
    for number in range(2):
        write(folder / f"train-{number}.parquet", images_table(4, **columns))

    assert opened().classes == ()
    (line,) = warnings(caplog)
    assert line == (
        f"{folder}/train-1.parquet: no column of classes was found among breed, width; if it is "
        "one of them, name it with data.class_column"
    )

    caplog.clear()
    assert opened(class_column="breed").classes == ("a", "b")
    assert not warnings(caplog)


@pytest.mark.parametrize("columns", [{}, {"Split": ["x"] * 4}, {"file_name": list("abcd")}])
def test_images_without_other_columns_are_unlabeled_without_a_warning(
    folder, opened, caplog, columns
):
    write(folder / "train.parquet", images_table(4, **columns))

    assert opened().classes == ()
    assert not warnings(caplog)


def test_rows_are_labeled_by_a_table(folder, opened, tmp_path):
    write(folder / "unlabeled.parquet", images_table(4))
    rows = [(f"unlabeled.parquet[{n}]", name) for n, name in enumerate(["a", "", "b"])]
    pd.DataFrame(rows, columns=["file", "class"]).to_csv(tmp_path / "suggested.csv", index=False)

    samples = opened(labels="suggested.csv").samples()

    assert samples["class_name"].tolist() == ["a", "", "b", ""]
    assert samples["split"].tolist() == ["train", "unlabeled", "train", "unlabeled"]


def test_the_fingerprint_depends_on_the_table_and_on_the_names_of_the_shards(
    folder, opened, tmp_path
):
    write(folder / "unlabeled.parquet", images_table(4))

    def fingerprint(*rows):
        table = pd.DataFrame(rows, columns=["file", "class", "split"])
        table.to_csv(tmp_path / "labels.csv", index=False)
        source = opened(labels="labels.csv")
        return source.fingerprint(source.samples())

    rows = [("[0]", "a", "train"), ("[1]", "b", "train"), ("[2]", "a", "test")]
    rows = [(f"unlabeled.parquet{row}", *more) for row, *more in rows]
    before = fingerprint(*rows)
    assert fingerprint(*rows) == before
    changed = [
        fingerprint(*rows, ("unlabeled.parquet[3]", "b", "train")),
        fingerprint(*rows, ("unlabeled.parquet[3]", "a", "train")),
        fingerprint(*rows, ("unlabeled.parquet[3]", "a", "test")),
    ]
    (folder / "unlabeled.parquet").rename(folder / "more.parquet")
    changed.append(fingerprint(*((row[0].replace("unlabeled", "more"), *row[1:]) for row in rows)))

    assert len({before, *changed}) == 5


def test_null_and_damaged_images_are_unreadable(folder, opened):
    images = [
        None,
        {"bytes": None},
        {"bytes": b""},
        {"bytes": b"<html>"},
        {"bytes": encode(image(1))},
    ]
    write(folder / "unlabeled.parquet", pa.table({"image": images}))
    source = opened()

    (chunk,) = source.images(source.samples(), 8)

    absent = "its bytes are not in the shard"
    assert chunk.unreadable == {0: absent, 1: absent, 2: "empty", 3: "not an image"}
    assert chunk.images[4].any()


def test_a_parquet_file_without_images_is_no_shard(folder, opened):
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        image(1).save(folder / name / "1.png")
    write(folder / "embeddings.parquet", pa.table({"x": [1.0]}))

    assert opened().classes == ("cat", "dog")


@pytest.mark.parametrize("keep", [10, 200, -40])
def test_a_damaged_shard_is_named(folder, opened, keep):
    write_hub(folder, {"train": [1, 2, 1, 2]})
    path = folder / "data/train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet is damaged: ") as error:
        opened()
    assert "\n" not in str(error.value)


def test_damaged_pages_are_named(folder, opened):
    write(folder / "train.parquet", images_table(40, label=["a", "b"] * 20), compression="zstd")
    source = opened()
    path = folder / "train.parquet"
    content = bytearray(path.read_bytes())
    content[20:400] = bytes(380)
    path.write_bytes(content)

    with pytest.raises(UserError, match=r"train\.parquet is damaged: "):
        list(source.images(source.samples(), 8))


def test_damaged_classes_are_named(folder, opened):
    path = folder / "train.parquet"
    write(path, images_table(40, label=["a", "b"] * 20))
    column = pq.read_metadata(path).row_group(0).column(2)
    assert column.path_in_schema == "label"
    start = column.dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)

    with pytest.raises(UserError, match=r"train\.parquet is damaged: ") as error:
        opened()
    assert "\n" not in str(error.value)


def test_a_number_without_a_name_is_refused(folder, opened):
    write_hub(folder, {"train": [0, 1, 2]})
    path = folder / "data/train-00000-of-00002.parquet"
    table = pq.read_table(path)
    write(path, table.set_column(1, "label", pa.array([7] * len(table))))
    pq.write_table(pq.read_table(path).replace_schema_metadata(table.schema.metadata), path)

    with pytest.raises(UserError, match="label has the class 7, but 3 classes have names"):
        opened()


def test_the_fingerprint_depends_on_pixels_and_labels(folder, opened):
    prints = []
    for labels, seed in ([1, 2, 1, 2], 0), ([2, 1, 1, 2], 0), ([1, 2, 1, 2], 1):
        table = images_table(4 + seed, label=[*labels, *labels[:seed]]).slice(seed)
        write(folder / "train.parquet", table)
        source = opened()
        prints.append(source.fingerprint(source.samples()))
    assert len(set(prints)) == 3

    stale = source.samples().iloc[:-1]
    with pytest.raises(UserError, match="changed since the samples were listed"):
        source.fingerprint(stale)


def test_memory_does_not_grow_with_the_shard(folder, opened):
    """It has 160 MB in row groups of 10 MB."""
    content = np.random.default_rng(0).bytes(2**20)
    rows = [{"bytes": content[n:] + content[:n], "path": None} for n in range(160)]
    write(folder / "unlabeled.parquet", pa.table({"image": rows}), row_group_size=10)
    del rows
    source = opened()
    before = pa.total_allocated_bytes()

    most = max(pa.total_allocated_bytes() - before for _ in source._read(source._rows))

    assert most < 40 * 2**20
