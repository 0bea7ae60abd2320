from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from kedro.framework.cli.catalog import catalog
from kedro.framework.cli.cli import KedroCLI
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.startup import bootstrap_project
from kedro.runner import SequentialRunner

from selfie_pipeline.cli import parse_params, run
from selfie_pipeline.printable import is_printable

REPOSITORY = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:'BaseCommand' is deprecated")  # Kedro-Viz
STAGES = ["ingest", "patch", "pretrain", "finetune", "baseline", "report"]
STUDIES = ["finetune_weights", "tune", "cells", "experiment", "ratio"]
USES = ["predict", "embed", "export", "export_baseline", "export_weights", "suggest"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project without data, as the working directory."""
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "src").mkdir()  # required by Kedro; the package is the installed one
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    bootstrap_project(tmp_path)
    return tmp_path


def run_kedro(*options: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(run, options)


def assert_refused(result: Result, project: Path, *parts: str) -> None:
    """Assert that the run failed before its first node, with one line with these parts."""
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    for part in parts:
        assert part in line
    assert not list((project / "data").rglob("*"))


def test_an_error_ends_other_commands_with_one_line_too(project: Path) -> None:
    metadata = bootstrap_project(project)
    options = ["describe-datasets", "--env=nope"]

    result = CliRunner(catch_exceptions=False).invoke(catalog, options, obj=metadata)

    assert_refused(result, project, "--env = nope is not an environment in ")


def parse(value: str) -> dict[str, Any]:
    option = click.Option(["--params"])
    return parse_params(click.Context(run), option, value)


@pytest.mark.parametrize(
    ("value", "params"),
    [
        ("", {}),
        ("labeled_frac:0.1", {"labeled_frac": 0.1}),
        ("labeled_frac=0.1", {"labeled_frac": 0.1}),
        ("labeled_frac=0.1,seed:3", {"labeled_frac": 0.1, "seed": 3}),
        (" labeled_frac = 0.1 , seed : 3 ", {"labeled_frac": 0.1, "seed": 3}),
        ("labeled_frac=0.1,,seed=3,", {"labeled_frac": 0.1, "seed": 3}),
        ("pretrain.steps:5", {"pretrain": {"steps": 5}}),
        (
            "model.attention.heads=2,model.width:8,seed=1",
            {"model": {"attention": {"heads": 2}, "width": 8}, "seed": 1},
        ),
        ("model.layers=[1,1,1,1]", {"model": {"layers": [1, 1, 1, 1]}}),
        (
            "seed=1,model.layers:[3, 4, 6, 3],resume=never",
            {"seed": 1, "model": {"layers": [3, 4, 6, 3]}, "resume": "never"},
        ),
        ("data.folder=/data/a:b=c", {"data": {"folder": "/data/a:b=c"}}),
        ("data.folder:C:/images", {"data": {"folder": "C:/images"}}),
        ("data.folder:a=b", {"data": {"folder": "a=b"}}),
        ("seed=1,seed=2", {"seed": 2}),
    ],
)
def test_params(value: str, params: dict[str, Any]) -> None:
    assert parse(value) == params


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0", 1.0),
        ("3", 3),
        ("-3", -3),
        ("true", True),
        ("false", False),
        ("null", None),
        ("never", "never"),
        ("'3'", "3"),
        ("[]", []),
        ("[0.5, null]", [0.5, None]),
    ],
)
@pytest.mark.parametrize("separator", "=:")
def test_params_are_read_as_yaml(text: str, value: Any, separator: str) -> None:
    found = parse(f"key{separator}{text}")["key"]

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024_05", "2024_05"),
        ("0123", "0123"),
        ("12:30:45", "12:30:45"),
        ("photos #2", "photos #2"),
        ("*.jpg", "*.jpg"),
        ("~/photos", "~/photos"),
        ("C:\\new", "C:\\new"),
        ("'photos #2'", "photos #2"),
        ("null", None),
        ("NULL", None),
        ("~", None),
        ("", None),
    ],
)
@pytest.mark.parametrize(
    "key", ["images", "data.folder", "data.labels", "weights", "pretrain.weights"]
)
def test_text_is_kept_as_it_is(key: str, text: str, value: Any) -> None:
    found = parse(f"{key}={text}")
    for part in key.split("."):
        found = found[part]
    assert found == value


@pytest.mark.parametrize("value", ["seed", "=3", ":3", "seed=1,frac", "model.layers=[1,1", " = "])
def test_params_that_cannot_be_read_are_a_usage_error(value: str, project: Path) -> None:
    result = run_kedro("--params", value)

    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: Invalid value for '--params': ")
    assert "key=value or key:value" in line
    assert not list((project / "data").rglob("*"))


@pytest.mark.parametrize(
    "value",
    ["a=" + "[" * 2000, "seed=" + "9" * 5000, "seed=\x1b[31m", "a=\udcff", "a==", "\x1b"],
)
def test_any_other_params_are_a_usage_error_of_one_line(value: str, project: Path) -> None:
    result = run_kedro("--params", value)

    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: Invalid value for '--params': ")
    assert len(line) < 5000
    assert is_printable(line)


def test_values_are_shown_without_control_characters(project: Path) -> None:
    line = run_kedro("--params", '"data.name\\x1b[31m"=1').stderr.splitlines()[-1]

    assert is_printable(line)


def test_all_other_options_are_those_of_kedro() -> None:
    original = {option.name: option for option in kedro_run.params}
    ours = {option.name: option for option in run.params}

    assert ours.keys() == original.keys()
    assert original["params"].callback is not parse_params  # Kedro's option is unchanged
    for name, option in ours.items():
        assert option.to_info_dict() == original[name].to_info_dict()


@pytest.mark.parametrize(
    ("params", "parts"),
    [
        ("labelled_frac=0.1", ["labelled_frac is not a parameter", "labeled_frac", "seed"]),
        ("model.widht:8", ["model.widht is not a parameter", "did you mean width?"]),
        ("labeled_frac=ten", ["labeled_frac = 'ten'", "allowed: a number in (0, 1]"]),
        ("labeled_frac=0", ["labeled_frac = 0 ", "allowed: a number in (0, 1]"]),
        ("labeled_frac:1.5", ["labeled_frac = 1.5", "allowed: a number in (0, 1]"]),
        ("seed=1.5", ["seed = 1.5", "a whole number"]),
        ("model.layers=[1,1]", ["model.layers = [1, 1]", "a list of four whole numbers"]),
        ("resume=maybe", ["resume = 'maybe'", "'auto' or 'never'"]),
        (
            "patch.patch_size=7",
            ["patch.patch_size = 7", "does not divide patch.image_size = 32", "4, 8, 16"],
        ),
        ("patch.targets:16", ["patch.targets = 16", "leaves no context", "2 to 15"]),
        ("patch.targets=1", ["patch.targets = 1 ", "2 or more"]),
        ("seed=-1,labeled_frac=2", ["seed = -1", "labeled_frac = 2"]),
    ],
)
def test_an_impossible_parameter_is_refused(project: Path, params: str, parts: list[str]) -> None:
    assert_refused(run_kedro("--params", params), project, *parts)


@pytest.mark.parametrize("option", ["--pipeline=pretrian", "--pipelines=ingest,pretrian"])
def test_an_unknown_pipeline_is_refused(project: Path, option: str) -> None:
    assert_refused(run_kedro(option), project, "'pretrian'", "allowed: ", *STAGES)


def test_the_command_runs_in_any_thread(project: Path) -> None:
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(run_kedro, "--pipeline=pretrian").result()

    assert_refused(result, project, "'pretrian'", "allowed: ", *STAGES)


@pytest.mark.parametrize(
    "option",
    ["--async", "--runner-params=is_async=True", "--async --runner-params=is_async=False"],
)
def test_async_is_refused(project: Path, option: str) -> None:
    result = run_kedro(*option.split())

    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: --async, as well as is_async in --runner-params, is not supported, because a "
        "result could then be saved without its predictions; leave it out"
    )


class WithoutOptions(SequentialRunner):
    """A runner that Kedro can't create, because it always passes `is_async`."""

    def __init__(self) -> None:
        super().__init__()


@pytest.mark.parametrize(
    "runner",
    [
        "Nope",
        "no.such.module.Runner",
        "selfie_pipeline.cli.Nope",
        "../..",
        "os.getcwd",
        "builtins.dict",
        "AbstractRunner",
        f"{__name__}.WithoutOptions",
    ],
)
def test_an_unusable_runner_is_refused(project: Path, runner: str) -> None:
    result = run_kedro(f"--runner={runner}")

    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"Error: --runner = {runner} can't be used: ")
    assert "allowed: SequentialRunner without parameters, or the full name of a class" in line


@pytest.mark.parametrize(
    "runner", ["ParallelRunner", "kedro.runner.ParallelRunner", "ThreadRunner"]
)
def test_a_runner_that_runs_nodes_in_parallel_is_refused(project: Path, runner: str) -> None:
    result = run_kedro(f"--runner={runner}")

    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"Error: --runner = {runner} can't be used: it does not run one node")
    assert "run in parallel by themselves; allowed: SequentialRunner" in line


def test_another_runner_is_accepted(project: Path) -> None:
    result = run_kedro("--runner=kedro.runner.SequentialRunner", "--pipeline=pretrain")

    assert_refused(result, project, "patch_grids does not exist yet")


@pytest.mark.parametrize(
    "option", ["--nodes=nope", "--from-inputs=nope", "--to-outputs=nope", "--tags=nope"]
)
def test_a_filter_without_a_match_is_refused(project: Path, option: str) -> None:
    assert_refused(run_kedro(option), project, "Pipeline ")


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--load-versions=nope", "Invalid value for '--load-versions' / '-lv': Expected the form"),
        (
            "--load-versions=encoder:..",
            "Invalid value for '--load-versions' / '-lv': Version string",
        ),
        ("--runner-params=nope=1", "--runner = SequentialRunner can't be used: "),
        ("--runner-params=a=1,\x1b[31m\n", "Invalid value for '--runner-params': "),
        ("--config=pyproject.toml", "Invalid value for '--config' / '-c': expected '<document"),
    ],
)
def test_an_option_that_can_not_be_used_is_a_usage_error(
    project: Path, option: str, reason: str
) -> None:
    result = run_kedro(option, "--pipelines=ingest")

    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"Error: {reason}")
    assert is_printable(line)
    assert not list((project / "data").rglob("*"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((option, None) for option in ("pipelines", "tags", "node_names", "params")),
        ("runner_params", None),
        ("is_async", 3),
    ],
)
def test_a_value_of_another_type_in_a_file_of_options_is_a_usage_error(
    project: Path, option: str, value: int | None
) -> None:
    Path("run.yml").write_text(json.dumps({"run": {option: value}}))

    result = run_kedro("--config=run.yml")

    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.endswith(f"{value} is of a type that is not allowed; correct the file of --config")


@pytest.mark.parametrize("params", ["{seed: -1}", "seed=-1"])
def test_parameters_are_read_from_a_file_of_options(project: Path, params: str) -> None:
    Path("run.yml").write_text(f"run: {{params: {params}, pipelines: ingest}}")

    assert_refused(run_kedro("--config=run.yml"), project, "seed = -1")


@pytest.mark.parametrize("text", ["seed: [3", "seed: ${nope}"])
def test_a_configuration_that_can_not_be_read_is_refused(project: Path, text: str) -> None:
    (project / "conf/local/parameters.yml").write_text(text)

    assert_refused(run_kedro("--pipelines=ingest"), project, "the parameters can't be read: ")


def test_an_unknown_environment_is_refused(project: Path) -> None:
    assert_refused(
        run_kedro("--env=cifar100"),
        project,
        f"--env = cifar100 is not an environment in {project / 'conf'}",
        "allowed: base, cifar10, cifar10_small, image_folder, imagenet224, imagenet32, local",
    )


def test_an_unknown_environment_in_the_shell_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDRO_ENV", "cifar100")

    assert_refused(run_kedro(), project, "cifar100 is not an environment")


def test_a_version_of_an_entry_without_versions_is_refused(project: Path) -> None:
    result = run_kedro("--pipeline=finetune", "--load-versions=encoder:2026-01-01T00.00.00.000Z")

    assert_refused(result, project, "encoder does not exist yet", "--pipeline=pretrain")


def test_a_version_of_an_unknown_entry_is_refused(project: Path) -> None:
    result = run_kedro("--load-versions=encodre:2026-01-01T00.00.00.000Z")

    assert_refused(result, project, "encodre")


@pytest.mark.parametrize(
    ("stage", "missing", "producer"),
    [
        ("patch", "samples", "ingest"),
        ("pretrain", "patch_grids", "patch"),
        ("finetune", "encoder", "pretrain"),
        ("baseline", "patch_grids", "patch"),
        ("report", "encoder", "pretrain"),
    ],
)
def test_a_stage_with_a_missing_input_is_refused(
    project: Path, stage: str, missing: str, producer: str
) -> None:
    assert_refused(
        run_kedro(f"--pipeline={stage}"),
        project,
        f"{missing} does not exist yet; create it with `kedro run --pipeline={producer}`",
    )


@pytest.mark.parametrize(
    ("params", "repeated"),
    [
        ("labeled_frac:0.1,seed=3", "labeled_frac=0.1,seed=3"),
        ("model.attention.heads=4,seed:1", "model.attention.heads=4,seed=1"),
        ("model.layers=[1, 1, 1, 2]", "'model.layers=[1,1,1,2]'"),
        ("data.folder=null,augmentation.flip=true", "data.folder=null,augmentation.flip=true"),
        ("data.folder='a b'", "'data.folder=a b'"),
    ],
)
def test_the_suggested_command_has_this_runs_options(
    project: Path, params: str, repeated: str
) -> None:
    result = run_kedro("--pipeline=pretrain", "--env=cifar10_small", "--params", params)

    assert_refused(
        result,
        project,
        f"create it with `kedro run --pipeline=patch --env=cifar10_small --params {repeated}`",
    )


def test_the_suggested_command_has_the_environment_of_the_shell(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDRO_ENV", "cifar10_small")

    assert_refused(run_kedro("--pipeline=patch"), project, "--pipeline=ingest --env=cifar10_small`")


def test_the_pipelines_are_listed(project: Path) -> None:
    result = CliRunner().invoke(KedroCLI(project), ["registry", "list"])

    assert result.exit_code == 0
    listed = {line.removeprefix("- ") for line in result.stdout.splitlines() if line}
    assert listed == {"__default__", *STAGES, *STUDIES, *USES}


def test_the_project_uses_this_command(project: Path) -> None:
    """Kedro silently falls back to its own command if an import fails."""
    command = KedroCLI(project).get_command(click.Context(run), "run")

    assert command is run


@pytest.mark.parametrize(
    "command",
    [["-m", "kedro", "run"], ["-m", "selfie_pipeline"]],
    ids=["kedro run", "python -m selfie_pipeline"],
)
def test_a_refusal_in_the_shell_is_one_line(project: Path, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--params", "labeled_frac:1.5"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert errors == ["Error: labeled_frac = 1.5 is not allowed; allowed: a number in (0, 1]"]
    assert not list((project / "data").rglob("*"))


def test_the_log_is_the_same_in_any_folder_of_the_project(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--pipeline=ingest"],
        cwd=project / "conf" / "base",
        capture_output=True,
        text=True,
        check=True,
    )

    assert re.search(
        r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO    Completed 1 out of 1 tasks$", done.stderr, re.M
    )


def test_file_names_in_another_encoding_than_utf8_are_refused(project: Path) -> None:
    """Python takes UTF-8 in the locale C, unless it is told not to."""
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--pipeline=ingest"],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )

    errors = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert errors == [
        "Error: file names are in ascii in this environment; allowed: utf-8; set PYTHONUTF8=1"
    ]
    assert not list((project / "data").rglob("*"))


WITHOUT_EXTRAS = """
import sys
from importlib.machinery import PathFinder

extras = {
    *("IPython", "alembic", "ipykernel", "kedro_viz", "mlflow", "onnx", "onnxruntime"),
    *("onnxscript", "optuna", "pillow_heif", "ray", "sqlalchemy", "tensorboard"),
}
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *rest: None if name.partition(".")[0] in extras else find(name, *rest)
)
import pluggy

pluggy.PluginManager.load_setuptools_entrypoints = lambda *arguments: 0  # Kedro-Viz's hooks
"""
IMPORT_ALL = """
import importlib, pkgutil
import selfie_pipeline

with_extras = {"cluster", "driver", "ray_jobs", "trials", "worker"}  # of training
for module in pkgutil.walk_packages(selfie_pipeline.__path__, "selfie_pipeline."):
    if module.name.rpartition(".")[2] not in {*with_extras, "__main__"}:
        importlib.import_module(module.name)
assert not extras & sys.modules.keys()
"""
RUN_EACH = """
import os
from kedro.framework.project import configure_project

configure_project("selfie_pipeline")
from selfie_pipeline.cli import cli

for command in sys.argv[1:]:
    if not (child := os.fork()):
        cli(command.split(), prog_name="kedro")
    _, status = os.waitpid(child, 0)
    print(f"exit status {os.waitstatus_to_exitcode(status)}", file=sys.stderr, flush=True)
"""
NEEDS_EXTRA = {
    "run --pipelines=ingest": None,
    "run --pipelines=ingest --params=compute.engine=ray": (
        "compute.engine = ray needs Ray, which is not installed; install it with [ray]"
    ),
    "run --pipelines=ingest,patch,pretrain,tune": (
        "the tuning needs Optuna, which is not installed; install it with [tune]"
    ),
    "viz": "Kedro-Viz is not installed; install it with [viz]",
    "viz build --include-previews": "Kedro-Viz is not installed; install it with [viz]",
}
"""Commands, with what they print before they end if no extra is installed."""


@pytest.mark.slow
def test_without_the_extras_a_message_names_the_one_that_is_needed(project: Path) -> None:
    """The commands run in forks of one process, which imports the whole package without extras."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + IMPORT_ALL + RUN_EACH, *NEEDS_EXTRA],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "Traceback" not in done.stderr
    install = r'`pip install --constraint constraints.txt --editable ".\1"`'
    printed = re.findall(r"(.*?)exit status (\d)\n", done.stderr, flags=re.DOTALL)
    for (told, status), refusal in zip(printed, NEEDS_EXTRA.values(), strict=True):
        errors = [line for line in told.splitlines() if "pip install" in line]
        assert status == str(len(errors)), told
        expected = [refusal] if refusal else []
        assert errors == ["Error: " + re.sub(r"(\[\w+\])", install, line) for line in expected]
