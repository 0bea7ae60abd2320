"""The project's `kedro run`: Kedro's own, with two differences.

`--params` takes `key:value` as well as `key=value`, and lists in brackets; and what a person can
mend, an unknown runner among it, ends the run with one line instead of a traceback.

Nothing may be imported here that Kedro does not need itself, but for pydantic: Kedro takes a module
that is missing while it imports this file for a project without commands of its own, and says
nothing.
"""

from __future__ import annotations

import copy
import re
import warnings
from typing import Any, cast

import click
from kedro import KedroDeprecationWarning
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import pipelines
from kedro.io import DatasetError
from kedro.utils import load_obj
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from selfie_pipeline.config import UserError

_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
_NOTHING_TO_RUN = ("Pipeline does not contain", "Pipeline contains no nodes")
_KEY_AND_SETTING = re.compile(r"(?P<key>[^=:\s]+)\s*[=:]\s*(?P<setting>.*)", re.DOTALL)


@click.group(name="selfie-pipeline")
def cli() -> None:
    """Selfie: self-supervised pretraining for image embedding."""


class _Run(click.Command):
    """Kedro's `run`, for people."""

    def invoke(self, ctx: click.Context) -> Any:
        # Kedro would have `--pipelines`; both are fine here.
        warnings.filterwarnings(
            "ignore", message="Option '--pipeline' is deprecated", category=KedroDeprecationWarning
        )
        try:
            return super().invoke(ctx)
        except (UserError, DatasetError) as error:
            raise click.ClickException(" ".join(str(error).split())) from None
        except ValueError as error:
            message = " ".join(str(error).split())
            if message.startswith("Failed to find the pipeline"):
                known = ", ".join(sorted(pipelines))
                raise click.ClickException(f"{message.split('. ')[0]}; allowed: {known}") from None
            if message.startswith(_NOTHING_TO_RUN):
                raise click.ClickException(message) from None
            raise


def split_params(ctx: click.Context, option: click.Parameter, value: str) -> dict[str, Any]:
    """Read `--params`: items separated by commas, keys from values by the first `=` or `:`.

    Args:
        ctx: Of the command.
        option: `--params`.
        value: As typed, such as `labeled_frac:0.1,model.layers=[1,1,1,1]`.

    Returns:
        Nested parameters, their values read as YAML.

    Raises:
        click.BadParameter: An item has no separator, or no key, or is not readable.
    """
    items = []
    for item in filter(None, _COMMA_OUTSIDE_BRACKETS.split(value)):
        found = _KEY_AND_SETTING.fullmatch(item.strip())
        if found is None:
            raise click.BadParameter(
                f"'{item}' is not a parameter; allowed: key=value or key:value, separated by "
                "commas, as in labeled_frac=0.1,pretrain.steps=200",
                ctx,
                option,
            )
        items.append(f"{found['key']}={found['setting']}")
    try:
        params = OmegaConf.to_container(OmegaConf.from_dotlist(items))
    except OmegaConfBaseException as error:
        raise click.BadParameter(" ".join(str(error).split()), ctx, option) from None
    return cast("dict[str, Any]", params)


def check_runner(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Check that there is the runner that `--runner` names.

    Raises:
        click.BadParameter: There is not.
    """
    try:
        load_obj(value or "SequentialRunner", "kedro.runner")
    except (ImportError, AttributeError, ValueError):
        raise click.BadParameter(
            f"'{value}' is not a runner; allowed: SequentialRunner, ThreadRunner, ParallelRunner, "
            "or the full name of a class, as in package.module.Runner",
            ctx,
            option,
        ) from None
    return value


_CALLBACKS = {"params": split_params, "runner": check_runner}


def _with_our_callback(option: click.Parameter) -> click.Parameter:
    if option.name in _CALLBACKS:
        option = copy.copy(option)
        option.callback = _CALLBACKS[option.name]
    return option


run = _Run(
    name="run",
    callback=kedro_run.callback,
    params=[_with_our_callback(option) for option in kedro_run.params],
    help=kedro_run.help,
)
cli.add_command(run)
