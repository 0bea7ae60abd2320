"""What happens around a run: parameters and inputs are checked first, results are shown last.

Nothing heavy is imported here: a run that is refused must be refused at once.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shlex
import shutil
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline

from selfie_pipeline.config import UserError, load_config
from selfie_pipeline.plan import plan
from selfie_pipeline.project import Project
from selfie_pipeline.provenance import leaves

_LOG = logging.getLogger(__name__)


class ProjectHooks:
    """Kedro's hooks of this project."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters before anything else is done.

        Raises:
            UserError: The environment does not exist, or the engine is not installed.
            ConfigError: A parameter is unknown or not allowed.
        """
        loader = context.config_loader
        try:
            parameters = loader["parameters"]
        except MissingConfigException:
            conf = Path(loader.conf_source)
            known = ", ".join(sorted(path.name for path in conf.glob("*") if path.is_dir()))
            raise UserError(
                f"--env = {loader.env} is not an environment in {conf}; allowed: {known}"
            ) from None
        self._config = load_config(parameters)
        if self._config.compute.engine == "ray" and importlib.util.find_spec("ray") is None:
            raise UserError(
                "compute.engine = ray, but Ray is not installed; install it with "
                "`pip install 'selfie-pipeline[ray]'`"
            )
        params = context._runtime_params or {}  # Kedro tells no other way
        self._project = Project(Path(context.project_path), context.env, params)

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Give the catalog the project itself, for nodes that run other pipelines."""
        catalog["project"] = MemoryDataset(self._project, copy_mode="assign")

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Check that what the first nodes read is there, then say what the run will do.

        Raises:
            UserError: It is not; the message names it and the command that makes it. Or the run
                would replace another recipe's encoder, or asks for a device that is not there.
        """
        pretrained_on = (run_params["runtime_params"] or {}).get("pretrained_on")
        if pretrained_on and "encoder" in pipeline.all_outputs():
            raise UserError(
                f"pretrained_on = {pretrained_on} names whose encoder is finetuned, and this run "
                "pretrains one of its own: leave it out, or run "
                "--pipelines=finetune,baseline,report"
            )
        for name in sorted(pipeline.inputs()):
            if catalog.exists(name) or (maker := _maker(name, catalog)) is None:
                continue
            versions = _versions(catalog, name)
            if versions and name in run_params["load_versions"]:
                raise UserError(
                    f"--load-versions = {name}:{run_params['load_versions'][name]} does not "
                    f"exist; allowed: {', '.join(versions)}"
                )
            if name == "encoder" and pretrained_on:
                raise UserError(
                    f"pretrained_on = {pretrained_on}, but that recipe has no encoder; allowed: a "
                    "recipe whose pipelines ingest, patch and pretrain have been run"
                )
            command = _command(maker, run_params)
            raise UserError(f"{name} is not there yet; make it with `{command}`")
        for line in plan(self._config, pipeline.all_outputs()):
            _LOG.info("%s", line)

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Tidy up after trainings; show the results table and where the report lies."""
        for name in pipeline.inputs():
            if name.endswith("_checkpoints"):  # the catalog holds what came of them
                shutil.rmtree(catalog.load(name), ignore_errors=True)
        if "report" not in pipeline.all_outputs():
            return
        report = catalog["report"]
        assert isinstance(report, AbstractVersionedDataset)  # noqa: S101
        from selfie_pipeline.report.text import summary  # noqa: PLC0415  # pandas, scipy

        print(f"\n{summary(catalog.load('results_table'))}\n")  # noqa: T201
        print(f"Report: {report.list_versions()[0]}")  # noqa: T201


def _maker(name: str, catalog: DataCatalog) -> str | None:
    """The stage that makes a data set; none makes a parameter or what lies outside."""
    if name == "chosen_classifier":  # one of the arms', under another name
        name = f"{catalog.load('params:predict.arm')}_classifier"
    stages = (key for key in pipelines if key != "__default__")
    return next((key for key in stages if name in pipelines[key].all_outputs()), None)


def _versions(catalog: DataCatalog, name: str) -> list[str]:
    """Those of a data set that there are, newest first."""
    dataset = catalog[name]
    if not isinstance(dataset, AbstractVersionedDataset):
        return []
    return dataset.list_versions(full_path=False)


def _command(stage: str, run_params: dict[str, Any]) -> str:
    """The command that runs a stage under the options of this run."""
    command = f"kedro run --pipeline={stage}"
    if run_params["env"]:
        command += f" --env={run_params['env']}"
    if run_params["runtime_params"]:
        settings = [f"{key}={_typed(value)}" for key, value in leaves(run_params["runtime_params"])]
        command += f" --params {shlex.quote(','.join(settings))}"
    return command


def _typed(value: Any) -> str:
    """A parameter's value as one types it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
