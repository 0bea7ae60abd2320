"""Tests of the complete project with a tiny recipe."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import AbstractVersionedDataset

from selfie_pipeline.config import UserError
from selfie_pipeline.pipeline_registry import create_pipeline
from selfie_pipeline.sources.digits import Digits
from selfie_pipeline.training.state import TrainingState

STAGES = ["ingest", "patch", "pretrain", "finetune", "baseline", "report"]
IN_MEMORY = {
    "puzzles",
    "selection",
    "selfie.initial_classifier",
    "supervised.initial_classifier",
}
FIGURES = {
    *("training_curves", "accuracy_over_labels", "puzzle_picture", "variance_over_labels"),
    *("gain_over_ratio", "confusion_matrix", "sample_errors", "duplicate_pairs"),
}


def list_outputs() -> list[str]:
    return sorted(create_pipeline("__default__").all_outputs() - IN_MEMORY)


def strip_versions(files: dict[str, bytes]) -> dict[str, bytes]:
    return {re.sub(r"/\d{4}-[\dT.-]+Z/", "/", name): content for name, content in files.items()}


def test_kedro_run(complete_run: Any) -> None:
    done = complete_run.done

    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    *table, report = done.stdout.strip().splitlines()
    assert "digits" in table[0]
    assert any("supervised" in line for line in table)
    assert any("Selfie" in line for line in table)
    assert Path(report.removeprefix("Report: ")).is_file()
    assert not list(complete_run.project.path.rglob("checkpoints-*"))
    assert not list(complete_run.project.path.rglob(".partial-*"))


def test_every_output_is_versioned_and_can_be_loaded(complete_run: Any) -> None:
    catalog = complete_run.project.catalog()

    for name in list_outputs():
        dataset = catalog[name]
        assert isinstance(dataset, AbstractVersionedDataset), name
        (version,) = dataset.list_versions()
        if name in FIGURES:
            assert Path(version).read_bytes().startswith(b"\x89PNG"), name
        else:
            assert catalog.load(name) is not None, name


def test_no_output_holds_a_path_a_user_or_an_environment_variable(complete_run: Any) -> None:
    project = complete_run.project
    texts = {name: content.decode("latin1") for name, content in project.files().items()}
    loaded = {name: project.load(name) for name in list_outputs() if name not in FIGURES}
    tables = {name: data for name, data in loaded.items() if isinstance(data, pd.DataFrame)}
    texts |= {name: table.to_csv() for name, table in tables.items()}  # Parquet is compressed

    private = [
        "private",
        str(project.path),
        str(Path(__file__).parents[2]),
        sys.prefix,
        f"{Path.home()}/",
    ]

    assert {"samples", "usable_samples"} <= texts.keys()
    assert [(name, word) for name, text in texts.items() for word in private if word in text] == []


def test_every_number_has_its_provenance(complete_run: Any) -> None:
    catalog = complete_run.project.catalog()
    encoder = catalog.load("encoder")
    data = catalog.load("patch_grids").fingerprint
    parts = {"patch", "augmentation", "model", "finetune"}

    for arm, digest, more in (
        ("selfie", encoder.digest(), {"pretrain", "pretrained_on"}),
        ("supervised", None, ()),
    ):
        metrics = catalog.load(f"{arm}_metrics")
        provenance = metrics["provenance"]
        assert metrics["arm"] == arm
        assert metrics["test_samples"] == 540
        assert metrics["labels"] == len(catalog.load("labeled_samples")) == provenance["labels"]
        assert provenance["configuration"].keys() == parts | set(more)
        assert provenance["configuration"]["finetune"]["steps"] == 4
        assert provenance["configuration"]["model"]["width"] == 8
        assert provenance["seed"] == 0
        assert provenance["data"] == data
        assert provenance["encoder"] == digest
        assert provenance["pretraining_images"] == (1257 if digest else None)
        assert provenance["tuned"] == {}
        assert provenance["classifier"] == catalog.load(f"{arm}_classifier").digest()
        assert provenance["precision"] in {"32-true", "bf16-mixed"}
        assert provenance["device"].endswith("1 threads")
        assert {"python", "torch", "kedro", "selfie-pipeline"} <= provenance["versions"].keys()
        assert re.match(r"[0-9a-f]{40}(-dirty)?$|unknown", provenance["commit"])

    assert encoder.provenance["configuration"].keys() == parts - {"finetune"} | {"pretrain"}
    assert encoder.provenance["data"] == data


def test_the_accuracy_is_that_of_the_predictions(complete_run: Any) -> None:
    catalog = complete_run.project.catalog()
    samples = catalog.load("samples").set_index("sample")

    for arm in ("selfie", "supervised"):
        predictions = catalog.load(f"{arm}_predictions")
        truth = samples.loc[predictions["sample"]]
        assert set(truth["split"]) == {"test"}
        assert len(predictions) == 540
        correct = predictions["predicted"].to_numpy() == truth["label"].to_numpy()
        assert correct.mean() == catalog.load(f"{arm}_metrics")["accuracy"]


def test_single_stages_produce_the_same_files(
    complete_run: Any, fresh: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, histories and accuracies do not depend on the process."""
    for stage in STAGES:
        fresh.run(stage)

    expected, found = (strip_versions(project.files()) for project in (complete_run.project, fresh))
    assert found.keys() == expected.keys()
    results = [name for name in expected if not name.endswith((".html", ".png"))]
    assert [name for name in results if found[name] != expected[name]] == []
    assert any(name.endswith("encoder.safetensors") for name in results)
    assert "Report: " in capsys.readouterr().out


def test_each_fraction_and_seed_has_separate_files(finished: Any) -> None:
    before = finished.files()

    finished.run("finetune", params="labeled_frac:0.1,seed=3")

    after = finished.files()
    assert {name: after.get(name) for name in before} == before
    new = after.keys() - before.keys()
    assert len(new) == 5  # labels, classifier, history, predictions, metrics
    assert all("/labeled_10pct/seed_3/" in name for name in new)
    metrics = finished.load("selfie_metrics", "labeled_frac=0.1,seed=3")
    assert (metrics["labeled_frac"], metrics["seed"], metrics["labels"]) == (0.1, 3, 126)


def test_the_report_includes_all_seeds(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(finished.load("results_table")["seeds"]) == [1, 1]

    finished.run("finetune", "baseline", "report", params="seed=1")

    table = finished.load("results_table")
    assert list(table["seeds"]) == [2, 2]
    assert table["std"].notna().all()
    for arm in ("selfie", "supervised"):
        accuracies = [
            finished.load(f"{arm}_metrics", f"seed={seed}")["accuracy"] for seed in (0, 1)
        ]
        row = table.set_index("arm").loc[arm]
        assert row["mean"] == pytest.approx(50 * sum(accuracies))
        assert row["std"] == pytest.approx(100 * pd.Series(accuracies).std())
    assert "n = 2" in capsys.readouterr().out


def test_the_report_excludes_results_with_other_parameters(
    finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell with other parameters is not part of the mean."""
    finished.run("finetune", "baseline", "report", params="seed=1,finetune.steps=5")

    assert list(finished.load("results_table")["seeds"]) == [1, 1]


def test_an_encoder_of_fewer_images_replaces_neither_the_encoder_nor_its_results(
    finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished.files()
    fewer = "pretrain.images=100"

    finished.run("pretrain", "finetune", params=fewer)
    finished.run("report")

    encoder = finished.load("encoder", fewer)
    assert encoder.provenance["pretraining_images"] == 100
    assert finished.load("encoder").provenance["pretraining_images"] == 1257
    assert finished.load("selfie_metrics", fewer)["provenance"]["encoder"] == encoder.digest()
    after = finished.files()
    assert {name: after.get(name) for name in before} == before
    assert list(finished.load("results_table")["seeds"]) == [1, 1]


def test_pretraining_on_too_many_images_is_refused(finished: Any) -> None:
    error = finished.refuse("--pipeline=pretrain", "--params=pretrain.images=1258")

    assert "pretrain.images = 1258" in error
    assert "allowed: 1257 or less" in error


@pytest.mark.parametrize(
    "puzzle",
    [
        {},
        {"targets": 8},
        {"patch_size": 4},
        {"canvas_size": 30, "image_size": 30, "patch_size": 10},  # not divisible into 4 × 4 patches
    ],
)
def test_an_encoder_is_transferred_to_another_recipe(finished: Any, puzzle: dict[str, int]) -> None:
    """Each recipe keeps separate files, and the puzzles are those of the pretraining."""
    other = finished.path / "conf" / "other"
    shutil.copytree(finished.path / "conf" / "tiny", other)
    (other / "globals.yml").write_text("recipe: other\n")
    (other / "parameters_patch.yml").write_text(json.dumps({"patch": puzzle}))
    finished.succeed("--env=other", "--pipelines=ingest,patch,baseline")

    finished.succeed("--env=other", "--pipelines=finetune,report", "--params=pretrained_on=tiny")

    (metrics,) = finished.path.glob(
        "data/08_reporting/other/pretrained_on_tiny/selfie/*/seed_0/metrics.json/*/metrics.json"
    )
    cell = json.loads(metrics.read_text("utf-8"))
    assert cell["provenance"]["encoder"] == finished.load("encoder").digest()
    (report,) = finished.path.glob("data/08_reporting/other/**/report.html/*/report.html")
    assert "(chance 25 %)" in report.read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            ["--pipeline=finetune", "--params=pretrained_on=nowhere"],
            ["pretrained_on = nowhere", "no encoder"],
        ),
        (
            ["--pipeline=pretrain", "--params=pretrained_on=nowhere"],
            ["pretrained_on = nowhere", "--pipelines=finetune,baseline,report"],
        ),
    ],
)
def test_an_impossible_transfer_is_refused(
    finished: Any, options: list[str], parts: list[str]
) -> None:
    before = finished.files()

    error = finished.refuse(*options)

    for part in parts:
        assert part in error
    assert finished.files() == before


def test_pixels_are_stored_once(finished: Any) -> None:
    finished.run("patch")

    new, old = finished.catalog()["patch_grids"].list_versions()
    assert new != old
    assert (Path(new) / "shard-00000.npy").samefile(Path(old) / "shard-00000.npy")
    assert finished.load("patch_grids").fingerprint


def test_an_older_encoder_can_be_chosen(finished: Any) -> None:
    older = finished.load("encoder").digest()
    finished.run("pretrain", params="pretrain.seed=1")
    newer = finished.load("encoder").digest()
    new, old = finished.versions("encoder")
    assert older != newer

    finished.run("finetune", load_versions={"encoder": old})
    chosen = finished.load("selfie_metrics")["provenance"]
    finished.run("finetune")
    latest = finished.load("selfie_metrics")["provenance"]
    error = finished.refuse(
        "--pipeline=finetune", "--load-versions=encoder:2020-01-01T00.00.00.000Z"
    )

    assert chosen["encoder"] == older
    assert chosen["configuration"]["pretrain"]["seed"] == 0
    assert latest["encoder"] == newer
    assert latest["configuration"]["pretrain"]["seed"] == 1
    assert error == (
        "Error: --load-versions = encoder:2020-01-01T00.00.00.000Z does not exist; allowed: "
        f"{new}, {old}"
    )


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            ["--pipeline=finetune", "--params=model.width=16"],
            [
                "the encoder's tensors do not fit",
                "stem.conv.weight is 8×3×3×3 instead of 16×3×3×3",
                "--pipeline=pretrain",
            ],
        ),
        (
            ["--pipeline=pretrain", "--params=patch.patch_size=4"],
            ["patch_grids has 4 × 4 patches of 8 pixels", "8 × 8 of 4", "--pipeline=patch"],
        ),
        (
            [
                "--pipeline=pretrain",
                "--params=patch.patch_size=16,patch.canvas_size=64,patch.targets=2",
            ],
            ["patch_grids has 4 × 4 patches of 8 pixels", "4 × 4 of 16", "--pipeline=patch"],
        ),
        (
            ["--pipeline=baseline", "--params=patch.canvas_size=40"],
            ["patch_grids has 4 × 4 patches", "patch.canvas_size = 40", "--pipeline=patch"],
        ),
        (
            ["--pipeline=finetune", "--params=labeled_frac=0.001"],
            ["labeled_frac = 0.001", "without a label", "or more"],
        ),
    ],
)
def test_parameters_that_do_not_fit_stored_data_are_refused(
    finished: Any, options: list[str], parts: list[str]
) -> None:
    """The refusal is one line, and nothing but the labeled subset is stored."""
    before = finished.files()

    error = finished.refuse(*options)

    for part in parts:
        assert part in error
    new = finished.files().keys() - before.keys()
    assert not [name for name in new if "labeled_samples" not in name]


def test_arms_with_different_training_are_not_compared(finished: Any) -> None:
    finished.run("finetune", params="finetune.steps=5")

    error = finished.refuse("--pipeline=report")

    assert error.startswith(
        "Error: the two arms were trained with different finetune.steps (5 and 4); run `kedro run "
    )


@pytest.fixture
def stopped_at_step_3(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that starts a pretraining and stops it after step 3 of 6."""

    def stop(project: Any) -> None:
        original = TrainingState.end_step

        def end_step(state: TrainingState) -> None:
            original(state)
            if state.step == 3:
                signal.raise_signal(signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(TrainingState, "end_step", end_step)
            with pytest.raises(UserError, match="stopped by SIGTERM after step 3 of 6"):
                project.run("pretrain")

    return stop


def test_an_interrupted_stage_resumes(
    finished: Any, stopped_at_step_3: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    uninterrupted = finished.load("encoder"), finished.load("pretrain_history")
    stopped_at_step_3(finished)
    assert len(finished.versions("encoder")) == 1

    finished.run("pretrain")

    assert "pretrain: resumes after step 3 of 6" in caplog.messages
    assert len(finished.versions("encoder")) == 2
    assert finished.load("encoder").digest() == uninterrupted[0].digest()
    pd.testing.assert_frame_equal(
        finished.load("pretrain_history"), uninterrupted[1], check_exact=True
    )
    assert not list(finished.path.rglob("checkpoints-*"))


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ("pretrain.weight_decay=0.5", "have different configuration.pretrain.weight_decay"),
        ("resume=never", "resume = never"),
    ],
)
def test_an_interrupted_stage_restarts_and_logs_the_reason(
    finished: Any,
    stopped_at_step_3: Callable[[Any], None],
    caplog: pytest.LogCaptureFixture,
    params: str,
    reason: str,
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    stopped_at_step_3(finished)

    finished.run("pretrain", params=params)

    assert any(reason in line for line in caplog.messages)
    assert not any("resumes" in line for line in caplog.messages)


def test_another_checkpoint_interval_does_not_prevent_resuming(
    finished: Any, stopped_at_step_3: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    stopped_at_step_3(finished)

    finished.run("pretrain", params="pretrain.checkpoint_every=1")

    assert "pretrain: resumes after step 3 of 6" in caplog.messages


def test_the_test_split_has_no_influence_on_training(
    complete_run: Any, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights are the same with other labels and pixels in the test split."""
    original_init, original_samples = Digits.__init__, Digits.samples

    def init(self: Digits) -> None:
        original_init(self)
        test = (original_samples(self)["split"] == "test").to_numpy()
        self._grey[test] = 255 - self._grey[test]

    def samples(self: Digits) -> pd.DataFrame:
        table = original_samples(self)
        test = table["split"] == "test"
        table.loc[test, "label"] = (table.loc[test, "label"] + 1) % 10
        return table

    monkeypatch.setattr(Digits, "__init__", init)
    monkeypatch.setattr(Digits, "samples", samples)

    fresh.run("ingest", "patch", "pretrain", "finetune", "baseline")

    expected = complete_run.project.catalog()
    found = fresh.catalog()
    assert found.load("patch_grids").fingerprint != expected.load("patch_grids").fingerprint
    for name in ("encoder", "selfie_classifier", "supervised_classifier"):
        assert found.load(name).digest() == expected.load(name).digest()
    for name in ("pretrain_history", "selfie_history", "supervised_history", "labeled_samples"):
        pd.testing.assert_frame_equal(found.load(name), expected.load(name), check_exact=True)
    for arm in ("selfie", "supervised"):
        theirs, ours = (catalog.load(f"{arm}_metrics") for catalog in (expected, found))
        assert (theirs["loss"], theirs["accuracy"]) != (ours["loss"], ours["accuracy"])


@pytest.mark.parametrize(
    ("number", "end"),
    [
        (signal.SIGINT, (130, "Error: stopped by SIGINT; run the same command again")),
        (signal.SIGTERM, (143, "Error: stopped by SIGTERM; run the same command again")),
        (signal.SIGHUP, (129, "Error: stopped by SIGHUP; run the same command again")),
    ],
)
def test_a_signal_outside_a_training_leaves_no_empty_versions_and_no_unfinished_tracked_run(
    fresh: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, end: tuple[int, str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setattr(Digits, "samples", lambda _: signal.raise_signal(number))
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under `nohup` it is ignored

    try:
        done = fresh.kedro_run("--pipeline=ingest", "--params=tracking.mlflow=auto")
    finally:
        signal.signal(signal.SIGHUP, before)

    assert (done.exit_code, done.stderr.splitlines()[-1]) == end
    assert list((fresh.path / "data").rglob("20*Z")) == []
    client = mlflow.MlflowClient(f"sqlite:///{fresh.path / 'data' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["KILLED"]


def test_a_report_has_the_check_and_the_counts_of_the_images_that_it_is_about(
    finished: Any,
) -> None:
    (first,) = finished.versions("patch_grids")
    finished.run("ingest", "patch")
    folder = finished.path / "data"
    (later,) = folder.glob(
        f"03_primary/tiny/data_check.json/{finished.versions('data_check')[0]}/*"
    )
    check = json.loads(later.read_text())
    check["splits"][0]["copies"] = 777  # as if the images were others
    later.write_text(json.dumps(check))
    counts = max(folder.glob("02_intermediate/tiny/sample_counts.csv/*/*"))
    counts.write_text(counts.read_text().replace("total", "8888"))

    versions = f"patch_grids:{first},usable_samples:{first}"
    finished.succeed("--pipeline=report", f"--load-versions={versions}")
    page = finished.load("report")
    finished.succeed("--pipeline=report")

    assert "777 images" not in page
    assert "777 images" in finished.load("report")


@pytest.mark.parametrize("name", ["NA", "None", "007"])
def test_a_name_that_looks_like_a_number_or_like_nothing_stays(finished: Any, name: str) -> None:
    table = finished.load("results_table")
    catalog = finished.catalog()

    catalog.save("results_table", table.assign(data=name))

    assert set(catalog.load("results_table")["data"]) == {name}


def test_names_of_files_that_are_numbers_stay_text(finished: Any) -> None:
    (path,) = (finished.path / "data/03_primary").rglob("labeled_samples.csv/*/*.csv")
    table = pd.read_csv(path)
    table.assign(place=table["sample"]).to_csv(path, index=False)

    assert finished.load("labeled_samples")["place"].tolist() == [*map(str, table["sample"])]
