"""Tries generated bad inputs on the program, and prints a table of the outcomes.

python -m tests.hostile --inputs 20000 --folder docs/results/hostile
python -m tests.hostile --replay images/damaged:1234
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.hostile.inputs import BATCH_SIZE
from tests.hostile.kinds import MODULES, load_kinds
from tests.hostile.running import try_all, try_batch
from tests.hostile.trials import Outcome

from selfie_pipeline.provenance import describe_environment

_COLUMNS = ("kind", "tried", "refused", "accepted", "faults", "seconds", "largest_mib")


def tabulate(outcomes: Sequence[Outcome]) -> list[dict[str, str | int | float]]:
    """Return a row for each kind, and one for the total."""
    rows = []
    for name in [*dict.fromkeys(outcome.kind for outcome in outcomes), "total"]:
        group = [outcome for outcome in outcomes if name in {outcome.kind, "total"}]
        answers = Counter(outcome.answer for outcome in group if outcome.fault is None)
        rows.append(
            {
                "kind": name,
                "tried": len(group),
                "refused": answers["refused"],
                "accepted": answers["accepted"],
                "faults": sum(outcome.fault is not None for outcome in group),
                "seconds": round(max(outcome.seconds for outcome in group), 1),
                "largest_mib": round(max(outcome.memory for outcome in group) / 2**20),
            }
        )
    return rows


def main() -> int:
    """Run the command; return the exit status: 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="number of inputs, of all kinds")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--kinds", nargs="*", default=MODULES, help="only these kinds")
    parser.add_argument("--folder", type=Path, help="folder for figures.csv and figures.json")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=cores, help="batches at the same time")
    parser.add_argument("--replay", metavar="KIND:NUMBER", help="try this input again")
    options = parser.parse_args()
    if options.replay:
        name, number = options.replay.rsplit(":", 1)
        (kind,) = load_kinds([name])
        outcomes = list(try_batch(kind, options.seed, range(int(number), int(number) + 1)))
        for outcome in outcomes:
            print(json.dumps(outcome.as_dict(), indent=2))
        return int(any(outcome.fault for outcome in outcomes))
    started = time.monotonic()
    outcomes = []
    kinds = load_kinds(options.kinds)
    with suppress(KeyboardInterrupt):  # the inputs tried so far are tabulated
        for outcome in try_all(options.inputs, kinds, options.seed, options.processes):
            outcomes.append(outcome)
            if outcome.fault:
                print(
                    f"{outcome.kind}:{outcome.number}  {outcome.fault}  {outcome.what}  "
                    f"{ascii(outcome.detail)[:400]}",
                    flush=True,
                )
    order = [kind.name for kind in kinds]
    outcomes.sort(key=lambda outcome: (order.index(outcome.kind), outcome.number))
    rows = tabulate(outcomes)
    for row in [dict(zip(_COLUMNS, _COLUMNS, strict=True)), *rows]:
        print(f"{row['kind']:28}" + "".join(f"{row[name]!s:>12}" for name in _COLUMNS[1:]))
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    times = {
        "seconds": round(time.monotonic() - started),
        "cpu_seconds": round(sum(usage.ru_utime + usage.ru_stime for usage in usages)),
    }
    print(f"{times['seconds']} s, {times['cpu_seconds']} s of CPU time")
    if options.folder:
        write_figures(
            options.folder, rows, outcomes, {"seed": options.seed, "asked": options.inputs, **times}
        )
    return int(any(outcome.fault for outcome in outcomes))


def write_figures(
    folder: Path,
    rows: Sequence[dict[str, str | int | float]],
    outcomes: Sequence[Outcome],
    more: Mapping[str, int],
) -> None:
    """Write the table as CSV, and the table, the faults, the versions and more as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "figures.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    content = {
        **more,
        "batch_size": BATCH_SIZE,
        "kinds": rows,
        "faults": [outcome.as_dict() for outcome in outcomes if outcome.fault],
        **describe_environment(),
    }
    (folder / "figures.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
