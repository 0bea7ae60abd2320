"""Kedro hooks around each run: checks of parameters and inputs before it, its results after it.

Slow imports are deferred so that an impossible run is refused at once.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import AbstractVersionedDataset, DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline

from selfie_pipeline.config import Config, UserError, load_config
from selfie_pipeline.config_loader import configure_logging
from selfie_pipeline.extras import require_extra
from selfie_pipeline.input_check import (
    check_encoder_is_not_replaced,
    check_inputs_exist,
    check_versions_are_loaded,
    check_versions_belong,
    drop_complete_nodes,
)
from selfie_pipeline.project import Project, project_path, starts_runs
from selfie_pipeline.provenance import DATA_PARAMETERS, describe_environment, flatten
from selfie_pipeline.run_budget import find_budget, find_start, plan_run
from selfie_pipeline.run_summary import summarise_run
from selfie_pipeline.versions import is_outermost, pin_versions, release_claims, versioned_entries

_LOG = logging.getLogger(__name__)


class ProjectHooks:
    """Kedro hooks that check a run's parameters and inputs and show its results."""

    def __init__(self) -> None:
        # Of the runs in progress, innermost last: what each may save.
        self._claimed: list[Collection[AbstractVersionedDataset[Any, Any]]] = []

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters before anything else is done.

        Raises:
            UserError: The configuration can't be read, a parameter is unknown or not allowed, or
                the engine is not installed.
        """
        self._config = load_config(context.config_loader["parameters"])
        if self._config.compute.engine == "ray":
            require_extra("ray", "compute.engine = ray needs Ray", "ray")
        params = context.config_loader.runtime_params
        _check_paths_fit(self._config, params, context.config_loader["globals"])
        conf_source = str(context.config_loader.conf_source)
        project_path.set(Path(context.project_path))
        self._project = Project(Path(context.project_path), context.env, params, conf_source)

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Configure the log, check that the inputs exist, fix all versions, and log the run's plan.

        Raises:
            UserError: An input does not exist; the message names it and the command that creates
                it. Or the run would load another version of what it saves, replace another
                recipe's encoder, have too few labels, or requires a device or an extra that is
                missing here.
        """
        if run_params["only_missing_outputs"]:
            pipeline = drop_complete_nodes(pipeline, catalog)
        configure_logging(Path(self._project.conf_source or "", "logging.yml"))
        for name in ("kedro.runner.sequential_runner", "kedro.io.data_catalog"):
            logging.getLogger(name).addFilter(self._is_applicable)
        self._has_inner_runs = starts_runs(pipeline) or not is_outermost()
        if is_outermost():
            self.on_interrupt()  # of an earlier run of this process, of which Kedro told no hook
        if "best_settings" in pipeline.all_outputs():
            require_extra("optuna", "the tuning needs Optuna", "tune")
        self._budget = find_budget(self._config, self._project.params)
        self._started_s = find_start(run_params["run_id"])
        describe_environment()  # kept for the results: a later commit is not that of this code
        self._run, self._pipeline, self._catalog = run_params, pipeline, catalog
        check_encoder_is_not_replaced(run_params, pipeline)
        if "params:ratio" in pipeline.inputs() and self._config.pretrain.images is not None:
            raise UserError(
                f"pretrain.images = {self._config.pretrain.images}, but ratio pretrains on the "
                "numbers of images in ratio.images; leave it out"
            )
        check_versions_are_loaded(run_params, pipeline, catalog)
        if "encoder" in pipeline.inputs() and not self._uses_encoder(pipeline):
            catalog["encoder"] = MemoryDataset(None)  # Kedro loads all inputs of a node
        check_inputs_exist(run_params, pipeline, catalog, self._config)
        # The runs that it starts may use any entry.
        used = catalog.keys() if starts_runs(pipeline) else pipeline.datasets()
        versions = pin_versions(catalog, used, pipeline.all_outputs(), run_params["run_id"])
        self._claimed.append(versioned_entries(pipeline.all_outputs(), catalog).values())
        loads = {
            name: versions.chosen.get(str(entry._filepath))
            for name, entry in versioned_entries(pipeline.inputs(), catalog).items()
        }
        try:
            check_versions_belong(loads, catalog)
            if "usable_samples" not in pipeline.all_outputs() and catalog.exists("usable_samples"):
                self._check_samples(lambda: catalog.load("usable_samples"))
        except BaseException:
            self._release_claims()
            raise
        for line in summarise_run(self._config, pipeline.all_outputs(), self._budget):
            _LOG.info("%s", line)
        _LOG.info(
            "versions: saves %s; loads %s%s",
            versions.saved[0],
            ", ".join(f"{name} {load}" for name, load in loads.items() if load) or "none",
            _describe_kept(self._claimed[-1]),
        )
        # For nodes that run other pipelines.
        project = replace(self._project, versions=versions)
        catalog["project"] = MemoryDataset(project, copy_mode="assign")

    def _uses_encoder(self, pipeline: Pipeline) -> bool:
        """Return whether a node, or an arm of the experiment, uses the encoder."""
        users = {node.name for node in pipeline.nodes if "encoder" in node.inputs}
        arms = {"selfie", "weights_selfie"}.intersection(self._config.experiment.arms)
        return bool(arms) or not users <= {"run_experiment", "tune_finetuning"}

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Check the labels as soon as the samples are known, and set the steps to a time budget.

        Raises:
            UserError: There are too few labels for a training of the run, or the budget is too
                short.
        """
        if dataset_name == "usable_samples":
            self._check_samples(lambda: data)

    def _check_samples(self, load_samples: Callable[[], Any]) -> None:
        """Check the samples if the run trains on them; set the steps if it has a time budget."""
        from selfie_pipeline.label_check import (  # noqa: PLC0415  # pandas
            TRAINED_ON_LABELS,
            check_labels,
            check_labels_are_current,
        )
        from selfie_pipeline.training.lineage import excludes_test_split  # noqa: PLC0415  # pandas

        pipeline, catalog = self._pipeline, self._catalog
        parameters = {name for name in pipeline.inputs() if name.startswith("params:")}
        entries = parameters | pipeline.all_outputs()
        if {"encoder", *TRAINED_ON_LABELS}.isdisjoint(entries):
            return
        samples = load_samples()
        self._check_data_parameters(samples.attrs.get(DATA_PARAMETERS, {}))
        chosen = {"samples", "usable_samples"} & (self._run["load_versions"] or {}).keys()
        if is_outermost() and not chosen and not TRAINED_ON_LABELS.isdisjoint(entries):
            check_labels_are_current(samples, catalog, pipeline.all_outputs())
        check_labels(samples, self._config, entries)
        if (
            "encoder" in pipeline.inputs()
            and is_outermost()
            and (encoder := catalog.load("encoder")) is not None
            and excludes_test_split(encoder, samples) is False
        ):
            _LOG.warning(
                "the encoder was pretrained before the test split or what is dropped changed, so "
                "its pretraining may have had test images: run `kedro run --pipeline=pretrain`"
            )
        if self._budget:
            self._set_steps(
                plan_run(self._config, self._run, pipeline, catalog, samples, self._started_s)
            )

    def _check_data_parameters(self, stored: Mapping[str, Any]) -> None:
        """Refuse parameters of the data, given with `--params`, that are not the stored images'."""
        now = self._config.data.model_dump(mode="json")
        for name in self._project.params.get("data", {}).keys() - {"name", "max_unreadable"}:
            if name in stored and now[name] != stored[name]:
                given, used = (json.dumps(value).strip('"') for value in (now[name], stored[name]))
                raise UserError(
                    f"data.{name} = {given}, but the stored images were made with {used}; run "
                    "`kedro run --pipelines=ingest,patch` with it first, or leave it out"
                )

    def _set_steps(self, plan: Mapping[str, Mapping[str, int]]) -> None:
        """Replace parameters of trainings, in this run and in those that its nodes start."""
        self._budget = None
        recipes = {kind: getattr(self._config, kind).model_copy(update=plan[kind]) for kind in plan}
        self._config = self._config.model_copy(update=recipes)
        for kind, recipe in recipes.items():
            self._catalog[f"params:{kind}"].save(recipe)
        self._project = self._project.with_params(plan)
        if "project" in self._catalog:  # or it is added later
            self._catalog["project"].save(self._catalog.load("project").with_params(plan))

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Remove the folders of versions that were not saved."""
        self._release_claims()

    def on_interrupt(self) -> None:
        """Remove them for all runs in progress; see `cli`."""
        while self._claimed:
            self._release_claims()

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Delete the run's checkpoints; print the results table and the path of the report."""
        self._release_claims()
        for name in pipeline.inputs():
            if name.endswith("_checkpoints"):  # their results are in the catalog
                from selfie_pipeline.training.checkpoints import (  # noqa: PLC0415  # torch
                    remove_completed,
                )

                remove_completed(catalog.load(name))
        if "report" not in pipeline.all_outputs():
            return
        report = catalog["report"]
        assert isinstance(report, AbstractVersionedDataset)  # noqa: S101
        from selfie_pipeline.report.text import terminal_table  # noqa: PLC0415  # pandas, scipy

        width = shutil.get_terminal_size((100, 24)).columns
        table = terminal_table(catalog.load("results_table"), width)
        with suppress(OSError):  # the terminal may be gone
            print(f"\n{table}\n\nReport: {report._get_load_path()}", flush=True)  # noqa: T201

    def _is_applicable(self, record: logging.LogRecord) -> bool:
        """Return whether to log a message of Kedro.

        Its advice is left out where it would not work: this project refuses `--async`; after an
        error, `--from-nodes` may name nodes of inner runs, or leave out the cells that failed. So
        is the warning of the encoder that these hooks replace.
        """
        message = record.getMessage()
        if self._has_inner_runs and "--from-nodes" in message:
            return False
        return "--async" not in message and message != "Replacing dataset 'encoder'"

    def _release_claims(self) -> None:
        """Remove the empty folders of the innermost run's version."""
        if self._claimed:
            release_claims(self._claimed.pop())


def _describe_kept(outputs: Iterable[AbstractVersionedDataset[Any, Any]]) -> str:
    """Describe the earlier versions of what a run saves."""
    kept = {version for entry in outputs for version in entry.list_versions(full_path=False)}
    return f"; keeps {len(kept):,} earlier, the latest {max(kept)}" if kept else ""


def _check_paths_fit(
    config: Config, params: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Check the parameters that the catalog's paths have, which it can't take from the others.

    They may be in `params`, which were given with `--params`, and in `settings`, of globals.yml.
    """
    given = dict(flatten(params))
    for key, default, other_way in (
        ("labeled_frac", settings["labeled_frac"], ", or in globals.yml"),
        ("seed", settings["seed"], ", or in globals.yml"),
        ("predict.arm", settings["arm"], ", or as `arm` in globals.yml"),
        ("pretrained_on", settings["recipe"], ""),
        ("pretrain.images", None, ""),
        ("pretrain.weights", None, ""),
    ):
        value = attrgetter(key)(config)
        if value != given.get(key, default):
            raise UserError(
                f"{key} = {value} is set in a file of parameters, but the catalog's paths depend "
                f"on it; set it with --params {key}={value}{other_way}"
            )
