"""Tests of the allowed imports between the parts of the package (docs/architecture.md)."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "selfie_pipeline"
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
PARTS = {
    path.stem
    for path in SOURCE.iterdir()
    if path.suffix == ".py" or (path / "__init__.py").is_file()
}

LOWER = {
    *("config", "models", "training", "evaluation", "report", "sources", "datasets"),
    "duplicates",
    *("project", "printable", "progress", "provenance", "initial_weights", "weights", "extras"),
    "threads",
}
ALLOWED_IMPORTS = {
    "config": {"printable"},
    "provenance": {"config"},
    "weights": set(),
    "atomic_write": set(),
    "printable": set(),
    "progress": set(),
    "threads": set(),
    "extras": {"config"},
    "duplicates": set(),
    "models": {"config", "printable", "provenance", "extras"},
    "locks": {"config"},
    "sources": {"config", "atomic_write", "locks", "printable", "progress", "extras", "threads"},
    "datasets": {"config", "weights", "atomic_write", "locks", "printable", "progress"},
    "training": {
        *("models", "config", "printable", "provenance", "weights", "atomic_write", "locks"),
        *("extras", "progress", "threads"),
    },
    "evaluation": {"config"},
    "report": {"evaluation", "config", "printable", "provenance"},
    "pipelines": LOWER,
    "pipeline_registry": set(),
    "project": {"config", "versions"},
    "input_check": {
        *("config", "pipeline_registry", "printable", "project", "provenance", "versions"),
    },
    "label_check": {"config", "project", "provenance", "training", "versions"},
    "initial_weights": {"config", "datasets", "project", "provenance", "training", "weights"},
    "versions": {"config"},
    "paths": set(),
    "config_loader": {"config", "printable"},
    "run_budget": {"config", "locks", "project", "run_summary", "training"},
    "run_summary": {"config", "threads", "training"},
    "tracking": {
        *("project", "provenance", "versions", "config", "atomic_write", "locks", "training"),
    },
    "hooks": LOWER
    | {
        "config_loader",
        "input_check",
        "label_check",
        "run_budget",
        "run_summary",
        "versions",
    },
    "settings": LOWER | {"config_loader", "hooks", "paths", "tracking"},
    "cli": LOWER | {"hooks", "pipeline_registry"},
    "__main__": {"cli"},
    "__init__": set(),
}
KEDRO = {
    *("pipelines", "datasets", "hooks", "settings", "cli", "__main__", "pipeline_registry"),
    "config_loader",
    "input_check",
    "label_check",
    "project",
    "run_budget",
    "tracking",
    "versions",
}
ONLY_IN = {
    "kedro": KEDRO,
    "kedro_datasets": {"datasets"},
    "mlflow": {"tracking"},
    "onnx": {"models"},
    "onnxruntime": {"models"},
    "onnxscript": {"models"},
    "optuna": {"pipelines", "training"},
    "ray": {"training"},
    "timm": {"models", "training"},
    "tqdm": {"pipelines", "progress", "training"},
}


def find_imports(source, module):
    """Return all modules that a source imports, at any depth; relative imports become absolute."""
    package = ["selfie_pipeline", *Path(module).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def get_part(module):
    """Return the first name below the package: `training` for `training/loop.py`."""
    return Path(module).parts[0].removesuffix(".py")


def find_imported_parts(source, module):
    names = (name.split(".") for name in find_imports(source, module))
    found = {name[1] for name in names if name[0] == "selfie_pipeline" and len(name) > 1}
    return (found & PARTS) - {get_part(module)}


def find_imported_libraries(source, module):
    return {name.split(".")[0] for name in find_imports(source, module)} - {"selfie_pipeline"}


def test_every_part_has_a_rule():
    assert ALLOWED_IMPORTS.keys() == PARTS


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_allowed_parts(module):
    source = (SOURCE / module).read_text("utf-8")
    assert find_imported_parts(source, module) <= ALLOWED_IMPORTS[get_part(module)]


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_imported_only_where_it_is_allowed(module):
    used = find_imported_libraries((SOURCE / module).read_text("utf-8"), module)
    violations = {name for name in used & ONLY_IN.keys() if get_part(module) not in ONLY_IN[name]}
    assert violations == set()


def test_no_module_imports_pipelines():
    """This holds regardless of `ALLOWED_IMPORTS`."""
    importers = {
        get_part(module)
        for module in MODULES
        if "pipelines" in find_imported_parts((SOURCE / module).read_text("utf-8"), module)
    }
    assert not importers  # the registry imports them by their names


def test_no_modules_import_each_other():
    """Neither at their beginning nor in a function."""
    names = {
        f"selfie_pipeline/{path}".removesuffix(".py")
        .removesuffix("/__init__")
        .replace("/", "."): path
        for path in MODULES
    }
    imports = {
        name: find_imports((SOURCE / path).read_text("utf-8"), path) & names.keys() - {name}
        for name, path in names.items()
    }
    TopologicalSorter(imports).prepare()  # raises CycleError, which names them


def test_the_command_line_imports_only_dependencies_of_kedro():
    """If an import fails there, Kedro silently assumes that the project has no commands."""
    used = find_imported_libraries((SOURCE / "cli.py").read_text("utf-8"), "cli.py")
    assert used <= sys.stdlib_module_names | {"click", "kedro", "omegaconf"}


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import selfie_pipeline.pipelines.patch", {"pipelines"}),
        ("from selfie_pipeline import pipelines", {"pipelines"}),
        ("from selfie_pipeline.sources.digits import Digits", {"sources"}),
        ("def f():\n    from selfie_pipeline.training import loop", {"training"}),
        ("from ..sources import digits", {"sources"}),
        ("from .. import evaluation", {"evaluation"}),
        ("if TYPE_CHECKING:\n    import selfie_pipeline.hooks as h", {"hooks"}),
        ("from .noise import Noise", set()),
        ("from selfie_pipeline.models import noise", set()),
    ],
)
def test_imports_are_found_at_any_depth(source, parts):
    assert find_imported_parts(source, "models/selfie.py") == parts


def test_pipelines_do_not_import_each_other():
    crossing = {
        (module, name)
        for module in MODULES
        if module.startswith("pipelines/") and module.count("/") > 1
        for name in find_imports((SOURCE / module).read_text("utf-8"), module)
        if name.startswith("selfie_pipeline.pipelines.")
        and name.split(".")[2] != module.split("/")[1]
    }
    assert crossing == set()


def test_one_module_alone_calls_cuda():
    """So that one module alone has branches that need a GPU to be tried."""
    callers = {name for name in MODULES if "torch.cuda" in (SOURCE / name).read_text("utf-8")}
    assert callers == {"training/cuda.py"}
