"""Experiment tracking: Kedro hooks that log each run to MLflow, if that extra is installed.

They need only MLflow's client (mlflow-skinny): MLflow 3.17, and therefore kedro-mlflow, requires an
older pyarrow than this project. Also, kedro-mlflow logs its own types of catalog entries only, and
a catalog with such entries can't be read without the extra.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import AbstractVersionedDataset, DataCatalog
from kedro.pipeline import Pipeline

from selfie_pipeline.atomic_write import atomic_write
from selfie_pipeline.config import UserError
from selfie_pipeline.locks import lock
from selfie_pipeline.project import starts_runs
from selfie_pipeline.provenance import describe_environment, flatten
from selfie_pipeline.training.signals import TrainingInterrupted
from selfie_pipeline.versions import is_outermost

_LOG = logging.getLogger(__name__)
_LOGGED_LAYERS = {"models", "reporting"}
"""Catalog layers that are logged as artifacts: weights, exports, metrics, tables and figures."""
_MAX_VALUE_CHARACTERS = 6000
"""MLflow's limit for the value of a parameter."""
_CLIENT_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that does not answer is given up after 2 × 8 s; MLflow would try for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
"""MLflow's environment variables, unless the user has set them; the first is read by the import."""
_OUTER_RUN = "SELFIE_MLFLOW_RUN"
"""Environment variable: the innermost run, for runs that it starts, also in other processes; empty
if it is not tracked."""


def tracking_hooks() -> tuple[MlflowHooks, ...]:
    """Return the hooks of this module, or none if MLflow is not installed."""
    return (MlflowHooks(),) if find_spec("mlflow") else ()


@dataclass
class _Run:
    """A run in progress."""

    catalog: DataCatalog
    outer: str | None
    """The value of _OUTER_RUN before it."""
    tracked: bool
    """False from the first failure on."""
    client: Any = None
    """MLflow's client, once the run is created in MLflow."""
    id: str = ""


class MlflowHooks:
    """Kedro hooks that log parameters, curves, metrics, figures and weights to MLflow.

    A background thread does all of it, in order, so that a run need not wait for MLflow's import
    or for a server before its first node. Its end waits for the thread.

    Runs that another run starts, such as the cells of an experiment, are its child runs. A failure
    here ends the tracking of all runs in progress with one warning, never the runs.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []  # innermost last
        self._thread = ThreadPoolExecutor(1, "mlflow")
        self._last: Future[None] | None = None  # the action that was submitted last

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the parameters of the run that may follow."""
        self._project = Path(context.project_path)
        self._parameters: Mapping[str, Any] = context.config_loader["parameters"]
        self._recipe = context.config_loader["globals"]["recipe"]

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Start a run and log its parameters, unless it is part of a run that is not tracked."""
        if is_outermost():
            self.on_interrupt()  # of an earlier run of this process, of which Kedro told no hook
        self._wait()  # for the run that this one is part of
        outer = os.environ.get(_OUTER_RUN)
        tracked = outer != "" and self._parameters["tracking"]["mlflow"] != "never"
        run = _Run(catalog, outer, tracked)
        self._runs.append(run)
        os.environ[_OUTER_RUN] = ""
        if not tracked:
            return
        warnings.filterwarnings("ignore", module="mlflow")  # which its own libraries deprecate
        self._submit(run, lambda: self._start(run, run_params))
        # Runs that this one starts, maybe in other processes, need its ID; and the import of MLflow
        # would slow down the steps that are timed for a budget.
        if starts_runs(pipeline) or self._parameters["budget"]:
            self._wait()

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log histories as curves, numbers as metrics and files as artifacts."""
        if self._runs:
            run = self._runs[-1]
            self._submit(run, lambda: _log_dataset(run, dataset_name, data))

    @hook_impl
    def after_pipeline_run(self) -> None:
        """End the run."""
        self._end("FINISHED")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """End the failed run, or that whose training was stopped."""
        self._end("KILLED" if isinstance(error, TrainingInterrupted) else "FAILED")

    def on_interrupt(self) -> None:
        """End all runs in progress; see `cli`."""
        while self._runs:
            self._end("KILLED")

    def _start(self, run: _Run, run_params: Mapping[str, Any]) -> None:
        client = _create_client(self._parameters["tracking"]["mlflow_uri"], self._project)
        from mlflow.entities import Param  # noqa: PLC0415  # an extra, and slow

        environment = describe_environment()
        tags = {
            "pipelines": ", ".join(run_params["pipeline_names"] or ["__default__"]),
            "mlflow.source.git.commit": environment["commit"],
            **{f"version.{name}": number for name, number in environment["versions"].items()},
            **({"mlflow.parentRunId": run.outer} if run.outer else {}),
        }
        experiment = self._ensure_experiment(client)
        created = client.create_run(experiment, run_name=run_params["run_id"], tags=tags)
        run.client, run.id = client, created.info.run_id
        values = [
            Param(key, str(value)[:_MAX_VALUE_CHARACTERS])
            for key, value in flatten(self._parameters)
            # Not known yet; the curves and the artifacts' provenance have them.
            if not (self._parameters["budget"] and key.endswith("steps"))
        ]
        client.log_batch(run.id, params=values)
        os.environ[_OUTER_RUN] = run.id
        _LOG.info("mlflow: run %s in %s", run.id, client.tracking_uri)

    def _ensure_experiment(self, client: Any) -> str:
        """Return the ID of the recipe's experiment, which is created if necessary."""
        experiment = client.get_experiment_by_name(self._recipe)
        if experiment is not None:
            return str(experiment.experiment_id)
        from mlflow import MlflowException  # noqa: PLC0415  # an extra, and slow

        local = client.tracking_uri.startswith("sqlite")
        artifacts = (self._project / "data" / "mlflow" / self._recipe).as_uri() if local else None
        try:
            return str(client.create_experiment(self._recipe, artifact_location=artifacts))
        except MlflowException:  # another run may have created it meanwhile
            experiment = client.get_experiment_by_name(self._recipe)
            if experiment is None:
                raise
            return str(experiment.experiment_id)

    def _end(self, status: str) -> None:
        run = self._runs.pop()
        self._submit(run, lambda: run.client.set_terminated(run.id, status))
        self._wait()
        os.environ.pop(_OUTER_RUN, None)
        if run.outer is not None:
            os.environ[_OUTER_RUN] = run.outer

    def _submit(self, run: _Run, action: Callable[[], Any]) -> None:
        """Run an action for a run in the background, after those before it."""
        self._last = self._thread.submit(self._try, run, action)

    def _wait(self) -> None:
        """Wait until all actions are done."""
        if self._last is not None:
            self._last.result()

    def _try(self, run: _Run, action: Callable[[], Any]) -> None:
        """Run an action; if it fails, log a warning and stop tracking the runs in progress."""
        if not run.tracked:
            return
        try:
            action()
        except Exception as error:
            _LOG.warning(
                "mlflow: this run is no longer tracked: %s; switch tracking off with "
                "--params tracking.mlflow=never",
                " ".join(str(error).split()),
            )
            # Runs that these start are not tracked either, nor others in a process for cells.
            for other in (run, *self._runs):
                other.tracked = False
                other.outer = None if other.outer is None else ""
            os.environ[_OUTER_RUN] = ""


def _create_client(uri: str | None, project: Path) -> Any:
    """Return MLflow's client of a server or file; by default, of an SQLite file in `data/`."""
    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient  # noqa: PLC0415  # an extra, and slow

    for name in ("alembic", "mlflow"):  # they log each table of a new file
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs, it raises
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of each attempt
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    uri = uri or _sqlite_uri(project / "data" / "mlflow.db")
    if uri.startswith("sqlite"):
        _ensure_database(uri)
    return MlflowClient(uri)


def _sqlite_uri(path: Path) -> str:
    """Return MLflow's URI of a file, in which special characters such as `%` are escaped."""
    from sqlalchemy import URL  # noqa: PLC0415  # an extra, and slow

    # With "sqlite" alone, MLflow would create the folder of the escaped path.
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string()


def _ensure_database(uri: str) -> None:
    """Create MLflow's SQLite file if there is none; a process that dies leaves none.

    Raises:
        UserError: The file can't be created or opened, which MLflow would try for two minutes.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415
    from sqlalchemy import make_url  # noqa: PLC0415  # extras, and slow

    name = make_url(uri).database
    if not name or name.startswith((":memory:", "file:")):
        return
    path = Path(name)
    if not path.exists():
        with lock(path, "mlflow"):
            if not path.exists():
                with atomic_write(path) as partial:  # for its tables are made one by one
                    partial_uri = _sqlite_uri(partial)
                    SqlAlchemyStore._engine_map.pop(partial_uri, None)  # of a failed attempt
                    SqlAlchemyStore(partial_uri, "mlruns").engine.dispose()
    try:
        sqlite3.connect(path).close()
    except sqlite3.Error as error:
        raise UserError(f"{path} can't be opened: {error}; move it away") from error


def _log_dataset(run: _Run, name: str, data: Any) -> None:
    if name.endswith("_history"):
        _log_curves(run, name.removesuffix("_history"), data.to_dict("records"))
    if isinstance(data, Mapping) and name.endswith(("_metrics", "_scores")):
        _log_numbers(run, name.removesuffix("_metrics"), data)
    dataset = run.catalog[name]
    layer = (getattr(dataset, "metadata", None) or {}).get("kedro-viz", {}).get("layer")
    if layer in _LOGGED_LAYERS and isinstance(dataset, AbstractVersionedDataset):
        version = dataset.resolve_save_version()
        path = Path(dataset._get_versioned_path(version) if version else dataset._filepath)
        log = run.client.log_artifacts if path.is_dir() else run.client.log_artifact
        log(run.id, str(path), f"{layer}/{name}")


def _log_curves(run: _Run, name: str, rows: list[dict[str, Any]]) -> None:
    """Log the rows of a history as one curve per column."""
    from mlflow.entities import Metric  # noqa: PLC0415  # an extra, and slow

    now_ms = int(1000 * time.time())
    points = [
        Metric(f"{name}/{key}", float(value), now_ms, int(row["step"]))
        for row in rows
        for key, value in row.items()
        if key != "step"
    ]
    run.client.log_batch(run.id, metrics=points)  # in requests of a size that MLflow allows


def _log_numbers(run: _Run, name: str, data: Mapping[str, Any]) -> None:
    """Log the numbers of a result; its provenance is part of the artifact."""
    excluded = {"provenance", "configuration", "seed"}
    for key, value in flatten({key: data[key] for key in data if key not in excluded}):
        if isinstance(value, Real) and not isinstance(value, bool):
            run.client.log_metric(run.id, f"{name}/{key}", float(value))
