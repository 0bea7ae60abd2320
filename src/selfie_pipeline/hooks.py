"""What happens around a run: parameters and inputs are checked first, results are shown last.

Nothing heavy is imported here: a run that is refused must be refused at once.
"""

from __future__ import annotations

import shutil
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, DataCatalog
from kedro.pipeline import Pipeline

from selfie_pipeline.config import UserError, load_config


class ProjectHooks:
    """Kedro's hooks of this project."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters before anything else is done.

        Raises:
            ConfigError: One is unknown or not allowed.
        """
        load_config(context.config_loader["parameters"])

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Check that what the first nodes read is there.

        Raises:
            UserError: It is not; the message names it and the command that makes it.
        """
        for name in sorted(pipeline.inputs()):
            maker = _maker(name)
            if maker and not catalog.exists(name):
                command = _command(maker, run_params)
                raise UserError(f"{name} is not there yet; make it with `{command}`")

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
        from selfie_pipeline.evaluation.wording import summary  # noqa: PLC0415  # pandas, scipy

        print(f"\n{summary(catalog.load('results_table'))}\n")  # noqa: T201
        print(f"Report: {report.list_versions()[0]}")  # noqa: T201


def _maker(name: str) -> str | None:
    """The stage that makes a data set; none makes a parameter or what lies outside."""
    stages = (key for key in pipelines if key != "__default__")
    return next((key for key in stages if name in pipelines[key].all_outputs()), None)


def _command(stage: str, run_params: dict[str, Any]) -> str:
    """The command that runs a stage under the options of this run."""
    command = f"kedro run --pipeline={stage}"
    if run_params["env"]:
        command += f" --env={run_params['env']}"
    if run_params["runtime_params"]:
        settings = ",".join(f"{key}={value}" for key, value in _flat(run_params["runtime_params"]))
        command += f" --params {settings}"
    return command


def _flat(params: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Nested parameters as --params has them."""
    found = []
    for key, value in params.items():
        nested = isinstance(value, dict)
        found += _flat(value, f"{above}{key}.") if nested else [(above + key, value)]
    return found
