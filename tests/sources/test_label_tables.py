"""Tests of label tables: reading, finding columns and files, and what goes over what."""

import csv

import pandas as pd
import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.sources import check_samples
from selfie_pipeline.sources.image_folder import ImageFolder
from selfie_pipeline.sources.label_tables import read_label_tables


@pytest.fixture
def folder(tmp_path):
    """Return an empty folder, to which `touch` adds files."""
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def touch(folder, *places):
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def listed(folder, data_config):
    """Return a function that lists the samples: {place: (split, class)}."""

    def listed(*tables, **columns):
        config = data_config(labels=list(tables), **columns)
        samples = ImageFolder(folder, read_label_tables(config, folder.parent)).samples()
        rows = zip(samples["split"], samples["class_name"], strict=True)
        return dict(zip(samples["place"], rows, strict=True))

    return listed


ROWS = {
    "photos/1.jpg": ("train", "cat"),
    "photos/2.jpg": ("train", "dog"),
    "photos/3.jpg": ("test", "cat"),
}


@pytest.fixture
def photos(folder):
    touch(folder, *ROWS, "photos/4.jpg", "5.png", "notes.txt", "labels.csv")
    return folder


def frame():
    rows = [(file, name, split) for file, (split, name) in ROWS.items()]
    return pd.DataFrame(rows, columns=["filename", "Class Name", "split"])


def write_semicolons(table, path):
    """Write a table as Excel does where the comma is the decimal point."""
    table.to_csv(path, index=False, sep=";", encoding="utf-8-sig", lineterminator="\r\n")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("labels.csv", lambda table, path: table.to_csv(path, index=False)),
        ("labels.CSV", write_semicolons),
        ("labels.tsv", lambda table, path: table.to_csv(path, index=False, sep="\t")),
        ("labels.parquet", lambda table, path: table.to_parquet(path)),
        ("labels.parquet", lambda table, path: table.astype("category").to_parquet(path)),
    ],
    ids=["csv", "semicolons", "tsv", "parquet", "parquet of categories"],
)
def test_a_table_gives_classes_and_splits_and_other_images_are_unlabeled(
    photos, listed, name, write
):
    write(frame(), photos.parent / name)

    assert listed(name) == ROWS | {
        "photos/4.jpg": ("unlabeled", ""),
        "5.png": ("unlabeled", ""),
    }


def write(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize("header", [("id", "breed"), ("Image_ID", "label"), ("x", "class")])
def test_files_are_named_by_the_end_of_their_path_with_or_without_extension(folder, listed, header):
    touch(folder, "a/1.jpg", "a/2.jpg", "b/2.jpg", "b/3.jpg", "b/03.jpg", "b/3.json")
    rows = [("1", "cat"), ("a\\2", "dog"), ("./b/2.jpg", "cat"), (folder / "b/3.jpg", "dog")]
    write(folder.parent / "labels.csv", header, *rows, ("03.jpg", "dog"))

    assert {place: name for place, (_, name) in listed("labels.csv").items()} == {
        "a/1.jpg": "cat",
        "a/2.jpg": "dog",
        "b/2.jpg": "cat",
        "b/3.jpg": "dog",
        "b/03.jpg": "dog",
    }


def test_files_not_named_as_images_count_if_they_have_a_class_or_are_unlabeled_for_certain(
    folder, listed
):
    touch(folder, "photos/1.jpg", "photos/scan", "photos/readme", "unlabeled/scan")
    rows = [("photos/1.jpg", "cat"), ("photos/scan", "dog")]
    write(folder.parent / "labels.csv", ("file", "class"), *rows)

    assert listed("labels.csv") == {
        "photos/1.jpg": ("train", "cat"),
        "photos/scan": ("train", "dog"),
        "unlabeled/scan": ("unlabeled", ""),
    }


def test_parameters_name_the_columns(photos, listed):
    rows = [("9", file, "x", name, split) for file, (split, name) in ROWS.items()]
    write(photos / "labels.csv", ("id", "where", "label", "dx", "use"), *rows)
    columns = {"image_column": "where", "class_column": "dx", "split_column": "use"}

    assert listed("raw/labels.csv", **columns).items() >= ROWS.items()


SUGGESTED = [("file", "class"), ("unlabeled/1.jpg", "cat"), ("unlabeled/2.jpg", "")]


def test_suggested_images_are_labeled_beside_class_folders(folder, listed):
    """The test split stays the same, and rows without a class yet count as unlabeled."""
    classes = [f"{name}/{n}.jpg" for name in ("cat", "dog") for n in range(5)]
    touch(folder, *classes, *(f"unlabeled/{n}.jpg" for n in range(4)))
    before = listed()
    write(folder.parent / "suggested.csv", *SUGGESTED)

    assert listed("suggested.csv") == before | {"unlabeled/1.jpg": ("train", "cat")}


def test_suggested_images_are_labeled_beside_a_label_table(folder, listed):
    files = [f"photos/{n}.jpg" for n in range(12)]
    touch(folder, *files)
    rows = [(file, "cat" if number % 2 else "dog") for number, file in enumerate(files[:10])]
    write(folder.parent / "labels.csv", ("path", "species"), *rows)
    before = listed("labels.csv", class_column="species")
    write(folder.parent / "suggested.csv", SUGGESTED[0], (files[10], "dog"), (files[11], ""))

    after = listed("labels.csv", "suggested.csv", class_column="species")

    assert after == before | {files[10]: ("train", "dog")}
    assert [split for split, _ in after.values()].count("test") == 2


CLASS_FOLDERS = [f"{name}/{n}.jpg" for name in ("train/cat", "train/dog", "test/cat") for n in "12"]


@pytest.mark.parametrize("filled", [[], [("unlabeled/1.jpg", "cat"), ("unlabeled/2.jpg", "dog")]])
def test_rows_without_a_class_leave_the_classes_of_the_folders(folder, listed, filled):
    """The suggestions are also of images whose label a finetuning did not use."""
    touch(folder, *CLASS_FOLDERS, "unlabeled/1.jpg", "unlabeled/2.jpg")
    before = listed()
    rows = [*filled, ("train/cat/1.jpg", ""), ("train/dog/2.jpg", "")]
    write(folder.parent / "suggested.csv", ("file", "class"), *rows)

    found = listed("suggested.csv")

    assert found == before | {place: ("train", name) for place, name in filled}


def test_a_row_with_only_a_split_leaves_the_classes_of_the_folders(folder, listed):
    touch(folder, *CLASS_FOLDERS)
    before = listed()
    header, row = ("file", "class", "split"), ("train/dog/1.jpg", "", "test")
    write(folder.parent / "labels.csv", header, row)

    assert listed("labels.csv") == before | {"train/dog/1.jpg": ("test", "dog")}


def test_a_new_class_for_one_image_leaves_the_classes_of_the_others(folder, listed):
    touch(folder, *CLASS_FOLDERS, "unlabeled/1.jpg")
    before = listed()
    rows = [("train/cat/1.jpg", "bird"), ("unlabeled/1.jpg", "cat")]
    write(folder.parent / "labels.csv", ("file", "class"), *rows)

    assert listed("labels.csv") == before | {
        "train/cat/1.jpg": ("train", "bird"),
        "unlabeled/1.jpg": ("train", "cat"),
    }


def test_other_classes_for_images_in_class_folders_replace_them(folder, listed):
    touch(folder, *CLASS_FOLDERS, "unlabeled/1.jpg")
    rows = [("train/cat/1.jpg", "Katze"), ("train/dog/1.jpg", "Hund"), ("unlabeled/1.jpg", "Hund")]
    write(folder.parent / "labels.csv", ("file", "class"), *rows)

    assert {name for _, name in listed("labels.csv").values()} == {"Katze", "Hund", ""}


def test_a_class_that_is_new_in_a_later_table_gets_its_own_test_images(folder, listed):
    touch(folder, *(f"{name}/{n}.jpg" for name in ("a", "b", "unlabeled") for n in range(5)))
    rows = [(f"unlabeled/{n}.jpg", "c") for n in range(5)]
    write(folder.parent / "labels.csv", ("file", "class"), *rows)

    found = list(listed("labels.csv").values())

    assert [found.count(("test", name)) for name in "abc"] == [1, 1, 1]


def test_a_later_table_goes_over_an_earlier_one_and_says_so(folder, listed, caplog):
    caplog.set_level("INFO", "selfie_pipeline")
    touch(folder, *(f"train/{name}.jpg" for name in ("cat/1", "cat/2", "cat/3", "dog/4")))
    touch(folder, "test/dog/5.jpg")
    write(folder.parent / "first.csv", ("file", "class"), ("cat/1.jpg", "dog"))
    rows = [("cat/1.jpg", "cat", "test"), ("cat/2.jpg", "dog", "")]
    write(folder.parent / "second.csv", ("file", "class", "split"), *rows)

    assert listed("first.csv", "second.csv") == {
        "train/cat/1.jpg": ("test", "cat"),
        "train/cat/2.jpg": ("train", "dog"),
        "train/cat/3.jpg": ("train", "cat"),
        "train/dog/4.jpg": ("train", "dog"),
        "test/dog/5.jpg": ("test", "dog"),
    }
    assert caplog.messages == [
        f"{folder.parent}/first.csv: classes of 1 images",
        f"{folder.parent}/first.csv: 1 images get another class than before: "
        "train/cat/1.jpg (cat → dog)",
        f"{folder.parent}/second.csv: classes of 2 images",
        f"{folder.parent}/second.csv: 2 images get another class than before: "
        "train/cat/1.jpg (dog → cat), train/cat/2.jpg (cat → dog)",
    ]


def test_folders_of_other_names_than_the_classes_are_no_classes(folder, listed, caplog):
    """HAM10000 has its images in two equivalent folders."""
    caplog.set_level("INFO", "selfie_pipeline")
    touch(folder, *(f"part_{n % 2}/{n}.jpg" for n in range(6)), "part_1/readme.txt")
    rows = [(n, "mel" if n % 3 else "nv") for n in range(4)]
    write(folder / "metadata.csv", ("image_id", "dx"), *rows)

    found = listed("raw/metadata.csv")

    assert {place: name for place, (_, name) in found.items()} == {
        "part_0/0.jpg": "nv",
        "part_0/2.jpg": "mel",
        "part_0/4.jpg": "",
        "part_1/1.jpg": "mel",
        "part_1/3.jpg": "nv",
        "part_1/5.jpg": "",
    }
    assert caplog.messages[0].startswith("The data set's own classes part_0, part_1 are ignored")
    assert "3 to which it gives none are unlabeled now" in caplog.messages[0]
    assert caplog.records[0].levelname == "WARNING"


def test_the_folders_of_splits_count_where_a_table_has_no_split(folder, listed):
    """GTSRB's test images, and the training images of Kaggle's sets, are in no class folders."""
    touch(folder, "Train/1.jpg", "Train/2.jpg", "Train/3.jpg", "Test/1.jpg", "Test/2.jpg")
    write(folder / "train.csv", ("Path", "ClassId"), ("Train/1.jpg", 7), ("Train/2.jpg", 8))
    write(folder / "test.csv", ("Path", "ClassId"), ("Test/1.jpg", 8))

    assert listed("raw/train.csv", "raw/test.csv") == {
        "Train/1.jpg": ("train", "7"),
        "Train/2.jpg": ("train", "8"),
        "Train/3.jpg": ("unlabeled", ""),
        "Test/1.jpg": ("test", "8"),
    }


def test_rows_of_missing_files_are_counted_and_the_first_five_named(photos, listed, caplog):
    gone = pd.DataFrame([(f"{n}.gif", "cat", "train") for n in range(7)], columns=frame().columns)
    pd.concat([frame(), gone]).to_csv(photos / "labels.csv", index=False)

    listed("raw/labels.csv")

    assert "7 of 10 rows name no file in " in caplog.text
    assert ": 0.gif, 1.gif, 2.gif, 3.gif, 4.gif and 2 more" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("photos/1.jpg", "cat"), ("1.jpg", "dog"), ("photos/2.jpg", "dog"), ("5", "cat")],
            "1 of 4 rows have another class or split than an earlier row of the same file: 1.jpg "
            "(cat, dog); leave one of them",
        ),
        ([("9.jpg", "cat")], "none of 1 rows names a file in "),
        ([("8.jpg", "cat"), ("5.png", "dog")], "1 of 2 rows fit several files in "),
    ],
)
def test_rows_that_contradict_each_other_or_the_files_are_refused(photos, listed, rows, message):
    touch(photos, "a/8.jpg", "b/8.jpg")
    write(photos.parent / "labels.csv", ("file", "class"), *rows)

    with pytest.raises(UserError) as error:
        listed("labels.csv")

    assert message in str(error.value)
    assert "\n" not in str(error.value)


TABLES = {
    "unknown splits": (
        "file,class,split\n1.jpg,cat,train\n2.jpg,dog,fold1\n3.jpg,dog,\x1b[2J\n",
        r"unknown splits in 2 of 3 rows: fold1, \x1b[2J; allowed: train, training, test",
    ),
    "two columns of classes": (
        "file,label,category\n1.jpg,cat,animal\n",
        "several columns that may be the class column: label, category; name it with data.class_",
    ),
    "no column of classes": (
        "file,a,b\n1.jpg,2,3\n",
        "which column is that of the class? It has file, a, b; name it with data.class_column",
    ),
    "no header": (
        "1.jpg,cat\n2.jpg,dog\n",
        "has no header: its first line names the file 1.jpg; add a line above it",
    ),
    "a row that is too long": (
        "file,class\n1.jpg,cat,dog\n",
        "line 2 has 3 columns, the header 2",
    ),
    "no rows": ("file,class\n", "it has no rows below its header"),
    "nothing": ("", "is damaged: its first line is empty"),
    "an empty first line": ("\nfile,class\n1.jpg,cat\n", "is damaged: its first line is empty"),
    "an open quote": (
        'file,class\n"1\n.jpg",cat\n"2.jpg,cat\n3.jpg,dog\n',
        "is damaged: the row that begins in line 4: unexpected end of data; replace",
    ),
    "an open quote in the header": ('file,"class\n', "is damaged: the row that begins in line 1: "),
    "an open quote before another": (
        'file,class\n"1.jpg,cat\n"2.jpg",dog\n',
        "is damaged: the row that begins in line 2: ',' expected after '\"'; replace",
    ),
    "no text": (b"\x89PNG\xff", "is neither text in UTF-8 nor .parquet"),
}


def test_commas_in_the_header_of_a_tsv_file_separate_nothing(photos, listed):
    header, row = "file\tclass (cat, dog, owl)", "1.jpg\tcat"
    (photos / "labels.tsv").write_text(f"{header}\n{row}\n")

    table = listed("raw/labels.tsv", class_column="class (cat, dog, owl)")

    assert ("train", "cat") in table.values()


@pytest.mark.parametrize(("content", "message"), TABLES.values(), ids=TABLES)
def test_a_damaged_table_is_refused_with_its_name_and_reason(photos, listed, content, message):
    data = content if isinstance(content, bytes) else content.encode()
    (photos / "labels.csv").write_bytes(data)

    with pytest.raises(UserError) as error:
        listed("raw/labels.csv")

    assert f"{photos}/labels.csv" in str(error.value)
    assert message in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("name", "converted"),
    [
        ("x.json", "pd.read_json('x.json')"),
        ("x.JSONL", "pd.read_json('x.JSONL', lines=True)"),
        ("x.ndjson", "pd.read_json('x.ndjson', lines=True)"),
        ("x.xlsx", "pd.read_excel('x.xlsx')"),
        ("x.xls", "pd.read_excel('x.xls')"),
        ("x.ods", "pd.read_excel('x.ods')"),
    ],
)
def test_a_table_of_another_format_is_refused_with_its_conversion(photos, listed, name, converted):
    (photos / name).write_text('{"file": "photos/1.jpg", "class": "cat"}\n')

    with pytest.raises(UserError) as error:
        listed(f"raw/{name}")
    assert str(error.value) == (
        f"data.labels: {photos / name} has a format that is not read; allowed: CSV, TSV or "
        f"Parquet; convert it with pandas, as in {converted}.to_csv('x.csv', index=False)"
    )


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


MISSING = ["NA", "N/A", "NaN", "nan", "null", "None", "<NA>", r"\N"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        *((["cat", name, "dog", name, ""], name) for name in MISSING),
        (["-1", "0", "-1", "12"], "-1"),
        (["nan", "cat", "NA", "dog"], "NA or nan"),
        (["-1", "7", "nan", "8"], "-1 or nan"),
    ],
)
def test_classes_that_often_stand_for_missing_values_are_named(
    folder, listed, caplog, names, found
):
    touch(folder, *(f"{number}.jpg" for number in range(len(names))))
    write(folder / "labels.csv", ("id", "class"), *enumerate(names))

    assert {name for _, name in listed("raw/labels.csv").values()} == set(names)
    (line,) = warnings(caplog)
    assert line == (
        f"{folder}/labels.csv: 2 of {len(names)} rows have the class {found}, which often stands "
        "for a missing value; leave the cell empty to mean unlabeled"
    )


@pytest.mark.parametrize("names", [["-1", "-2", "0"], ["-1", "cat", "0"], ["-1", "-1"], ["Nana"]])
def test_other_classes_stand_for_no_missing_value(folder, listed, caplog, names):
    touch(folder, *(f"{number}.jpg" for number in range(len(names))))
    write(folder / "labels.csv", ("id", "class"), *enumerate(names))

    listed("raw/labels.csv")

    assert not warnings(caplog)


@pytest.mark.parametrize("name", ["more.csv", "more.parquet"])
def test_numbers_with_gaps_are_the_same_classes(folder, listed, name):
    """pandas writes a column of whole numbers with gaps as 3.0."""
    touch(folder, *(f"{n}.jpg" for n in range(6)))
    pd.DataFrame({"id": [0, 1], "label": [3, 7]}).to_csv(folder / "first.csv", index=False)
    more = pd.DataFrame({"id": [2, 3, 4, 5], "label": [3, None, 7, None]})
    more.to_csv(folder / name, index=False) if name.endswith("csv") else more.to_parquet(
        folder / name
    )

    found = listed("raw/first.csv", f"raw/{name}")

    assert {place: class_name for place, (_, class_name) in found.items() if class_name} == {
        "0.jpg": "3",
        "1.jpg": "7",
        "2.jpg": "3",
        "4.jpg": "7",
    }


@pytest.mark.parametrize("text", ["3.0\n2.5", "v1.0\n2.0", "1.10\n2.0"])
def test_other_numbers_stay_as_they_are(folder, listed, text):
    touch(folder, "0.jpg", "1.jpg")
    one, two = text.split()
    (folder / "labels.csv").write_text(f"id,label\n0,{one}\n1,{two}\n")

    assert [name for _, name in listed("raw/labels.csv").values()] == [one, two]


def test_two_columns_of_one_name_are_refused(photos, listed):
    (photos / "labels.csv").write_text("file,class,class\nphotos/1.jpg,cat,dog\n")

    for chosen in ({}, {"class_column": "class"}):
        with pytest.raises(UserError, match="has 2 columns with the name class; rename"):
            listed("raw/labels.csv", **chosen)


def test_a_damaged_parquet_table_is_refused(photos, listed):
    (photos / "labels.parquet").write_bytes(b"PAR1 and no more")

    with pytest.raises(UserError, match=r"labels\.parquet is damaged: ") as error:
        listed("raw/labels.parquet")
    assert "\n" not in str(error.value)


def test_an_absent_table_and_column_are_refused(photos, listed):
    with pytest.raises(UserError, match=r"data\.labels: .*/absent\.csv does not exist; allowed: "):
        listed("absent.csv")
    frame().to_csv(photos / "labels.csv", index=False)
    with pytest.raises(UserError, match=r"data\.class_column = dx is not a column of .*; allowed"):
        listed("raw/labels.csv", class_column="dx")


def test_the_table_of_samples_is_whole_and_changes_with_the_labels(photos, data_config):
    def read():
        tables = read_label_tables(data_config(labels="raw/labels.csv"), photos.parent)
        source = ImageFolder(photos, tables)
        samples = source.samples()
        check_samples(samples, source.classes)
        return source, samples

    frame().to_csv(photos / "labels.csv", index=False)
    source, samples = read()
    assert source.classes == ("cat", "dog")
    assert samples["label"].tolist() == [0, 1, 0, -1, -1]
    before = source.fingerprint(samples)

    frame().replace("dog", "cow").to_csv(photos / "labels.csv", index=False)
    other, changed = read()
    assert other.fingerprint(changed) != before
    with pytest.raises(UserError, match=r"changed since the samples were listed"):
        other.fingerprint(samples)


NAMES = ["caf\u00e9", "cafe\u0301"]  # composed, as most systems write it, and as macOS does


@pytest.mark.parametrize(("in_folder", "in_table"), [NAMES, NAMES[::-1]])
@pytest.mark.parametrize("start", ["train/", "", "./train\\"])
def test_names_match_with_composed_and_decomposed_letters(
    folder, listed, in_folder, in_table, start
):
    touch(folder, f"train/{in_folder}/{in_folder}.jpg", f"train/bar/{in_folder}.jpg")
    files = [f"{start}{in_table}/{in_table}.jpg", f"bar/{in_table}"]
    write(folder.parent / "labels.csv", ("file", "class"), (files[0], in_table), (files[1], "bar"))

    assert listed("labels.csv") == {
        f"train/bar/{in_folder}.jpg": ("train", "bar"),
        f"train/{in_folder}/{in_folder}.jpg": ("train", NAMES[0]),
    }


def test_of_two_files_with_equal_names_a_row_names_the_one_with_its_characters(folder, listed):
    touch(folder, *(f"{name}.jpg" for name in NAMES))
    write(folder.parent / "labels.csv", ("file", "class"), (f"{NAMES[1]}.jpg", "cat"))

    assert listed("labels.csv") == {
        f"{NAMES[0]}.jpg": ("unlabeled", ""),
        f"{NAMES[1]}.jpg": ("train", "cat"),
    }
