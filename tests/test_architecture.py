"""DESIGN.md, "Who may know whom": checked with the imports as they are."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "selfie_pipeline"
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
ROOMS = {
    path.stem
    for path in SOURCE.iterdir()
    if path.suffix == ".py" or (path / "__init__.py").is_file()
}

LOWER = {
    *("config", "models", "training", "evaluation", "report", "sources", "datasets"),
    *("project", "provenance"),
}
MAY_KNOW = {  # itself aside
    "config": set(),
    "provenance": set(),
    "models": {"config"},
    "sources": {"config"},
    "datasets": {"config"},
    "training": {"models", "config"},
    "evaluation": {"config"},
    "report": {"evaluation", "config"},
    "pipelines": LOWER,
    "pipeline_registry": {"pipelines"},
    "project": set(),
    "paths": set(),
    "plan": {"config", "training"},
    "tracking": {"provenance"},
    "hooks": LOWER | {"plan"},
    "settings": LOWER | {"hooks", "paths", "tracking"},
    "cli": LOWER | {"hooks"},
    "__main__": {"cli"},
    "__init__": set(),
}
KEDRO = {
    *("pipelines", "datasets", "hooks", "settings", "cli", "__main__", "pipeline_registry"),
    "project",
    "tracking",
}
ONLY_IN = {
    "kedro": KEDRO,
    "kedro_datasets": {"datasets"},
    "lightning": {"training"},
    "mlflow": {"tracking"},
    "onnx": {"models"},
    "onnxruntime": {"models"},
    "onnxscript": {"models"},
    "optuna": {"pipelines", "training"},
    "ray": {"training"},
    "timm": {"models", "training"},
}


def imported(source, module):
    """All modules that a source imports, anywhere in it; relative imports made absolute."""
    package = ["selfie_pipeline", *Path(module).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def room(module):
    """The first name below the package: `training` of `training/loop.py`."""
    return Path(module).parts[0].removesuffix(".py")


def rooms_imported(source, module):
    names = (name.split(".") for name in imported(source, module))
    known = {parts[1] for parts in names if parts[0] == "selfie_pipeline" and len(parts) > 1}
    return (known & ROOMS) - {room(module)}


def libraries_imported(source, module):
    return {name.split(".")[0] for name in imported(source, module)} - {"selfie_pipeline"}


def test_every_room_has_a_rule():
    assert MAY_KNOW.keys() == ROOMS


@pytest.mark.parametrize("module", MODULES)
def test_a_module_knows_only_whom_it_may(module):
    source = (SOURCE / module).read_text("utf-8")
    assert rooms_imported(source, module) <= MAY_KNOW[room(module)]


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_used_only_where_it_belongs(module):
    used = libraries_imported((SOURCE / module).read_text("utf-8"), module)
    strays = {name for name in used & ONLY_IN.keys() if room(module) not in ONLY_IN[name]}
    assert strays == set()


def test_nothing_but_the_registry_imports_pipelines():
    """As the first test, but whatever its table says."""
    importers = {
        room(module)
        for module in MODULES
        if "pipelines" in rooms_imported((SOURCE / module).read_text("utf-8"), module)
    }
    assert importers == {"pipeline_registry"}


def test_the_command_line_imports_nothing_that_may_be_missing():
    """Kedro takes a missing module there for a project without commands, and says nothing.

    click and omegaconf are Kedro's own requirements.
    """
    used = libraries_imported((SOURCE / "cli.py").read_text("utf-8"), "cli.py")
    assert used <= {"__future__", "copy", "re", "warnings", "typing", "click", "kedro", "omegaconf"}


@pytest.mark.parametrize(
    ("source", "rooms"),
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
def test_imports_are_found_wherever_they_stand(source, rooms):
    assert rooms_imported(source, "models/selfie.py") == rooms
