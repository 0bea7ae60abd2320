"""The notebooks run from top to bottom, and are committed without outputs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.name for path in (REPOSITORY / "notebooks").glob("*.ipynb"))
RUN = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=240, kernel_name="python3").execute(cwd=sys.argv[2])
nbformat.write(notebook, sys.argv[1])
"""


def execute(name: str, folder: Path, into: Path) -> subprocess.CompletedProcess[str]:
    """Run a copy of a notebook, in a process of its own, which the kernel can't outlive."""
    copy = into / name
    copy.write_bytes((REPOSITORY / "notebooks" / name).read_bytes())
    return subprocess.run(
        [sys.executable, "-c", RUN, copy, folder], capture_output=True, text=True, check=False
    )


@pytest.mark.notebooks
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_on_the_demo(name: str, project: Path, tmp_path: Path) -> None:
    done = execute(name, project / "notebooks", tmp_path)

    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(tmp_path / name, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 4
    assert not [o.text for o in outputs if o.get("name") == "stderr" and "Warning" in o.text]


@pytest.mark.notebooks
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_without_a_run_it_says_what_to_do(name: str, project: Path, tmp_path: Path) -> None:
    (tmp_path / "empty/src").mkdir(parents=True)
    for part in ("conf", "pyproject.toml", ".telemetry"):
        (tmp_path / "empty" / part).symlink_to(project / part)

    done = execute(name, tmp_path / "empty", tmp_path)

    assert done.returncode != 0
    assert "SystemExit: There " in re.sub(r"\x1b\[[\d;]*m", "", done.stderr)  # colours
    assert "yet: run `kedro run" in done.stderr


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_committed_without_outputs(name: str) -> None:
    path = REPOSITORY / "notebooks" / name
    cells = nbformat.read(path, as_version=4).cells
    assert path.stat().st_size < 200_000
    assert all(cell.outputs == [] for cell in cells if cell.cell_type == "code")
    assert all(cell.execution_count is None for cell in cells if cell.cell_type == "code")
    assert len(NOTEBOOKS) == 3
