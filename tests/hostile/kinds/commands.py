"""Bad commands: `kedro run` with its options, environment variables and configuration files.

They run in this process, in a temporary project. Only the pipeline `ingest` finds its inputs there;
the others are refused before their first node.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

import click
from click.testing import CliRunner
from hypothesis import strategies as st
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project
from tests.hostile.damage import NAMES, damaged_bytes
from tests.hostile.inputs import Input, Kind, Link, WrongResultError
from tests.hostile.kinds.addresses import refuse_names
from tests.hostile.kinds.parameters import param_texts

from selfie_pipeline.cli import run

_REPOSITORY = Path(__file__).parents[3]
_PIPELINES = ["patch", "pretrain", "finetune", "report", "tune", "experiment", "predict", "export"]
_ENTRIES = ["samples", "encoder", "selfie_metrics", "results", "patch_grids"]
_VERSION = "2026-01-01T00.00.00.000Z"


@cache
def _project() -> dict[str, bytes | Link]:
    """Return the files of a project whose runs are not tracked."""
    files: dict[str, bytes | Link] = {
        str(path.relative_to(_REPOSITORY)): path.read_bytes()
        for path in [*sorted((_REPOSITORY / "conf/base").iterdir()), _REPOSITORY / "pyproject.toml"]
    }
    files["conf/base/parameters_tracking.yml"] = (
        (_REPOSITORY / "conf/base/parameters_tracking.yml")
        .read_bytes()
        .replace(b"mlflow: auto", b"mlflow: never")
    )
    files["conf/local/.gitkeep"] = files["src/.gitkeep"] = b""
    files[".telemetry"] = b"consent: false\n"  # otherwise kedro-telemetry writes to pyproject.toml
    files["data"] = Link("../data")
    return files


_CONFIGURATION = {
    "globals.yml": b"recipe: other\nlabeled_frac: 0.1\nseed: 1\n",
    "parameters.yml": b"pretrain: {steps: 6}\nfinetune:\n  steps: 4\nseed: ${globals:seed}\n",
    "catalog.yml": (
        b"notes:\n  type: selfie_pipeline.datasets.atomic.AtomicTextDataset\n"
        b"  filepath: data/${globals:recipe}/notes.txt\n  versioned: true\n"
    ),
}


@st.composite
def _damaged_yaml(draw: st.DrawFn, content: bytes) -> bytes:
    """Damage a configuration file."""
    if draw(st.booleans()):
        return draw(damaged_bytes(content))[0]
    lines = content.decode().splitlines()
    text = draw(
        st.one_of(NAMES, st.sampled_from(["- 3", "3", "a: [", "x: ${nope}", "seed: &a [*a]"]))
    )
    place = draw(st.integers(0, len(lines)))
    lines = draw(st.sampled_from([[*lines[:place], text, *lines[place:]], [text]]))
    return "\n".join(lines).encode("utf-8", "replace")


_NAME_LISTS = st.one_of(NAMES, st.lists(NAMES, max_size=3).map(",".join))
_OPTIONS: dict[str, st.SearchStrategy[str]] = {
    "--params": param_texts(),
    "--env": st.one_of(NAMES, st.sampled_from(["other", "../..", "base/", "other/.", "*"])),
    "--load-versions": st.one_of(
        NAMES,
        st.builds("{}:{}".format, st.sampled_from(_ENTRIES), st.one_of(NAMES, st.just(_VERSION))),
    ),
    "--tags": _NAME_LISTS,
    "--nodes": st.one_of(_NAME_LISTS, st.just("list_samples")),
    "--from-nodes": _NAME_LISTS,
    "--to-nodes": _NAME_LISTS,
    "--from-inputs": st.one_of(_NAME_LISTS, st.just("params:data")),
    "--to-outputs": st.one_of(_NAME_LISTS, st.sampled_from(_ENTRIES)),
    "--namespaces": _NAME_LISTS,
    "--runner": st.one_of(NAMES, st.sampled_from(["ThreadRunner", "ParallelRunner", "os.system"])),
    "--runner-params": st.one_of(
        NAMES,
        st.sampled_from(["max_workers=0", "is_async=x", "a=1", "max_workers=1e9", "=", "a.b=1"]),
    ),
    "--conf-source": st.one_of(NAMES, st.sampled_from(["src", "pyproject.toml", "conf"])),
    "--config": st.one_of(NAMES, st.sampled_from(["run.yml"] * 3 + ["conf", "pyproject.toml"])),
}
_RUN_FILES = [
    b"run:\n  pipelines: ingest\n  params: {seed: 3}\n",
    b"run:\n  pipelines: ingest\n  params: seed=3\n  env: other\n",
    b"run:\n  tags: [a]\n  runner: 3\n  load_versions: {a: b}\n",
]
_VARIABLES = ["KEDRO_ENV", "SELFIE_MLFLOW_RUN", "OMP_NUM_THREADS", "LANG", "TZ", "COLUMNS", "HOME"]


@st.composite
def _commands(draw: st.DrawFn) -> Input:
    files = dict(_project())
    pipelines = draw(
        st.one_of(
            *[st.just("ingest")] * 3,
            st.lists(st.sampled_from(_PIPELINES), min_size=1, max_size=2).map(",".join),
            _NAME_LISTS.map(lambda text: text or "ingest"),
        )
    )
    options = ["--pipelines", pipelines]
    for name in draw(st.lists(st.sampled_from(sorted(_OPTIONS)), max_size=2, unique=True)):
        options += [name, draw(_OPTIONS[name])]
    options += draw(
        st.sampled_from([[]] * 6 + [["--async"], ["--only-missing-outputs"], ["--nope"]])
    )
    for name, content in _CONFIGURATION.items():
        files[f"conf/other/{name}"] = content
    files["run.yml"] = draw(st.sampled_from(_RUN_FILES))
    if draw(st.booleans()):
        name = draw(
            st.sampled_from([*(f"conf/other/{file}" for file in _CONFIGURATION), "run.yml"])
        )
        content = files[name]
        assert isinstance(content, bytes)
        files[name] = draw(_damaged_yaml(content))
        options += ["--config=run.yml"] if name == "run.yml" else ["--env=other"]
    texts = NAMES.map(lambda text: text.replace("\0", "").encode("utf-8", "replace").decode())
    variables = draw(st.dictionaries(st.sampled_from(_VARIABLES), texts, max_size=1))
    options = [option.replace("\0", "") for option in options]  # a command line can't contain one
    return Input(" ".join(options)[:100], files, (options, variables))


def _run(item: Input, folder: Path) -> None:
    options, variables = item.value
    socket.getaddrinfo = refuse_names  # type: ignore[assignment]
    project = folder / "input"
    os.chdir(project)
    os.environ.pop("KEDRO_ENV", None)
    bootstrap_project(project)
    settings.set("DISABLE_HOOKS_FOR_PLUGINS", ("kedro-viz",))  # it writes to its own folder
    result = CliRunner().invoke(run, options, env=variables)
    if result.exception is None:
        return
    if not isinstance(result.exception, SystemExit):
        raise result.exception
    *_, last = result.stderr.splitlines() or [""]
    if not last.startswith("Error: "):
        raise WrongResultError(f"status {result.exit_code} and the last line {last[:200]!r}")
    raise click.ClickException(last)


KINDS = [Kind("commands/run", _commands(), _run, (click.ClickException,), share=40)]
