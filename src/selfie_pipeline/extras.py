"""The commands that install the project's extras."""


def install_extra(name: str) -> str:
    """Return the command that installs an extra of pyproject.toml into the project's environment.

    It names the checkout, since a package of this project's name on a public index is not ours.
    """
    return f'`pip install --constraint constraints.txt --editable ".[{name}]"`'
