"""Bad parameters, as a tree and as the text of `--params`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from hypothesis import strategies as st
from kedro.config import OmegaConfigLoader
from tests.hostile.damage import JUNK, NAMES, SCALARS, damaged_tree
from tests.hostile.inputs import Input, Kind, WrongResultError

from selfie_pipeline.cli import parse_params, run
from selfie_pipeline.config import Config, load_config
from selfie_pipeline.run_summary import summarise_run
from selfie_pipeline.settings import CONFIG_LOADER_ARGS

_REPOSITORY = Path(__file__).parents[3]
_OUTPUTS = {"encoder", "selfie_classifier", "experiment_cells", "tuning_trials"}
"""One output for each kind of line in the summary of a run."""


def default_parameters() -> dict[str, Any]:
    """Return the parameters of `conf/base`."""
    loader = OmegaConfigLoader(str(_REPOSITORY / "conf"), env="local", **CONFIG_LOADER_ARGS)
    parameters: dict[str, Any] = loader["parameters"]
    return parameters


_DEFAULTS = default_parameters()
_KEYS = [
    f"{group}.{key}" if isinstance(members, dict) else group
    for group, members in _DEFAULTS.items()
    for key in (members if isinstance(members, dict) else ("",))
]


def _same(given: Any, taken: Any) -> bool:
    """Return True if a value was accepted unchanged; whole numbers may become the nearest float."""
    if isinstance(given, dict) and isinstance(taken, dict):
        return given.keys() == taken.keys() and all(_same(given[k], taken[k]) for k in given)
    if isinstance(given, list) and isinstance(taken, list):
        return len(given) == len(taken) and all(map(_same, given, taken))
    if isinstance(given, bool) or isinstance(taken, bool):
        return given is taken
    if isinstance(given, int | float) and isinstance(taken, float):
        return float(given) == taken and math.isfinite(taken)
    return bool(given == taken)


def _check_config(item: Input, folder: Path) -> None:
    config: Config = load_config(item.value)
    summarise_run(config, _OUTPUTS)
    if not _same(item.value, config.model_dump()):
        raise WrongResultError("a parameter was taken as another value")


@st.composite
def _trees(draw: st.DrawFn) -> Input:
    return Input("parameters changed", value=draw(damaged_tree(_DEFAULTS)))


_VALUES = st.one_of(
    JUNK.map(repr),
    SCALARS.map(str),
    st.text(alphabet="[]{}:,=$&*!|>%@`'\"# \t0aé-", max_size=20),
    st.sampled_from(["[", "{", "]", "'"]).flatmap(
        lambda bracket: st.sampled_from([10, 100, 1000, 5000]).map(lambda n: bracket * n)
    ),
    st.sampled_from(
        ["${seed}", "${oc.env:HOME}", "${", "!!python/object/apply:os.system [true]", "&a [*a]"]
    ),
    st.integers(1, 6000).map(lambda digits: "9" * digits),
)


@st.composite
def param_texts(draw: st.DrawFn) -> str:
    """Return a strategy of texts of `--params`."""
    keys = st.one_of(st.sampled_from(_KEYS), NAMES)
    items = st.lists(
        st.tuples(keys, st.sampled_from(["=", ":", " = ", "", "=="]), _VALUES),
        min_size=1,
        max_size=3,
    )
    return ",".join("".join(item) for item in draw(items))


_TEXTS = param_texts().map(lambda text: Input("--params", value=text))


def _parse_text(item: Input, folder: Path) -> None:
    params = parse_params(click.Context(run), click.Option(["--params"]), item.value)
    if not isinstance(params, dict):
        raise WrongResultError(f"the parameters are {type(params)}")


KINDS = [
    Kind("parameters/values", _trees(), _check_config, share=120),
    Kind("parameters/text", _TEXTS, _parse_text, refusals=(click.BadParameter,), share=80),
]
