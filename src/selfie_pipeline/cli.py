"""The commands `kedro run` and `kedro registry` of this project: Kedro's own, with differences.

`--params` takes `key:value` as well as `key=value`, and lists in brackets. Errors that the user can
fix, including an unknown runner, end the run with one line instead of a traceback.
`registry list` imports no pipeline.

This module imports nothing but Kedro's own dependencies and pydantic: if an import fails here,
Kedro silently assumes that the project defines no commands.
"""

from __future__ import annotations

import copy
import errno
import json
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from types import FrameType
from typing import Any, NoReturn, cast, get_args

import click
from kedro import KedroDeprecationWarning
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.registry import registry as kedro_registry
from kedro.framework.project import settings
from kedro.io import DatasetError
from kedro.runner import AbstractRunner, ParallelRunner, ThreadRunner
from kedro.utils import load_obj
from omegaconf import OmegaConf

from selfie_pipeline.config import Config, UserError
from selfie_pipeline.extras import install_extra
from selfie_pipeline.pipeline_registry import PIPELINE_NAMES
from selfie_pipeline.printable import escape_controls, shorten
from selfie_pipeline.training.signals import stop_signals

_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
_KEY_AND_VALUE = re.compile(r"(?P<key>[^=:\s]+)\s*[=:]\s*(?P<value>.*)", re.DOTALL)
_LONGEST_MESSAGE = 4_000
_REFUSED_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_REFUSED_PATHS = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
_NOTHING_TO_RUN = ("Pipeline does not contain", "Pipeline contains no nodes")


@click.group(name="selfie-pipeline")
def cli() -> None:
    """Selfie: self-supervised pretraining for image embedding."""


class _RunCommand(click.Command):
    """Kedro's command `run`, with errors that are one line."""

    def invoke(self, ctx: click.Context) -> Any:
        # Kedro deprecates `--pipeline` in favour of `--pipelines`; this project supports both.
        warnings.filterwarnings(
            "ignore", message="Option '--pipeline' is deprecated", category=KedroDeprecationWarning
        )
        _check_encoding()
        _check_runner(ctx)
        try:
            with _exit_on_signals():
                return super().invoke(ctx)
        except (KeyboardInterrupt, SystemExit):  # of which Kedro tells no hook
            for hook in settings.HOOKS:
                hook.on_interrupt()
            raise
        except (UserError, DatasetError, ValueError) as error:
            message = _one_line(error)
            if message.startswith("Failed to find the pipeline"):
                message = f"{message.split('. ')[0]}; allowed: {', '.join(sorted(PIPELINE_NAMES))}"
            elif isinstance(error, ValueError) and not message.startswith(_NOTHING_TO_RUN):
                raise
            failure = click.ClickException(message)
            failure.exit_code = getattr(error, "exit_code", 1)  # type: ignore[misc]
            raise failure from None
        except OSError as error:
            if error.errno in _REFUSED_PATHS:
                raise click.ClickException(_one_line(error)) from None
            if error.errno not in _REFUSED_WRITES:
                raise
            hint = "; make room or allow writing there, and run again"
            raise click.ClickException(_one_line(error) + hint) from None


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """End the process by an exception on a signal, except in trainings, which save before."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        with suppress(OSError):  # the terminal may be gone
            name = signal.Signals(number).name
            click.echo(f"Error: stopped by {name}; run the same command again", err=True)
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    previous = {number: signal.signal(number, stop) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def parse_params(
    _ctx: click.Context, _option: click.Parameter, value: str | dict[str, Any]
) -> dict[str, Any]:
    """Parse `--params`: items separated by commas, each a key, the first `=` or `:`, and a value.

    Args:
        value: Text from the command line, such as `labeled_frac:0.1,model.layers=[1,1,1,1]`; or
            nested parameters from the file of `--config`.

    Returns:
        Nested parameters with their values parsed as YAML; those of text are kept as they are,
        unless they are quoted.

    Raises:
        click.BadParameter: An item has no separator or no key, or is not valid YAML.
    """
    if isinstance(value, dict):
        return value
    items = []
    for item in filter(None, _COMMA_OUTSIDE_BRACKETS.split(value)):
        match = _KEY_AND_VALUE.fullmatch(item.strip())
        if match is None:
            raise click.BadParameter(
                f"'{_one_line(shorten(item))}' is not a parameter; allowed: key=value or "
                "key:value, separated by commas, as in labeled_frac=0.1,pretrain.steps=200"
            )
        items.append(f"{match['key']}={_quote_text(match['key'], match['value'])}")
    try:
        params = OmegaConf.to_container(OmegaConf.from_dotlist(items))
    except RecursionError:
        raise click.BadParameter("brackets are nested too deeply") from None
    except Exception as error:  # of YAML, of OmegaConf or of Python, such as of too many digits
        raise click.BadParameter(_one_line(error)) from None
    return cast("dict[str, Any]", params)


def _quote_text(key: str, value: str) -> str:
    """Quote the value of a text parameter, in which YAML would see a number, a comment, an alias.

    Folders may be named `2024_05` or `photos #2`, and patterns begin with `*`.
    """
    model: Any = Config
    for part in key.split("."):
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    is_text = model is str or any(kind in get_args(model) for kind in (str, list[str]))
    is_yaml = value in {"", "~"} or value.lower() == "null" or value[0] in "'\"[{"
    return json.dumps(value, ensure_ascii=False) if is_text and not is_yaml else value


def _check_encoding() -> None:
    """Refuse a system whose file names are not in UTF-8, as PyArrow and safetensors expect."""
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise click.ClickException(
            f"file names are in {encoding} in this environment; allowed: utf-8; set PYTHONUTF8=1"
        )


def _check_runner(ctx: click.Context) -> None:
    """Refuse a runner that can't be created or can't run this project, and `--async`."""
    name, params = ctx.params["runner"] or "SequentialRunner", ctx.params["runner_params"]
    if ctx.params["is_async"] or params.get("is_async"):
        ctx.fail(
            "--async, as well as is_async in --runner-params, is not supported, because a result "
            "could then be saved without its predictions; leave it out"
        )
    # Processes have no common memory. Threads share torch's random numbers, so initial weights
    # would depend on their order; and only the main thread receives signals.
    refused = (ParallelRunner, ThreadRunner)
    try:
        runner = load_obj(name, "kedro.runner")
        if issubclass(runner, AbstractRunner) and not issubclass(runner, refused):
            runner(**{"is_async": False, **params})  # as Kedro does
            return
        problem = "it does not run one node after another, but nodes share data and random "
        problem += "numbers; trainings of an experiment run in parallel by themselves"
    except Exception as error:  # of the module, or of the runner
        problem = str(error)
    ctx.fail(
        f"--runner = {_one_line(shorten(name))} can't be used: {_one_line(problem)}; allowed: "
        "SequentialRunner without parameters, or the full name of a class, as in "
        "package.module.Runner, with its --runner-params"
    )


def _one_line(message: object) -> str:
    """Return a message as one line that a terminal can show."""
    return escape_controls(shorten(" ".join(str(message).split()), _LONGEST_MESSAGE))


def _explain_errors(option: click.Parameter) -> click.Parameter:
    """Return an option of `kedro run` with errors that are usage errors of one line."""
    option = copy.copy(option)
    if option.name == "params":
        option.callback = parse_params
    process = option.process_value

    def explained(ctx: click.Context, value: Any) -> Any:
        try:
            return process(ctx, value)
        except (AttributeError, TypeError):  # the command line has only strings
            problem = f"{shorten(repr(value))} is of a type that is not allowed"
            message = f"{problem}; correct the file of --config"
        except Exception as error:  # of Kedro, or of YAML in the file of --config
            message = str(error)
        raise click.BadParameter(_one_line(message))

    option.process_value = explained  # type: ignore[method-assign]
    return option


run = _RunCommand(
    name="run",
    callback=kedro_run.callback,
    params=[_explain_errors(option) for option in kedro_run.params],
    help=kedro_run.help,
)


@click.command("list")
def list_pipelines() -> None:
    """List all pipelines, without importing what they need as Kedro's own command does."""
    click.echo("".join(f"- {name}\n" for name in sorted(PIPELINE_NAMES)), nl=False)


cli.add_command(run)
cli.add_command(
    click.Group(
        "registry",
        {**kedro_registry.commands, "list": list_pipelines},
        help=kedro_registry.help,
    )
)

if find_spec("kedro_viz") is None:

    @cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
    @click.argument("arguments", nargs=-1)
    def viz(arguments: tuple[str, ...]) -> None:  # noqa: ARG001  # those of the absent command
        """Show the pipelines in a browser; needs the extra viz."""
        raise click.ClickException(
            f"Kedro-Viz is not installed; install it with {install_extra('viz')}"
        )
