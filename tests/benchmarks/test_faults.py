"""Tests of the faults that `benchmarks/mutations.py` puts into modules."""

from __future__ import annotations

import ast
import importlib.util
import operator
from pathlib import Path

import pytest
from benchmarks.faults import Fault, find_faults

SOURCE = """
LIMIT = 3

class Layers:
    def forward(self, x: int = 1) -> int:
        if x < LIMIT and not x == 0:
            self.log(x + 2)
        return self.norm(x)
"""
FAULTS = {
    *(("3", "4"), ("1", "2"), ("0", "1"), ("2", "3")),
    ("x < LIMIT", "x <= LIMIT"),
    ("x == 0", "x != 0"),
    ("not x == 0", "x == 0"),
    ("x < LIMIT and (not x == 0)", "x < LIMIT or not x == 0"),
    ("x + 2", "x - 2"),
    ("self.log(x + 2)", "pass"),
    ("self.log(x + 2)", "x + 2"),
    ("self.norm(x)", "x"),
}


@pytest.fixture
def faults(tmp_path: Path) -> list[Fault]:
    (tmp_path / "layers.py").write_text(SOURCE)
    return find_faults(tmp_path, "layers.py")


def choose(faults: list[Fault], now: str) -> Fault:
    return next(fault for fault in faults if fault.name["now"] == now)


def test_all_mutations_of_a_module_are_found(faults: list[Fault]) -> None:
    assert {(fault.name["was"], fault.name["now"]) for fault in faults} == FAULTS
    assert len(faults) == len(FAULTS)


def test_a_fault_in_the_tree_is_removed_afterwards(faults: list[Fault]) -> None:
    before = ast.unparse(faults[0].tree)
    for fault in faults:
        with fault.in_tree() as tree:
            assert ast.unparse(tree) != before
        assert ast.unparse(fault.tree) == before


def test_a_fault_on_disk_is_removed_afterwards(faults: list[Fault], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with choose(faults, "x <= LIMIT").on_disk(copy):
        assert "x <= LIMIT" in (copy / "layers.py").read_text()
    assert (copy / "layers.py").read_text() == SOURCE


def test_the_code_of_loaded_functions_is_replaced(faults: list[Fault], tmp_path: Path) -> None:
    path = tmp_path / "layers.py"
    spec = importlib.util.spec_from_file_location("layers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    layers = module.Layers()
    layers.log, layers.norm = abs, operator.neg

    assert layers.forward(5) == -5
    assert choose(faults, "x").in_memory(str(path))
    assert layers.forward(5) == 5
    assert not choose(faults, "4").in_memory(str(path))  # outside of functions
