from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.io.core import Version
from kedro.pipeline import Pipeline, node

from selfie_pipeline import tracking
from selfie_pipeline.datasets.folder import FolderDataset
from selfie_pipeline.datasets.text import AtomicTextDataset
from selfie_pipeline.tracking import MlflowHooks, tracking_hooks
from selfie_pipeline.training.signals import TrainingInterrupted
from selfie_pipeline.versions import RunVersions, outer_versions

# MLflow keeps SQLAlchemy's connections open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
VERSION = "2026-01-01T00.00.00.000Z"
RUN: dict[str, Any] = {"run_id": VERSION, "pipeline_names": ["pretrain", "report"]}
SINGLE = Pipeline([])
STARTS_RUNS = Pipeline([node(len, "project", "count")])
HISTORY = pd.DataFrame(
    {"step": [2, 4], "loss": [1.5, 1.25], "accuracy": [0.25, 0.5], "learning_rate": [0.1, 0.05]}
)
METRICS = {"arm": "selfie", "seed": 0, "accuracy": 0.75, "provenance": {"labels": 5}}


@pytest.fixture
def inside() -> Iterator[None]:
    """Be in a node that starts runs, for the second run of the test."""
    token = outer_versions.set(RunVersions(saved=(VERSION,)))
    yield
    outer_versions.reset(token)


def in_layer(name: str) -> dict[str, Any]:
    return {"kedro-viz": {"layer": name}}


@pytest.fixture
def catalog(tmp_path: Path) -> DataCatalog:
    def location(name: str) -> dict[str, Any]:
        return {"filepath": str(tmp_path / name), "version": Version(None, VERSION)}

    return DataCatalog(
        {
            "report": AtomicTextDataset(**location("report.html"), metadata=in_layer("reporting")),
            "exported": FolderDataset(**location("exported"), metadata=in_layer("models")),
            "note": AtomicTextDataset(**location("note.txt"), metadata=in_layer("intermediate")),
            "pretrain_history": MemoryDataset(),
            "selfie_metrics": MemoryDataset(),
        }
    )


@pytest.fixture
def hooks(
    tmp_path: Path,
    make_parameters: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """Return a factory of hooks in an empty project, with changes to its parameters."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv(tracking._OUTER_RUN, "")  # restored after the test
    monkeypatch.delenv(tracking._OUTER_RUN)
    (tmp_path / "data").mkdir()

    def make(hooks: MlflowHooks | None = None, **changes: Any) -> MlflowHooks:
        hooks = hooks or MlflowHooks()
        parameters = make_parameters({"tracking.mlflow": "auto"} | changes)
        context: Any = SimpleNamespace(
            project_path=tmp_path,
            config_loader={"parameters": parameters, "globals": {"recipe": "digits"}},
        )
        hooks.after_context_created(context)
        return hooks

    return make


def find_runs(folder: Path) -> list[Any]:
    """Return all tracked runs, latest first."""
    from mlflow import MlflowClient  # noqa: PLC0415

    client = MlflowClient(f"sqlite:///{folder / 'data' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits")
    return list(client.search_runs([experiment.experiment_id]))


def test_a_run_is_tracked_with_everything(
    tmp_path: Path, hooks: Callable[..., MlflowHooks], catalog: DataCatalog
) -> None:
    from mlflow import MlflowClient  # noqa: PLC0415

    hook = hooks()
    hook.before_pipeline_run(RUN, SINGLE, catalog)
    catalog["report"].save("<html>")
    catalog["exported"].save({"a.txt": b"a", "b.txt": b"b"})
    catalog["note"].save("note")
    for name, data in (
        ("pretrain_history", HISTORY),
        ("selfie_metrics", METRICS),
        ("report", "<html>"),
        ("exported", {}),
        ("note", "note"),
    ):
        hook.after_dataset_saved(name, data)
    hook.after_pipeline_run()

    (run,) = find_runs(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'data' / 'mlflow.db'}")
    points = client.get_metric_history(run.info.run_id, "pretrain/loss")
    files = {path.name for path in Path(tmp_path, "data", "mlflow").rglob("*") if path.is_file()}
    assert run.info.status == "FINISHED"
    assert run.info.run_name == VERSION
    assert run.data.params["pretrain.steps"] == str(hook._parameters["pretrain"]["steps"])
    assert run.data.tags["pipelines"] == "pretrain, report"
    assert [(point.step, point.value) for point in points] == [(2, 1.5), (4, 1.25)]
    assert run.data.metrics["selfie/accuracy"] == 0.75
    assert "selfie/seed" not in run.data.metrics
    assert files == {"report.html", "a.txt", "b.txt"}


def test_a_run_does_not_wait_for_mlflow_before_its_end(
    tmp_path: Path,
    hooks: Callable[..., MlflowHooks],
    catalog: DataCatalog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = threading.Event()

    def create_client_late(uri: str | None, project: Path) -> Any:
        assert begun.wait(60)
        return create_client(uri, project)

    create_client = tracking._create_client
    monkeypatch.setattr(tracking, "_create_client", create_client_late)
    hook = hooks()
    hook.before_pipeline_run(RUN, SINGLE, catalog)
    hook.after_dataset_saved("selfie_metrics", METRICS)
    begun.set()
    hook.after_pipeline_run()

    (run,) = find_runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["selfie/accuracy"] == 0.75


@pytest.mark.parametrize(("pipeline", "budget"), [(STARTS_RUNS, None), (SINGLE, "30min")])
def test_a_run_waits_for_mlflow_if_it_starts_runs_or_times_steps(
    pipeline: Pipeline,
    budget: str | None,
    tmp_path: Path,
    hooks: Callable[..., MlflowHooks],
    catalog: DataCatalog,
) -> None:
    hook = hooks(budget=budget)
    hook.before_pipeline_run(RUN, pipeline, catalog)
    told = os.environ[tracking._OUTER_RUN]  # to runs in other processes
    hook.after_pipeline_run()

    (run,) = find_runs(tmp_path)
    assert told == run.info.run_id
    assert tracking._OUTER_RUN not in os.environ


@pytest.mark.usefixtures("inside")
def test_a_run_within_a_run_is_its_child(
    tmp_path: Path, hooks: Callable[..., MlflowHooks], catalog: DataCatalog
) -> None:
    hook = hooks()
    hook.before_pipeline_run(RUN, SINGLE, catalog)
    hooks(hook).before_pipeline_run(RUN | {"run_id": "inner"}, SINGLE, catalog)
    hook.on_pipeline_error(ValueError())
    hook.after_dataset_saved("selfie_metrics", METRICS)
    hook.after_pipeline_run()

    kept = {run.info.run_name: run for run in find_runs(tmp_path)}
    inner, outer = kept["inner"], kept[VERSION]
    assert inner.data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert (inner.info.status, outer.info.status) == ("FAILED", "FINISHED")
    assert "selfie/accuracy" in outer.data.metrics


@pytest.mark.usefixtures("inside")
def test_an_interruption_ends_all_runs_in_progress(
    tmp_path: Path, hooks: Callable[..., MlflowHooks], catalog: DataCatalog
) -> None:
    hook = hooks()
    hook.before_pipeline_run(RUN, SINGLE, catalog)
    hooks(hook).before_pipeline_run(RUN | {"run_id": "inner"}, SINGLE, catalog)

    hook.on_interrupt()

    assert [run.info.status for run in find_runs(tmp_path)] == ["KILLED", "KILLED"]
    assert tracking._OUTER_RUN not in os.environ


@pytest.mark.parametrize("mlflow", ["auto", "never"])
def test_a_run_after_an_interrupted_one_of_the_same_process_is_not_part_of_it(
    tmp_path: Path, hooks: Callable[..., MlflowHooks], catalog: DataCatalog, mlflow: str
) -> None:
    """Kedro tells no hook of Ctrl-C in a notebook."""
    hook = hooks(**{"tracking.mlflow": mlflow})
    hook.before_pipeline_run(RUN, SINGLE, catalog)

    hooks(hook).before_pipeline_run(RUN | {"run_id": "second"}, SINGLE, catalog)
    hook.after_pipeline_run()

    runs = {run.info.run_name: run for run in find_runs(tmp_path)}
    assert runs["second"].info.status == "FINISHED"
    assert "mlflow.parentRunId" not in runs["second"].data.tags
    assert [run.info.status for name, run in runs.items() if name != "second"] == (
        ["KILLED"] if mlflow == "auto" else []
    )


def test_nothing_is_tracked_if_tracking_is_switched_off(
    tmp_path: Path, hooks: Callable[..., MlflowHooks], catalog: DataCatalog
) -> None:
    hook = hooks(**{"tracking.mlflow": "never"})
    hook.before_pipeline_run(RUN, SINGLE, catalog)
    hook.after_dataset_saved("selfie_metrics", METRICS)
    hook.after_pipeline_run()

    assert list((tmp_path / "data").iterdir()) == []


def test_a_failure_to_track_does_not_end_the_run(
    tmp_path: Path,
    hooks: Callable[..., MlflowHooks],
    catalog: DataCatalog,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    hook = hooks(**{"tracking.mlflow_uri": f"sqlite:///{tmp_path}/file/mlflow.db"})
    hook.before_pipeline_run(RUN, SINGLE, catalog)
    hook.after_dataset_saved("selfie_metrics", METRICS)
    hook.after_pipeline_run()

    ours = [record for record in caplog.records if record.name == tracking.__name__]
    assert [record.levelno for record in ours] == [logging.WARNING]
    assert "this run is no longer tracked" in ours[0].getMessage()


def create_client(folder: Path) -> Any:
    """Return MLflow's client of the default file."""
    pytest.importorskip("mlflow")
    return tracking._create_client(None, folder)


def test_a_file_that_was_not_completed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have some of the tables, and MLflow would try to create them again."""
    import mlflow.store.db.utils  # noqa: PLC0415

    def end(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.store.db.utils, "_upgrade_db", end)
        with pytest.raises(KeyboardInterrupt):
            create_client(tmp_path)

    assert list((tmp_path / "data").iterdir()) == []
    assert create_client(tmp_path).get_experiment("0").name == "Default"


def test_two_first_runs_at_once_have_one_file_and_one_experiment(
    tmp_path: Path, hooks: Callable[..., MlflowHooks]
) -> None:
    def ensure_experiment(hook: MlflowHooks) -> str:
        return hook._ensure_experiment(create_client(tmp_path))

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(ensure_experiment, [hooks(), hooks()])

    assert first == second


def test_an_experiment_that_another_run_creates_meanwhile_is_used(
    tmp_path: Path, hooks: Callable[..., MlflowHooks], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = create_client(tmp_path)
    found = [client.get_experiment_by_name("digits")]
    created = hooks()._ensure_experiment(client)

    look_up = client.get_experiment_by_name
    monkeypatch.setattr(
        client, "get_experiment_by_name", lambda name: found.pop() if found else look_up(name)
    )

    assert hooks()._ensure_experiment(client) == created


@pytest.mark.parametrize("uri", [None, "sqlite:///{}"])
def test_a_file_that_cannot_be_opened_is_given_up_at_once(
    uri: str | None,
    tmp_path: Path,
    hooks: Callable[..., MlflowHooks],
    catalog: DataCatalog,
    caplog: pytest.LogCaptureFixture,
    mlflow_environment: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "data" / "mlflow.db"
    file.mkdir()
    hook = hooks(**{"tracking.mlflow_uri": uri and uri.format(file)})
    import mlflow.store.db.utils  # noqa: PLC0415

    mlflow_environment.setattr(mlflow.store.db.utils, "MAX_RETRY_COUNT", 2)  # not 100 s
    hook.before_pipeline_run(RUN, SINGLE, catalog)
    hook.after_pipeline_run()

    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.getMessage() == (
        f"mlflow: this run is no longer tracked: {file} can't be opened: unable to open database "
        "file; move it away; switch tracking off with --params tracking.mlflow=never"
    )


def test_the_project_may_have_any_name(tmp_path: Path) -> None:
    project = tmp_path / "feature%2Fx %20? #1 é"

    assert create_client(project).get_experiment("0").name == "Default"
    assert list(tmp_path.iterdir()) == [project]
    assert list((project / "data").iterdir()) == [project / "data" / "mlflow.db"]


def test_a_run_whose_training_a_signal_stopped_is_killed(
    tmp_path: Path, hooks: Callable[..., MlflowHooks], catalog: DataCatalog
) -> None:
    hook = hooks()
    hook.before_pipeline_run(RUN, SINGLE, catalog)
    hook.on_pipeline_error(TrainingInterrupted("stopped", signal.SIGTERM))

    (run,) = find_runs(tmp_path)
    assert run.info.status == "KILLED"


Address = tuple[str, int]


@pytest.fixture
def silent_server() -> Iterator[Address]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@pytest.fixture
def refused_address() -> Address:
    """An address at which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address: Address = server.getsockname()
    return address


@pytest.fixture
def mlflow_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """MLflow's environment variables as the user has them, none; they are restored afterwards."""
    for name in tracking._CLIENT_DEFAULTS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def run_three_within_one(hooks: Callable[..., MlflowHooks], catalog: DataCatalog, uri: str) -> None:
    hook = hooks(**{"tracking.mlflow_uri": uri})
    hook.before_pipeline_run(RUN, SINGLE, catalog)
    for _ in range(3):
        hook.before_pipeline_run(RUN, SINGLE, catalog)
        hook.after_dataset_saved("selfie_metrics", METRICS)
        hook.after_pipeline_run()
    hook.after_pipeline_run()


@pytest.mark.parametrize(
    ("server", "timeout_s"),
    [
        ("silent_server", "1"),
        ("refused_address", None),
        pytest.param("silent_server", None, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("inside")
def test_a_server_that_does_not_answer_is_given_up_once(
    server: str,
    timeout_s: str | None,
    hooks: Callable[..., MlflowHooks],
    catalog: DataCatalog,
    caplog: pytest.LogCaptureFixture,
    mlflow_environment: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    host, port = request.getfixturevalue(server)
    if timeout_s:
        mlflow_environment.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", timeout_s)
    import mlflow  # noqa: F401, PLC0415  # its import takes seconds, which are not the server's

    started = time.monotonic()
    run_three_within_one(hooks, catalog, f"http://{host}:{port}")

    assert time.monotonic() - started < 20
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.getMessage().startswith("mlflow: this run is no longer tracked: API request to")


@pytest.mark.usefixtures("inside")
def test_tracking_that_fails_later_is_given_up_once(
    hooks: Callable[..., MlflowHooks],
    catalog: DataCatalog,
    caplog: pytest.LogCaptureFixture,
    mlflow_environment: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    hook = hooks()
    hook.before_pipeline_run(RUN, SINGLE, catalog)
    hook._wait()  # or the file below may be there first, and be taken for an empty one
    (tmp_path / "data" / "mlflow.db").write_bytes(b"no database")
    for _ in range(3):
        hook.before_pipeline_run(RUN, SINGLE, catalog)
        hook.after_dataset_saved("selfie_metrics", METRICS)
        hook.after_pipeline_run()
    hook.after_pipeline_run()

    warnings = [record.name for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [tracking.__name__]


def test_without_mlflow_there_are_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)

    assert tracking_hooks() == ()


def test_mlflow_is_not_imported_before_a_run_begins() -> None:
    code = "import sys, selfie_pipeline.settings; print('mlflow' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
    assert importlib.util.find_spec("mlflow") is None or len(tracking_hooks()) == 1
