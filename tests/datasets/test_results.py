"""Tests of reading results: one by one, and those of many runs."""

import json
import logging

import pandas as pd
import pytest
from kedro.io import DataCatalog, DatasetError
from kedro.io.core import Version

from selfie_pipeline.config import UserError
from selfie_pipeline.datasets.results import (
    AllVersionsDataset,
    BestSettingsDataset,
    DataCheckDataset,
    HistoryDataset,
    PredictionsDataset,
    ResultDataset,
    SamplesDataset,
    TuningTrialsDataset,
)

RESULT = {
    "data": "digits",
    "network": "ResNet",
    "arm": "selfie",
    "labeled_frac": 0.1,
    "labels": 126,
    "seed": 0,
    "accuracy": 0.5,
    "loss": 1.5,
    "test_samples": 10,
    "correct": "f040",
    "configuration": "c0ffee",
    "provenance": {
        "configuration": {"finetune": {"steps": 4}},
        "data": "da7a",
        "classifier": "c1a5",
        "encoder": "e4c0",
        "tuned": {"finetune.peak_learning_rate": 0.1},
        "pretraining_images": 1257,
    },
}
HISTORY = pd.DataFrame(
    {"step": [2, 4], "loss": [1.5, 1.0], "accuracy": [0.0, 1.0], "learning_rate": [0.1, 0.0]}
)
PREDICTIONS = pd.DataFrame(
    {
        "sample": [5, 6],
        "label": [1, 0],
        "predicted": [1, 1],
        "probability": [0.75, 0.5],
        "runner_up": [0, 0],
        "correct": [True, False],
    }
)
SETTINGS = {
    "study": "selfie, 5 %",
    "arm": "selfie",
    "labeled_frac": 0.05,
    "settings": {"peak_learning_rate": 0.1},
    "validation_accuracy": 0.5,
    "trials": 3,
}
TRIALS = pd.DataFrame(
    {
        "arm": ["selfie", "selfie"],
        "labeled_frac": [0.05, 0.05],
        "trial": [1, 2],
        "state": ["complete", "pruned"],
        "peak_learning_rate": [0.1, 0.2],
        "validation_accuracy": [0.5, None],
        "study": ["a", "a"],
    }
)
CHECK = {
    "splits": [
        {
            "split": "train",
            "images": 9,
            "unreadable": 0,
            "classes": 2,
            "smallest_class": 4,
            "largest_class": 5,
            "copies": 0,
        }
    ],
    "overlaps": [],
    "dropped": 0,
    "examples": [],
}
SAMPLES = pd.DataFrame(
    {
        "sample": [0, 2, 3],
        "split": ["train", "test", "unlabeled"],
        "label": [0, 0, -1],
        "class_name": ["cat", "cat", ""],
        "place": ["a", "b", "c"],
    }
)
VERSION = "2026-01-01T00.00.00.000Z"


def save(folder, cell, version, seed=0):
    path = folder / "digits" / cell / "metrics.json"
    ResultDataset(filepath=str(path), version=Version(None, version)).save(RESULT | {"seed": seed})
    return path / version / "metrics.json"


def change_result(**changes):
    provenance = changes.pop("provenance", {})
    return RESULT | changes | {"provenance": RESULT["provenance"] | provenance}


@pytest.fixture
def results(tmp_path):
    return AllVersionsDataset(filepath=str(tmp_path / "digits/**/metrics.json"))


@pytest.fixture
def make_dataset(tmp_path):
    def make(kind, **options):
        return kind(filepath=str(tmp_path / "file"), version=Version(None, VERSION), **options)

    return make


CSV = {"save_args": {"index": False}}
KINDS = [
    (ResultDataset, {}, RESULT),
    (HistoryDataset, CSV, HISTORY),
    (PredictionsDataset, {}, PREDICTIONS),
    (BestSettingsDataset, {}, [SETTINGS, SETTINGS]),
    (TuningTrialsDataset, CSV, TRIALS),
    (DataCheckDataset, {}, CHECK),
    (SamplesDataset, {}, SAMPLES),
]


@pytest.mark.parametrize(("kind", "options", "content"), KINDS)
def test_an_intact_file_is_loaded_unchanged(make_dataset, kind, options, content):
    dataset = make_dataset(kind, **options)
    dataset.save(content)

    loaded = dataset.load()

    if isinstance(content, pd.DataFrame):
        pd.testing.assert_frame_equal(loaded, content)
    else:
        assert loaded == content


@pytest.mark.parametrize(
    ("test_samples", "correct", "accuracy"), [(8, "f0", 1 / 2), (9, "f000", 4 / 9)]
)
def test_each_byte_has_the_answers_to_eight_samples(make_dataset, test_samples, correct, accuracy):
    result = change_result(test_samples=test_samples, correct=correct, accuracy=accuracy)
    dataset = make_dataset(ResultDataset)
    dataset.save(result)

    assert dataset.load() == result


@pytest.mark.parametrize(("kind", "options", "content"), KINDS)
@pytest.mark.parametrize("damage", [b"", b"\xff\x00", b'{"a', b"[1]", b"1\n2\n"])
def test_a_damaged_file_is_named(make_dataset, tmp_path, kind, options, content, damage):
    dataset = make_dataset(kind, **options)
    dataset.save(content)
    file = tmp_path / "file" / VERSION / "file"
    file.write_bytes(damage)

    assert_refused(dataset, str(file))


def assert_refused(dataset, *parts):
    with pytest.raises(UserError) as error:
        dataset.load()
    message = str(error.value)
    assert "\n" not in message
    assert "delete its folder" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("kind", "options", "content", "reason"),
    [
        (ResultDataset, {}, change_result(correct="f0"), "does not have 10 answers"),
        (ResultDataset, {}, change_result(correct="f0c0"), "accuracy = 0.5, but correct has 6"),
        (ResultDataset, {}, change_result(correct="nothex"), "correct = 'nothex'"),
        (ResultDataset, {}, change_result(arm=["x"]), "arm = ['x']"),
        (ResultDataset, {}, change_result(accuracy=float("-inf")), "accuracy = -inf"),
        (ResultDataset, {}, change_result(accuracy=85.8), "accuracy = 85.8"),
        (ResultDataset, {}, change_result(labels="a\nb"), "labels = 'a\\nb'"),
        (ResultDataset, {}, change_result(data="a\nb"), "data = 'a\\nb': not a line of text"),
        (ResultDataset, {}, change_result(data="\x9b2J"), "data = '\\x9b2J': not a line of text"),
        (ResultDataset, {}, change_result(network=None), "network = None"),
        (ResultDataset, {}, change_result(network="a\x1bb"), "network = 'a\\x1bb': not a"),
        (ResultDataset, {}, change_result(provenance={"tuned": 3}), "provenance.tuned = 3"),
        (ResultDataset, {}, change_result(provenance={"configuration": {"pretrain": 1}}), "n = 1:"),
        (ResultDataset, {}, change_result(provenance={"training": {}}), "training.loss: Field"),
        (HistoryDataset, CSV, HISTORY.drop(columns="loss"), "0.loss: Field required"),
        (HistoryDataset, CSV, HISTORY.head(0), "= []"),
        (HistoryDataset, CSV, HISTORY.assign(loss=["x", "y"]), "loss = 'x'"),
        (HistoryDataset, CSV, HISTORY.assign(loss=[None, 1.0]), "loss = nan"),
        (PredictionsDataset, {}, PREDICTIONS.assign(label=[1, 1]), "sample 6 has correct = False"),
        (PredictionsDataset, {}, PREDICTIONS.assign(probability=[2, 2]), "probability = 2"),
        (BestSettingsDataset, {}, [SETTINGS | {"more": 1}], "0.more = 1"),
        (BestSettingsDataset, {}, [SETTINGS | {"settings": {"steps": 1.0}}], "settings.steps"),
        (TuningTrialsDataset, CSV, TRIALS.assign(state="running"), "state = 'running'"),
        (ResultDataset, {}, change_result(configuration=""), "configuration = '': not a line"),
        (DataCheckDataset, {}, CHECK | {"splits": []}, "splits = []"),
        (DataCheckDataset, {}, CHECK | {"dropped": -1}, "dropped = -1"),
        (SamplesDataset, {}, SAMPLES.drop(columns=["label", "place"]), "no column label, place"),
        (SamplesDataset, {}, SAMPLES.assign(label=0.5), "label has the type float64"),
        (SamplesDataset, {}, SAMPLES.assign(place=["a", None, "b"]), "place is not text"),
        (SamplesDataset, {}, SAMPLES.assign(place=1, split=1, class_name=1), "class_name is not"),
        (SamplesDataset, {}, SAMPLES.assign(split="val"), "split = 'val', not one of train"),
        (SamplesDataset, {}, SAMPLES.assign(sample=[0, 2, 2]), "sample is not ascending"),
        (SamplesDataset, {}, SAMPLES.assign(sample=[-1, 2, 3]), "sample is not ascending"),
        (SamplesDataset, {}, SAMPLES.assign(label=[0, 3, -1]), "label is not from -1 to 2"),
        (SamplesDataset, {}, SAMPLES.assign(label=[0, 0, -2]), "label is not from -1 to 2"),
    ],
)
def test_a_wrong_value_is_named(make_dataset, kind, options, content, reason):
    dataset = make_dataset(kind, **options)
    dataset.save(content)

    assert_refused(dataset, reason, VERSION)


def test_a_missing_result_is_not_called_damaged(make_dataset):
    with pytest.raises(DatasetError, match="Did not find any versions"):
        make_dataset(ResultDataset).load()
    assert make_dataset(BestSettingsDataset).load() == []
    assert make_dataset(DataCheckDataset).load() == []


@pytest.mark.parametrize(
    ("kind", "content"), [(BestSettingsDataset, [SETTINGS]), (DataCheckDataset, CHECK)]
)
def test_a_requested_version_that_does_not_exist_is_not_an_empty_list(tmp_path, kind, content):
    requested = kind(filepath=str(tmp_path / "file"), version=Version("2026-02-30", None))
    with pytest.raises(UserError, match=r"2026-02-30/file does not exist; available .*: none$"):
        requested.load()
    kind(filepath=str(tmp_path / "file"), version=Version(None, VERSION)).save(content)

    assert not requested.exists()
    with pytest.raises(UserError) as error:
        requested.load()
    assert str(error.value) == (
        f"{tmp_path}/file/2026-02-30/file does not exist; available versions: {VERSION}"
    )


def test_all_versions_at_any_depth_are_read_in_the_order_of_paths(tmp_path, results):
    save(tmp_path, "selfie/seed-1", "2026-01-02", seed=1)
    save(tmp_path, "selfie/seed-0", "2026-01-01", seed=2)
    save(tmp_path, "selfie/seed-0", "2026-01-03", seed=3)
    save(tmp_path, "images_100/selfie/seed-0", "2026-01-01", seed=4)

    assert results.exists()
    assert [(result["seed"], result["version"]) for result in results.load()] == [
        (4, "2026-01-01"),
        (2, "2026-01-01"),
        (3, "2026-01-03"),
        (1, "2026-01-02"),
    ]


def test_a_partial_version_is_not_read(tmp_path, results):
    complete = save(tmp_path, "selfie/seed-0", "2026-01-01")
    partial = complete.parents[1] / "2026-01-02/.partial-metrics.json"
    partial.parent.mkdir()
    partial.write_text('{"accur')

    assert results.load() == [RESULT | {"version": "2026-01-01"}]


def test_no_results_yet_are_an_empty_list(results):
    assert results.load() == []
    assert not results.exists()


@pytest.mark.parametrize(
    "content", [b'{"accur', b"[1]", b"\xff", b"[" * 10**5, b"{}", b'{"arm": NaN}']
)
def test_a_damaged_result_is_named_and_the_others_are_read(tmp_path, results, caplog, content):
    damaged = save(tmp_path, "selfie/seed-0", "2026-01-01")
    save(tmp_path, "selfie/seed-1", "2026-01-01", seed=1)
    damaged.write_bytes(content)

    with caplog.at_level(logging.WARNING):
        (intact,) = results.load()

    (message,) = caplog.messages
    assert intact["seed"] == 1
    assert message.startswith(f"{damaged} can't be used: ")
    assert "\n" not in message


def test_the_preview_lists_the_files(tmp_path, results):
    files = [save(tmp_path, "selfie/seed-0", version) for version in ("2026-01-01", "2026-01-02")]

    assert json.loads(results.preview()) == [str(file) for file in files]


def test_it_is_read_only(results):
    with pytest.raises(UserError, match="read-only"):
        results.save([])


def test_the_catalog_finds_the_type(tmp_path):
    written = save(tmp_path, "selfie/seed-0", "2026-01-01")
    entry = {
        "type": "selfie_pipeline.datasets.results.AllVersionsDataset",
        "filepath": str(tmp_path / "digits/**/metrics.json"),
        "metadata": {"kedro-viz": {"layer": "reporting"}},
    }

    results = DataCatalog.from_config({"results": entry}).load("results")

    assert results == [json.loads(written.read_text()) | {"version": "2026-01-01"}]
