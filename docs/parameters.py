"""Writes `parameters.md`, the reference of all parameters, from `config.py` and `conf/`.

    python docs/parameters.py

The names, types and limits are those of the pydantic models, the descriptions the strings below
their fields, the defaults those of `conf/base/`, and what differs by recipe is in `conf/<recipe>/`.
"""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from kedro.config import OmegaConfigLoader
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from selfie_pipeline import config
from selfie_pipeline.settings import CONFIG_LOADER_ARGS

PAGE = Path(__file__).with_suffix(".md")
CONF = PAGE.parents[1] / "conf"
HEAD = """\
# Parameters

Generated from [`config.py`](../src/selfie_pipeline/config.py) and `conf/` by
`python docs/parameters.py` (a test fails if it is stale); do not edit it by hand.

Any parameter can be set for one run with `--params`, by its dotted name, with `=` or `:`. Separate
several by commas, and put lists in brackets:

```sh
kedro run --params pretrain.steps=1200,model.attention.blocks=2
kedro run --pipeline=experiment --params "experiment.labeled_fracs=[0.1],experiment.seeds=[0,1]"
```

An unknown name, a wrong type or an invalid value ends the run with a one-line error, before any
work is done. To set a value permanently, change the recipe's `conf/<recipe>/`, or, for runs without
`--env`, `conf/local/parameters.yml`, which git ignores.

Some parameters are part of the catalog's paths, so `parameters.yml` may not have them. Set
`labeled_frac`, `seed` and `predict.arm` (there called `arm`) in `globals.yml` in the same folder,
and `pretrained_on`, `pretrain.images` and `pretrain.weights` only with `--params`.
"""


def recipes() -> list[str]:
    """Return the environments that are recipes: those whose globals name them."""
    return sorted(
        path.parent.name for path in CONF.glob("*/globals.yml") if path.parent.name != "base"
    )


def parameters(recipe: str) -> dict[str, Any]:
    """Return the merged parameters of a recipe, or of the base."""
    loader = OmegaConfigLoader(str(CONF), **CONFIG_LOADER_ARGS | {"default_run_env": recipe})
    merged: dict[str, Any] = loader["parameters"]
    return merged


def docstrings() -> dict[tuple[str, str], str]:
    """Return the docstring below each field, by class and field."""
    found = {}
    for node in ast.parse(inspect.getsource(config)).body:
        for pair in pairwise(node.body) if isinstance(node, ast.ClassDef) else []:
            match pair:
                case ast.AnnAssign(target=ast.Name(field)), ast.Expr(ast.Constant(str(below))):
                    found[node.name, field] = inspect.cleandoc(below).replace("\n", " ")
    return found


def describe(model: type[BaseModel], name: str) -> str:
    """Return a field's docstring, from its class or the one that it inherits from."""
    known = docstrings()
    return next((known[c.__name__, name] for c in model.mro() if (c.__name__, name) in known), "")


def allowed(annotation: Any, field: FieldInfo | None = None) -> str:
    """Return the allowed values, in the words of the error message."""
    if field and field.description:
        return field.description
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        return " or ".join(allowed(part) for part in parts)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is list:
        return f"a list of {allowed(parts[0])}"
    described = [part.description for part in parts[1:] if isinstance(part, FieldInfo)]
    return described[0] if described else {str: "text", type(None): "null"}[annotation]


def is_group(field: FieldInfo) -> bool:
    """Return True if the field is a group of parameters."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def groups(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield each model with its dotted prefix, from the top down."""
    yield prefix, model
    for name, field in model.model_fields.items():
        if is_group(field):
            yield from groups(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]


def value(tree: Any, key: str) -> Any:
    """Return the value at a dotted key of a tree of parameters."""
    for part in key.split("."):
        tree = tree[part]
    return tree


def shown(setting: Any) -> str:
    """Format a value as YAML, on one line."""
    if isinstance(setting, str):
        return f"`{setting}`"
    text = yaml.safe_dump(setting, default_flow_style=True, width=10**6)
    return f"`{text.splitlines()[0]}`"  # below a scalar, YAML's end of document


def row(*cells: str) -> str:
    """Format a row of a Markdown table."""
    return f"| {' | '.join(cells)} |\n"


def section(prefix: str, model: type[BaseModel], values: dict[str, dict[str, Any]]) -> str:
    """Render the parameters of one group, and where recipes differ from the base."""
    names = {prefix + name: (name, f) for name, f in model.model_fields.items() if not is_group(f)}
    title = f"`{prefix.removesuffix('.')}`" if prefix else "A run"
    page = f"\n## {title}\n\n{inspect.cleandoc(model.__doc__ or '')}\n\n"
    page += row("parameter", "allowed", "default", "what it is") + row("---", "---", "---", "---")
    for key, (name, field) in names.items():
        default = shown(value(values["base"], key))
        page += row(f"`{key}`", allowed(field.annotation, field), default, describe(model, name))
    differing = {
        key: {
            recipe: shown(value(tree, key))
            for recipe, tree in values.items()
            if value(tree, key) != value(values["base"], key)
        }
        for key in names
    }
    columns = [recipe for recipe in values if any(recipe in cells for cells in differing.values())]
    if columns:
        page += f"\nRecipes with another value:\n\n{row('parameter', *columns)}"
        page += row(*["---"] * (len(columns) + 1))
        for key, cells in differing.items():
            if cells:
                page += row(f"`{key}`", *(cells.get(recipe, "") for recipe in columns))
    return page


def render() -> str:
    """Render the whole page."""
    values = {recipe: parameters(recipe) for recipe in ["base", *recipes()]}
    return HEAD + "".join(section(prefix, model, values) for prefix, model in groups(config.Config))


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
