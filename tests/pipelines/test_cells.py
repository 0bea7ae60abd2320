"""Tests of the cells of an experiment: which of them have a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfie_pipeline.pipelines.experiment.cells import CellKey, PlannedCell, run_cells
from selfie_pipeline.project import Project
from selfie_pipeline.training.lineage import comparison_key

CELL = Path(__file__).parents[2] / "docs/results/digits/selfie-10pct-seed0.json"


def test_a_cell_is_kept_for_any_of_its_results(make_config: Any, tmp_path: Path) -> None:
    result = json.loads(CELL.read_text(encoding="utf-8"))
    lineage = {name: result["provenance"][name] for name in ("configuration", "data", "encoder")}
    lineage["tuned"] = {}
    result["configuration"] = comparison_key(lineage)
    planned = [PlannedCell(CellKey("selfie", 0.1, seed), lineage, {}) for seed in (0, 1)]
    results = [
        {**result, "seed": seed, **changes}
        for changes in ({"configuration": "earlier"}, {}, {"configuration": "later"})
        for seed in (1, 0)
    ]
    outcomes = run_cells(planned, results, Project(tmp_path, None, {}), make_config().compute, 0)
    assert [(outcome.key, outcome.status) for outcome in outcomes] == [
        (cell.key, "kept") for cell in planned
    ]
