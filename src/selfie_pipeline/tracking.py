"""MLflow: every run of the project as a run there, where the extra is installed.

It is MLflow's client alone (mlflow-skinny): the whole of MLflow 3.17, and with it kedro-mlflow,
wants an older pyarrow than this project has. And kedro-mlflow logs what catalog entries of its own
types save; a catalog with such entries can't be read without the extra.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import AbstractVersionedDataset, DataCatalog

from selfie_pipeline.provenance import environment, leaves

_LOG = logging.getLogger(__name__)
_KEPT_LAYERS = {"models", "reporting"}
"""Of the catalog: weights and exports; metrics, tables, figures and the report."""
_LONGEST_VALUE = 6000
"""Characters of a parameter, MLflow's limit."""


def tracking_hooks() -> tuple[MlflowHooks, ...]:
    """The hooks of this module; none where MLflow is not installed."""
    return (MlflowHooks(),) if find_spec("mlflow") else ()


@dataclass
class _Run:
    """A run that is under way."""

    client: Any
    id: str
    catalog: DataCatalog


class MlflowHooks:
    """Logs parameters, curves, metrics, the report, its figures and the weights as they are saved.

    A run within a run, such as the cells of an experiment, is one of its children. What goes wrong
    here ends the tracking of the run with a warning, never the run.
    """

    def __init__(self) -> None:
        self._runs: list[_Run | None] = []  # the inner ones last; None for one that is not tracked

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the parameters of the run that may follow."""
        self._project = Path(context.project_path)
        self._parameters: Mapping[str, Any] = context.config_loader["parameters"]
        self._recipe = context.config_loader["globals"]["recipe"]

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: DataCatalog) -> None:
        """Start a run, and log its parameters."""
        self._runs.append(None)
        if self._parameters["tracking"]["mlflow"] != "never":
            self._guarded(lambda: self._start(run_params, catalog))

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log a data set: a history as curves, numbers as metrics, files as artifacts."""
        run = self._runs[-1] if self._runs else None
        if run is not None:
            self._guarded(lambda: _log_dataset(run, dataset_name, data))

    @hook_impl
    def after_pipeline_run(self) -> None:
        """End the run."""
        self._end("FINISHED")

    @hook_impl
    def on_pipeline_error(self) -> None:
        """End the run that failed."""
        self._end("FAILED")

    def _start(self, run_params: Mapping[str, Any], catalog: DataCatalog) -> None:
        client = _client(self._parameters["tracking"]["mlflow_uri"], self._project)
        experiment = client.get_experiment_by_name(self._recipe)
        if experiment is None:
            artifacts = self._project / "data" / "mlflow" / self._recipe
            local = client.tracking_uri.startswith("sqlite:")
            identifier = client.create_experiment(
                self._recipe, artifact_location=artifacts.as_uri() if local else None
            )
        else:
            identifier = experiment.experiment_id
        made_with = environment()
        outer = next((run for run in reversed(self._runs) if run is not None), None)
        tags = {
            "pipelines": ", ".join(run_params["pipeline_names"] or ["__default__"]),
            "mlflow.source.git.commit": made_with["commit"],
            **{f"version.{name}": number for name, number in made_with["versions"].items()},
            **({"mlflow.parentRunId": outer.id} if outer else {}),
        }
        started = client.create_run(identifier, run_name=run_params["run_id"], tags=tags)
        self._runs[-1] = run = _Run(client, started.info.run_id, catalog)
        from mlflow.entities import Param  # noqa: PLC0415  # an extra, and slow

        values = [
            Param(key, str(value)[:_LONGEST_VALUE]) for key, value in leaves(self._parameters)
        ]
        run.client.log_batch(run.id, params=values)
        _LOG.info("mlflow: run %s in %s", run.id, client.tracking_uri)

    def _end(self, status: str) -> None:
        run = self._runs.pop() if self._runs else None
        if run is not None:
            # The run is no longer on the list: a failure has nothing left to stop.
            self._guarded(lambda: run.client.set_terminated(run.id, status))

    def _guarded(self, action: Callable[[], Any]) -> None:
        try:
            with _quiet():
                action()
        except Exception as error:
            _LOG.warning(
                "mlflow: this run is not tracked any further: %s; leave it out with "
                "--params tracking.mlflow=never",
                " ".join(str(error).split()),
            )
            if self._runs:
                self._runs[-1] = None


def _client(uri: str | None, project: Path) -> Any:
    """MLflow's client of the server or file asked for; of an SQLite file in `data/` otherwise."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import, which reads it
    from mlflow import MlflowClient  # noqa: PLC0415  # an extra, and slow

    for name in ("alembic", "mlflow"):  # each table that a new file gets
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    return MlflowClient(uri or f"sqlite:///{project / 'data' / 'mlflow.db'}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's dependencies from warning about MLflow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _log_dataset(run: _Run, name: str, data: Any) -> None:
    if name.endswith("_history"):
        _log_curves(run, name.removesuffix("_history"), data.to_dict("records"))
    if isinstance(data, Mapping) and name.endswith(("_metrics", "_scores")):
        _log_numbers(run, name.removesuffix("_metrics"), data)
    dataset = run.catalog[name]
    layer = (getattr(dataset, "metadata", None) or {}).get("kedro-viz", {}).get("layer")
    if layer in _KEPT_LAYERS and isinstance(dataset, AbstractVersionedDataset):
        version = dataset.resolve_save_version()
        path = Path(dataset._get_versioned_path(version) if version else dataset._filepath)
        log = run.client.log_artifacts if path.is_dir() else run.client.log_artifact
        log(run.id, str(path), f"{layer}/{name}")


def _log_curves(run: _Run, name: str, rows: list[dict[str, Any]]) -> None:
    """The rows of a history, as they are."""
    from mlflow.entities import Metric  # noqa: PLC0415  # an extra, and slow

    now = int(1000 * time.time())
    points = [
        Metric(f"{name}/{key}", float(value), now, int(row["step"]))
        for row in rows
        for key, value in row.items()
        if key != "step"
    ]
    for first in range(0, len(points), 1000):  # MLflow's limit
        run.client.log_batch(run.id, metrics=points[first : first + 1000])


def _log_numbers(run: _Run, name: str, data: Mapping[str, Any]) -> None:
    """The numbers of a result; what it follows from is in the artifact beside."""
    without = {"provenance", "configuration", "seed"}
    for key, value in leaves({key: data[key] for key in data if key not in without}):
        if isinstance(value, Real) and not isinstance(value, bool):
            run.client.log_metric(run.id, f"{name}/{key}", float(value))
