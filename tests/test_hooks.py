from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog, MemoryDataset, Version

from selfie_pipeline import provenance
from selfie_pipeline.config import UserError
from selfie_pipeline.datasets.folder import FolderPathDataset
from selfie_pipeline.datasets.results import SamplesDataset
from selfie_pipeline.datasets.text import AtomicTextDataset
from selfie_pipeline.datasets.weights import WeightsDataset
from selfie_pipeline.evaluation.tables import build_results_table
from selfie_pipeline.hooks import ProjectHooks
from selfie_pipeline.report.text import terminal_table
from selfie_pipeline.settings import HOOKS
from selfie_pipeline.training.checkpoints import Checkpoint, Checkpoints
from selfie_pipeline.weights import Weights

RUN: dict[str, Any] = {
    "env": None,
    "runtime_params": {},
    "load_versions": {},
    "run_id": "2026-01-03T00.00.00.000Z",
    "only_missing_outputs": False,
}
SAMPLES = pd.DataFrame({"split": "train", "label": np.arange(40) % 2})


@pytest.fixture(autouse=True)
def _project() -> None:
    configure_project("selfie_pipeline")


def make_encoder(folder: Path, load: str | None = None, save: str | None = None) -> WeightsDataset:
    path = folder / "encoder.safetensors"
    return WeightsDataset(filepath=str(path), version=Version(load, save))


@pytest.fixture
def hooks(make_parameters: Callable[..., dict[str, Any]]) -> ProjectHooks:
    """Return the hooks of a run with valid parameters."""
    hooks = ProjectHooks()
    hooks.after_context_created(make_context(make_parameters()))
    return hooks


def make_catalog(stage: str, **datasets: Any) -> DataCatalog:
    """Return a catalog with all inputs of a stage, some of them replaced."""
    inputs = {name: MemoryDataset(1) for name in pipelines[stage].inputs()}
    inputs |= {"encoder": MemoryDataset(Weights({}, {}), copy_mode="assign")}
    return DataCatalog(inputs | {"usable_samples": MemoryDataset(SAMPLES)} | datasets)


def test_kedro_uses_these_hooks() -> None:
    assert type(HOOKS[-1]) is ProjectHooks
    assert [type(hook).__name__ for hook in HOOKS[:-1]] == (
        ["MlflowHooks"] if find_spec("mlflow") else []
    )


def test_parameters_are_checked(make_parameters: Callable[..., dict[str, Any]]) -> None:
    hooks = ProjectHooks()

    hooks.after_context_created(make_context(make_parameters()))

    with pytest.raises(UserError, match="seed = -1"):
        hooks.after_context_created(make_context(make_parameters({"seed": -1})))


class Loader(dict[str, Any]):
    """The configuration as Kedro's loader has it."""

    conf_source = "conf"
    runtime_params: ClassVar[dict[str, Any]] = {}


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"labeled_frac": 0.2}, "set it with --params labeled_frac=0.2, or in globals.yml"),
        ({"seed": 8}, "set it with --params seed=8, or in globals.yml"),
        ({"pretrain.images": 100}, "set it with --params pretrain.images=100"),
        ({"predict.arm": "supervised"}, "set it with --params predict.arm=supervised, .*"),
    ],
    ids=str,
)
def test_parameters_of_the_paths_are_refused_in_files_alone(
    make_parameters: Callable[..., dict[str, Any]], changes: dict[str, Any], hint: str
) -> None:
    """The results would be stored under the default of `globals.yml`."""
    context = make_context(make_parameters(changes), make_parameters())
    ((key, value),) = changes.items()

    with pytest.raises(UserError, match=f"^{key} = {value} is set in a file .*; {hint}$"):
        ProjectHooks().after_context_created(context)

    group, _, name = key.rpartition(".")
    context.config_loader.runtime_params = {group: {name: value}} if group else {name: value}
    ProjectHooks().after_context_created(context)


def make_context(parameters: dict[str, Any], defaults: dict[str, Any] | None = None) -> Any:
    """Return a context with these parameters, and `globals.yml` as it is for the defaults."""
    values = defaults or parameters
    settings = {
        "recipe": values["pretrained_on"],
        "labeled_frac": values["labeled_frac"],
        "seed": values["seed"],
        "arm": values["predict"]["arm"],
    }
    return SimpleNamespace(
        config_loader=Loader({"parameters": parameters, "globals": settings}),
        project_path=Path(),
        env=None,
    )


def test_existing_inputs_are_accepted(hooks: ProjectHooks) -> None:
    for stage in pipelines:
        hooks.before_pipeline_run(RUN, pipelines[stage], make_catalog(stage))


def test_the_commit_is_that_at_the_start_of_a_run(
    hooks: ProjectHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    provenance.describe_environment.cache_clear()
    monkeypatch.setattr(provenance, "_describe_commit", lambda: "at the start")
    hooks.before_pipeline_run(RUN, pipelines["pretrain"], make_catalog("pretrain"))
    monkeypatch.setattr(provenance, "_describe_commit", lambda: "committed meanwhile")

    found = provenance.describe_environment()["commit"]
    provenance.describe_environment.cache_clear()

    assert found == "at the start"


def test_a_missing_input_is_refused(hooks: ProjectHooks) -> None:
    catalog = make_catalog("pretrain", patch_grids=MemoryDataset())
    run = RUN | {"env": "cifar10", "runtime_params": {"pretrain": {"steps": 5}, "resume": "never"}}

    with pytest.raises(UserError) as caught:
        hooks.before_pipeline_run(run, pipelines["pretrain"], catalog)

    assert str(caught.value) == (
        "patch_grids does not exist yet; create it with "
        "`kedro run --pipeline=patch --env=cifar10 --params pretrain.steps=5,resume=never`"
    )


def test_the_command_that_makes_missing_weights_names_their_file(hooks: ProjectHooks) -> None:
    arm = {"params:predict.arm": MemoryDataset("weights")}
    catalog = make_catalog("predict", chosen_classifier=MemoryDataset(), **arm)

    with pytest.raises(UserError, match=r"pipeline=finetune_weights --params weights=FILE`"):
        hooks.before_pipeline_run(RUN, pipelines["predict"], catalog)


def test_a_ratio_of_a_part_of_the_images_is_refused(
    make_parameters: Callable[..., dict[str, Any]],
) -> None:
    hooks = ProjectHooks()
    context = make_context(make_parameters({"pretrain.images": 100}))
    context.config_loader.runtime_params = {"pretrain": {"images": 100}}
    hooks.after_context_created(context)

    with pytest.raises(UserError, match=r"pretrain.images = 100, but ratio pretrains"):
        hooks.before_pipeline_run(RUN, pipelines["ratio"], make_catalog("ratio"))


@pytest.mark.parametrize("stage", ["experiment", "tune", "ratio"])
def test_too_few_labels_are_refused_before_the_first_node(
    stage: str, make_parameters: Callable[..., dict[str, Any]]
) -> None:
    hooks = ProjectHooks()
    changes = {"experiment.labeled_fracs": [0.5, 0.01]}
    hooks.after_context_created(make_context(make_parameters(changes)))

    with pytest.raises(UserError, match=r"labeled_fracs\) = 0.01 of \d+ training samples leaves"):
        hooks.before_pipeline_run(RUN, pipelines[stage], make_catalog(stage))


def test_stored_samples_are_checked_if_only_missing_outputs_are_made(
    make_parameters: Callable[..., dict[str, Any]],
) -> None:
    """No node saves them in such a run; new ones are checked when they are saved."""
    hooks = ProjectHooks()
    hooks.after_context_created(make_context(make_parameters({"labeled_frac": 0.01})))
    stored = {name: MemoryDataset(SAMPLES) for name in ("usable_samples", "unreadable_files")}
    stored["supervised_classifier"] = MemoryDataset()
    for dataset in stored.values():
        dataset._EPHEMERAL = False  # so Kedro takes them for datasets on the disk
    catalog = make_catalog("baseline", samples=MemoryDataset(1), **stored)
    both = pipelines["patch"] + pipelines["baseline"]

    with pytest.raises(UserError, match=r"labeled_frac = 0.01 of \d+ training samples leaves"):
        hooks.before_pipeline_run(RUN | {"only_missing_outputs": True}, both, catalog)


@pytest.mark.parametrize("stage", ["predict", "export", "report"])
def test_a_run_that_does_not_train_does_not_read_the_samples(
    stage: str, tmp_path: Path, hooks: ProjectHooks
) -> None:
    (tmp_path / "damaged").write_text("no table")
    damaged = SamplesDataset(filepath=str(tmp_path / "damaged"))

    hooks.before_pipeline_run(RUN, pipelines[stage], make_catalog(stage, usable_samples=damaged))


def test_a_missing_version_is_refused(tmp_path: Path, hooks: ProjectHooks) -> None:
    old, new = "2026-01-01T00.00.00.000Z", "2026-01-02T00.00.00.000Z"
    for version in (old, new):
        save_encoder(tmp_path, version)
    wrong = "2025-01-01T00.00.00.000Z"
    catalog = make_catalog("finetune", encoder=make_encoder(tmp_path, load=wrong))
    run = RUN | {"load_versions": {"encoder": wrong}}

    with pytest.raises(UserError) as caught:
        hooks.before_pipeline_run(run, pipelines["finetune"], catalog)

    assert str(caught.value) == (
        f"--load-versions = encoder:{wrong} does not exist; allowed: {new}, {old}"
    )


def save_encoder(folder: Path, version: str) -> None:
    make_encoder(folder, save=version).save(Weights({"w": torch.zeros(1)}, {}))


def test_versions_are_chosen_before_the_first_node_and_logged(
    tmp_path: Path, hooks: ProjectHooks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    save_encoder(tmp_path, "2026-01-01T00.00.00.000Z")
    catalog = make_catalog("experiment", encoder=make_encoder(tmp_path))

    hooks.before_pipeline_run(RUN, pipelines["experiment"], catalog)
    save_encoder(tmp_path, "2026-01-02T00.00.00.000Z")  # by another run

    assert catalog["encoder"].resolve_load_version() == "2026-01-01T00.00.00.000Z"
    assert (
        "versions: saves 2026-01-03T00.00.00.000Z; loads encoder 2026-01-01T00.00.00.000Z"
    ) in caplog.messages
    versions = catalog.load("project").versions  # for the runs that a node starts
    assert versions.saved == ("2026-01-03T00.00.00.000Z",)
    assert list(versions.chosen.values()) == ["2026-01-01T00.00.00.000Z"]


@pytest.mark.parametrize(
    ("grids", "samples", "loaded"),
    [
        # A patch stage that is killed has saved the images, but not the samples that are left.
        (["2026-01-02T00.00.00.000Z"], "2026-01-01T00.00.00.000Z", None),
        # The samples are those of the second patch stage.
        (["2026-01-01T00.00.00.000Z", "2026-01-02T00.00.00.000Z"], "2026-01-02T00.00.00.000Z", 0),
    ],
    ids=["older", "of other images"],
)
def test_samples_of_other_images_are_refused(
    tmp_path: Path, hooks: ProjectHooks, grids: list[str], samples: str, loaded: int | None
) -> None:
    chosen = None if loaded is None else grids[loaded]
    entries = {
        name: AtomicTextDataset(filepath=str(tmp_path / name), version=Version(load, None))
        for name, load in (("patch_grids", chosen), ("usable_samples", None))
    }
    for name, version in [*(("patch_grids", each) for each in grids), ("usable_samples", samples)]:
        (tmp_path / name / version).mkdir(parents=True)
        (tmp_path / name / version / name).touch()
    entries["encoder"] = make_encoder(tmp_path)

    with pytest.raises(UserError) as caught:
        hooks.before_pipeline_run(RUN, pipelines["pretrain"], make_catalog("pretrain", **entries))

    assert str(caught.value) == (
        f"usable_samples {samples} are not those of patch_grids {chosen or grids[-1]}; name a "
        "version of both with --load-versions, or run `kedro run --pipeline=patch` again"
    )
    assert not list((tmp_path / "encoder.safetensors").glob("*"))  # of the refused run


def test_samples_that_were_listed_again_are_accepted(tmp_path: Path, hooks: ProjectHooks) -> None:
    entries = {}
    for name, version in (
        ("patch_grids", "2026-01-01T00.00.00.000Z"),
        ("usable_samples", "2026-01-02T00.00.00.000Z"),
    ):
        path = tmp_path / name
        entries[name] = AtomicTextDataset(filepath=str(path), version=Version(None, None))
        (path / version).mkdir(parents=True)
        (path / version / name).touch()

    hooks.before_pipeline_run(RUN, pipelines["report"], make_catalog("report", **entries))


@pytest.mark.parametrize("later", [False, True])
def test_labels_of_later_samples_than_the_pixels_are_refused(
    tmp_path: Path, hooks: ProjectHooks, later: bool
) -> None:
    """A part of the pipeline `patch` would take both for those of one data set."""
    entries = {}
    for name, day in (("patch_grids", 2), ("samples", 3 if later else 1)):
        version = f"2026-01-0{day}T00.00.00.000Z"
        entries[name] = AtomicTextDataset(
            filepath=str(tmp_path / name), version=Version(None, None)
        )
        (tmp_path / name / version).mkdir(parents=True)
        (tmp_path / name / version / name).touch()
    part = pipelines["patch"].only_nodes("list_usable_samples")
    catalog = DataCatalog({**entries, "params:data": MemoryDataset({})})
    for name in part.inputs() - entries.keys():
        catalog[name] = MemoryDataset({})

    if later:
        with pytest.raises(UserError, match=r"samples 2026-01-03.* are later than patch_grids"):
            hooks.before_pipeline_run(RUN, part, catalog)
    else:
        hooks.before_pipeline_run(RUN, part, catalog)


def test_an_encoder_without_its_history_is_refused(tmp_path: Path, hooks: ProjectHooks) -> None:
    old, new = "2026-01-01T00.00.00.000Z", "2026-01-02T00.00.00.000Z"
    for version in (old, new):
        save_encoder(tmp_path, version)
    (tmp_path / "history" / old).mkdir(parents=True)
    (tmp_path / "history" / old / "history").touch()
    history = AtomicTextDataset(filepath=str(tmp_path / "history"), version=Version(None, None))
    catalog = make_catalog("report", encoder=make_encoder(tmp_path), pretrain_history=history)

    with pytest.raises(UserError) as caught:
        hooks.before_pipeline_run(RUN, pipelines["report"], catalog)

    assert str(caught.value) == (
        f"pretrain_history has no version {new}, which is that of encoder; run "
        "`kedro run --pipeline=pretrain` again"
    )


def test_a_second_start_says_what_is_kept(
    tmp_path: Path, hooks: ProjectHooks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    for day in (1, 2):
        save_encoder(tmp_path, f"2026-01-0{day}T00.00.00.000Z")
    catalog = make_catalog("pretrain", encoder=make_encoder(tmp_path))

    hooks.before_pipeline_run(RUN, pipelines["pretrain"], catalog)

    assert (
        "versions: saves 2026-01-03T00.00.00.000Z; loads none; "
        "keeps 2 earlier, the latest 2026-01-02T00.00.00.000Z"
    ) in caplog.messages


def test_another_version_of_what_the_run_makes_is_refused(
    tmp_path: Path, hooks: ProjectHooks
) -> None:
    old = "2026-01-01T00.00.00.000Z"
    save_encoder(tmp_path, old)
    both = pipelines["pretrain"] + pipelines["finetune"]
    inputs = {name: MemoryDataset(SAMPLES) for name in both.inputs()}
    catalog = DataCatalog({**inputs, "encoder": make_encoder(tmp_path, load=old)})

    with pytest.raises(UserError) as caught:
        hooks.before_pipeline_run(RUN | {"load_versions": {"encoder": old}}, both, catalog)

    assert str(caught.value) == (
        f"--load-versions = encoder:{old}, but this run makes encoder itself; leave out the "
        "option, or the pipeline that makes it"
    )


def test_a_version_of_what_the_run_does_not_load_is_refused(
    tmp_path: Path, hooks: ProjectHooks
) -> None:
    """The classifier of `predict` has another name there; the latest would be loaded instead."""
    old = "2026-01-01T00.00.00.000Z"
    catalog = make_catalog("predict", chosen_classifier=make_encoder(tmp_path))

    with pytest.raises(UserError) as caught:
        hooks.before_pipeline_run(
            RUN | {"load_versions": {"selfie_classifier": old}}, pipelines["predict"], catalog
        )

    assert str(caught.value) == (
        f"--load-versions = selfie_classifier:{old}, but this run does not load "
        "selfie_classifier; allowed: chosen_classifier"
    )


def test_a_pipeline_that_reads_an_output_by_another_name_is_refused(
    tmp_path: Path, hooks: ProjectHooks
) -> None:
    """Kedro would predict first, with the classifier of an earlier run."""
    both = pipelines["finetune"] + pipelines["predict"]
    inputs = {name: MemoryDataset(SAMPLES) for name in both.inputs()}
    shared = {name: make_encoder(tmp_path) for name in ("selfie_classifier", "chosen_classifier")}

    with pytest.raises(UserError) as caught:
        hooks.before_pipeline_run(RUN, both, DataCatalog(inputs | shared))

    assert str(caught.value) == (
        "chosen_classifier is the selfie_classifier that this run makes; run the pipeline that "
        "reads it afterwards, on its own"
    )


@pytest.mark.parametrize(
    ("stage", "removed"),
    [
        ("pretrain", ["pretrain"]),
        ("finetune", ["selfie"]),
        ("baseline", ["supervised"]),
        ("patch", []),
    ],
)
def test_checkpoints_are_deleted_after_their_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, removed: list[str]
) -> None:
    names = ["pretrain", "selfie", "supervised"]
    folders = {
        f"{name}_checkpoints": FolderPathDataset(filepath=str(tmp_path / name)) for name in names
    }
    stored = {name: Checkpoints(tmp_path / name, {}, every=1, resume="auto") for name in names}
    for checkpoints in stored.values():
        with checkpoints.reserved("training"):
            checkpoints.save(Checkpoint(1, {}))

    ProjectHooks().after_pipeline_run(pipelines[stage], make_catalog(stage, **folders))

    assert [name for name in names if not stored[name].folder.exists()] == removed
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("stage", ["report", "export"])
def test_a_report_is_named_at_the_end_with_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_seed: list[dict[str, Any]], stage: str
) -> None:
    file = str(tmp_path / "report.html")
    report = AtomicTextDataset(filepath=file, version=Version(None, RUN["run_id"]))
    report.save("<html>")
    table = build_results_table(one_seed)
    catalog = make_catalog(stage, report=report, results_table=MemoryDataset(table))

    ProjectHooks().after_pipeline_run(pipelines[stage], catalog)

    shown = f"\n{terminal_table(table)}\n\nReport: {file}/{RUN['run_id']}/report.html\n"
    assert capsys.readouterr().out == (shown if stage == "report" else "")


class ClosedTerminal(io.StringIO):
    """The standard output of a process whose terminal was closed."""

    def write(self, text: str) -> int:  # noqa: ARG002
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_run_whose_terminal_is_gone_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_seed: list[dict[str, Any]]
) -> None:
    report = AtomicTextDataset(filepath=str(tmp_path / "page"), version=Version(None, "1"))
    report.save("<html>")
    table = MemoryDataset(build_results_table(one_seed))
    monkeypatch.setattr(sys, "stdout", ClosedTerminal())

    ProjectHooks().after_pipeline_run(
        pipelines["report"], make_catalog("report", report=report, results_table=table)
    )


@pytest.mark.parametrize("command", [["--help"], ["run", "--params=nonsense=1"]], ids=" ".join)
def test_help_and_refusals_do_not_wait_for_slow_imports(command: list[str]) -> None:
    slow = {
        *("torch", "torchvision", "timm", "onnx", "mlflow", "optuna"),
        *("sklearn", "scipy", "matplotlib", "pandas"),
    }

    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kedro", *command],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )

    lines = done.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    assert "selfie_pipeline.hooks" in imported or command == ["--help"]
    assert "selfie_pipeline.config" in imported
    assert slow & imported == set()
    assert ("nonsense is not a parameter" in lines[-1]) == (done.returncode == 1)


def test_a_run_logs_a_summary(hooks: ProjectHooks, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")

    hooks.before_pipeline_run(RUN, pipelines["pretrain"], make_catalog("pretrain"))

    assert [line.split(":")[0] for line in caplog.messages] == [
        *("data", "network", "device", "pretrain", "versions")
    ]
