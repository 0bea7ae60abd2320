"""Entry point `python -m selfie_pipeline`, which has the options of `kedro run`."""

from __future__ import annotations

from pathlib import Path

from kedro.framework.project import configure_project


def main() -> None:
    """Run pipelines of the project in the working directory."""
    configure_project(Path(__file__).parent.name)
    from selfie_pipeline.cli import run  # noqa: PLC0415  # the project has to be configured first

    run()


if __name__ == "__main__":
    main()
