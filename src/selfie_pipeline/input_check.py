"""The checks of a run's inputs and of their versions, made before its first node."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from selfie_pipeline.config import Config, UserError
from selfie_pipeline.pipeline_registry import PIPELINE_NAMES, create_pipeline
from selfie_pipeline.printable import list_first
from selfie_pipeline.project import starts_runs
from selfie_pipeline.provenance import flatten
from selfie_pipeline.versions import SAVED_WITH, versioned_entries

_LOG = logging.getLogger(__name__)


def drop_complete_nodes(pipeline: Pipeline, catalog: DataCatalog) -> Pipeline:
    """Return what `--only-missing-outputs` runs, which Kedro's runner chooses after the hooks."""
    from kedro.runner import runner  # noqa: PLC0415  # private, so another version may lack these

    children = runner._build_node_children_map(pipeline)
    return Pipeline(runner._determine_nodes_to_run(pipeline.nodes[::-1], catalog, children, _LOG))


def check_encoder_is_not_replaced(run_params: Mapping[str, Any], pipeline: Pipeline) -> None:
    """Raise UserError if a run pretrains that selects an encoder with `pretrained_on`."""
    pretrained_on = (run_params["runtime_params"] or {}).get("pretrained_on")
    if pretrained_on and "encoder" in pipeline.all_outputs():
        raise UserError(
            f"pretrained_on = {pretrained_on} selects an existing encoder, but this run pretrains "
            "one; leave pretrained_on out, or run --pipelines=finetune,baseline,report"
        )


def check_versions_are_loaded(
    run_params: Mapping[str, Any], pipeline: Pipeline, catalog: DataCatalog
) -> None:
    """Raise UserError unless nodes load the versions that were asked for, and what others save."""
    outputs = versioned_entries(pipeline.all_outputs(), catalog)
    inputs = versioned_entries(pipeline.inputs(), catalog)
    for name, version in (run_params["load_versions"] or {}).items():
        if name in outputs:
            raise UserError(
                f"--load-versions = {name}:{version}, but this run makes {name} itself; leave out "
                "the option, or the pipeline that makes it"
            )
        if name not in inputs and not starts_runs(pipeline):  # which may load any
            raise UserError(
                f"--load-versions = {name}:{version}, but this run does not load {name}; allowed: "
                f"{list_first(inputs, 10) or 'none'}"
            )
    paths = {dataset._filepath: name for name, dataset in outputs.items()}
    for name, dataset in inputs.items():
        if dataset._filepath in paths:  # Kedro does not know that they are one, and in which order
            raise UserError(
                f"{name} is the {paths[dataset._filepath]} that this run makes; run the pipeline "
                "that reads it afterwards, on its own"
            )


def check_versions_belong(loads: Mapping[str, str | None], catalog: DataCatalog) -> None:
    """Check that the versions that a run loads were saved together, as far as they must have been.

    Raises:
        UserError: They were not, or one of them does not exist.
    """
    for name, other in SAVED_WITH.items():
        if name in loads and not catalog.exists(name):
            raise UserError(
                f"{name} has no version {loads[name]}, which is that of {other}; run "
                f"`kedro run --pipeline={_find_producer(other, catalog)}` again"
            )
    grids, samples, listed = map(loads.get, ("patch_grids", "usable_samples", "samples"))
    if grids and listed and listed > grids:  # nodes pair them by position
        raise UserError(
            f"samples {listed} are later than patch_grids {grids}, whose images may be others; run "
            "all of `kedro run --pipeline=patch`"
        )
    if not (grids and samples):
        return
    entry = versioned_entries(["patch_grids"], catalog)["patch_grids"]
    saved = entry.list_versions(full_path=False)
    if samples < grids or any(grids < version <= samples for version in saved):
        raise UserError(
            f"usable_samples {samples} are not those of patch_grids {grids}; name a version of "
            "both with --load-versions, or run `kedro run --pipeline=patch` again"
        )


def check_inputs_exist(
    run_params: Mapping[str, Any], pipeline: Pipeline, catalog: DataCatalog, config: Config
) -> None:
    """Check that the run's inputs exist, before hours are spent on the first of them.

    Raises:
        UserError: One does not; the message names it and the command that creates it.
    """
    for name in sorted(pipeline.inputs()):
        if catalog.exists(name) or not (producer := _find_producer(name, catalog)):
            continue
        version = (run_params["load_versions"] or {}).get(name)
        entry = versioned_entries([name], catalog).get(name)
        if version and entry and (versions := entry.list_versions(full_path=False)):
            raise UserError(
                f"--load-versions = {name}:{version} does not exist; allowed: "
                f"{list_first(versions, 10)}"
            )
        pretrained_on = (run_params["runtime_params"] or {}).get("pretrained_on")
        if name == "encoder" and pretrained_on:
            raise UserError(
                f"pretrained_on = {pretrained_on}, but that recipe has no encoder; allowed: a "
                "recipe whose pipelines ingest, patch and pretrain have been run"
            )
        command = _format_command(producer, run_params, config)
        raise UserError(f"{name} does not exist yet; create it with `{command}`")


def _find_producer(name: str, catalog: DataCatalog) -> str | None:
    """Return the pipeline that produces an entry, or None for parameters and external data."""
    if name == "chosen_classifier":  # another name of one arm's classifier
        name = f"{catalog.load('params:predict.arm')}_classifier"
    names = (key for key in PIPELINE_NAMES if key != "__default__")
    return next((key for key in names if name in create_pipeline(key).all_outputs()), None)


def _format_command(stage: str, run_params: Mapping[str, Any], config: Config) -> str:
    """Return the command that runs a pipeline with the options of this run."""
    command = f"kedro run --pipeline={stage}"
    if run_params["env"]:
        command += f" --env={run_params['env']}"
    settings = [
        f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in flatten(run_params["runtime_params"] or {})
    ]
    if stage == "finetune_weights" and config.weights is None:
        settings.append("weights=FILE")
    if settings:
        command += f" --params {shlex.quote(','.join(settings))}"
    return command
