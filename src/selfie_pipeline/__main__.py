"""Run the packaged project: `python -m selfie_pipeline`, with the options of `kedro run`."""

from __future__ import annotations

from pathlib import Path

from kedro.framework.project import configure_project


def main() -> None:
    """Run the pipelines of the project in the working directory."""
    configure_project(Path(__file__).parent.name)
    from selfie_pipeline.cli import run  # noqa: PLC0415  # only once the project is configured

    run()


if __name__ == "__main__":
    main()
