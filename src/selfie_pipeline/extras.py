"""The extras of pyproject.toml: whether one is installed, and the command that installs it."""

from importlib.util import find_spec

from selfie_pipeline.config import UserError


def require_extra(module: str, need: str, extra: str) -> None:
    """Check that a module of an extra can be imported.

    Args:
        module: Name of the module.
        need: What needs it, as the start of the message, such as "the tuning needs Optuna".
        extra: Name of the extra.

    Raises:
        UserError: It is not installed; the message has the command that installs it.
    """
    if find_spec(module) is None:
        raise UserError(f"{need}, which is not installed; install it with {install_extra(extra)}")


def install_extra(name: str) -> str:
    """Return the command that installs an extra of pyproject.toml into the project's environment.

    It names the checkout, since a package of this project's name on a public index is not ours.
    """
    return f'`pip install --constraint constraints.txt --editable ".[{name}]"`'
