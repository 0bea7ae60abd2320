"""Writes `summary.csv`, the table of all results, and README's table from the committed cells.

    python docs/results/summary.py

A cell is the result of one finetuning, as `data/08_reporting/…/metrics.json` has it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd

from selfie_pipeline.evaluation.convergence import has_converged
from selfie_pipeline.evaluation.tables import build_results_table
from selfie_pipeline.report.text import display_table

HERE = Path(__file__).parent
SUMMARY = HERE / "summary.csv"
README = HERE.parents[1] / "README.md"
INDEX = HERE / "README.md"
BEGIN, END = "<!-- results: made by docs/results/summary.py -->\n", "<!-- end of results -->\n"


class Study(NamedTuple):
    """Folders of cells that are compared with one another.

    Attributes:
        folder: The folder of the cells, below `docs/results`; or several, with one pretraining
            each, over which the accuracies of a seed are averaged.
        title: Data, network and finetuning in a few words.
        command: The command that made the cells.
        weights: A file below `docs/results` about the weights that the arm `weights` started from:
            the report of `benchmarks/simclr.py`, or the cell of their training; empty without such
            an arm.
        weights_name: How they were trained.
        scratch: The folder of the trainings from scratch, instead of those beside the others.
        data: The data in README's table.
        starts: The starts in README's table, by arm; empty for a study that is not part of it.
    """

    folder: str | tuple[str, ...]
    title: str
    command: str
    weights: str = ""
    weights_name: str = "SimCLR"
    scratch: str = ""
    data: str = ""
    starts: Mapping[str, str] = MappingProxyType({})

    def pretrainings(self) -> list[list[dict[str, Any]]]:
        """Load the cells of each folder; their names stand for their versions."""
        folders = [self.folder] if isinstance(self.folder, str) else self.folder
        scratch = [*(HERE / self.scratch).glob("supervised-*.json")] if self.scratch else []
        own = "selfie-*.json" if self.scratch else "*.json"
        return [
            [
                json.loads(file.read_text()) | {"version": file.name}
                for file in sorted({*scratch, *(HERE / folder).glob(own)})
            ]
            for folder in folders
        ]

    def cells(self) -> list[dict[str, Any]]:
        """Return the cells, with accuracies that are the mean over the pretrainings.

        They have converged if those of all pretrainings have.
        """
        repeats = defaultdict[tuple[Any, ...], list[dict[str, Any]]](list)
        for cell in chain(*(every := self.pretrainings())):
            repeats[_key(cell)].append(cell)
        if any(len(same) != len(every) for same in repeats.values()):
            raise ValueError(f"{self.title}: a pretraining lacks a cell")
        return [
            min(same, key=_has_converged) | {"accuracy": fmean(cell["accuracy"] for cell in same)}
            for same in repeats.values()
        ]

    def weights_images(self) -> int:
        """Return the number of images that the given weights were trained on."""
        found = json.loads((HERE / self.weights).read_text())
        images: int = found["labels"] if "labels" in found else found["images"]
        return images

    def name_arms(self) -> dict[str, str]:
        """Return the names of the arms with given weights, in the table, by their display names."""
        return {
            "given weights": self.weights_name,
            "given weights, Selfie": f"{self.weights_name}, then Selfie",
        }


_PHOTOGRAPHS = (
    'kedro run --env=image_folder --pipeline=experiment --params "data.folder=FOLDER,'
    "finetune.steps=500,experiment.labeled_fracs=[0.1],"
)
_GRID = "kedro run --env=cifar10_small --pipeline=experiment --params "
_RATE = "pretrain.peak_learning_rate=0.1"  # of the trainings before the recipe had 0.3
_PAPER = f"pretrain.smallest_crop=null,pretrain.colour_jitter=0,{_RATE}"
STUDIES = [
    Study(
        "digits",
        "digits, 120 × 64",
        'kedro run --pipeline=experiment --params "experiment.labeled_fracs=[0.05,0.1]"',
        data="handwritten digits",
        starts={"selfie": "Selfie, 600 steps"},
    ),
    Study(
        "digits/long",
        "digits, 480 × 64",
        'kedro run --pipeline=experiment --params "experiment.labeled_fracs=[0.05],'
        'finetune.steps=480"',
    ),
    Study(
        "cats_dogs/cells",
        "cats and dogs, narrow, 500 × 64, harder puzzle, 44 minutes",
        f"{_PHOTOGRAPHS}pretrain.steps=10000,weights=simclr.safetensors,"
        'experiment.arms=[supervised,selfie,weights]"',
        weights="benchmarks/simclr_cats_dogs.json",
        data="cats and dogs",
        starts={"selfie": "Selfie, harder puzzle, 10,000 steps", "weights": "SimCLR, as long"},
    ),
    *(
        Study(
            tuple(f"cats_dogs/{folder}" for folder in folders),
            f"cats and dogs, narrow, 500 × 64, {puzzle}, 5,000 steps, two pretrainings",
            f'{_PHOTOGRAPHS}pretrain.steps=5000{switches}", and again with pretrain.seed=1',
            scratch=f"cats_dogs/{scratch}",
            data="cats and dogs",
            starts=starts,
        )
        for puzzle, switches, scratch, folders, starts in (
            (
                "paper's puzzle",
                ",pretrain.smallest_crop=null,pretrain.colour_jitter=0",
                "cells",
                ("paper_puzzle", "ablation/paper_1"),
                {"selfie": "Selfie, the paper's puzzle, 5,000 steps, two runs"},
            ),
            (
                "crops alone",
                ",pretrain.colour_jitter=0",
                "four_starts",
                ("ablation/crops_0", "ablation/crops_1"),
                {},
            ),
            (
                "colours alone",
                ",pretrain.smallest_crop=null",
                "four_starts",
                ("ablation/colours_0", "ablation/colours_1"),
                {},
            ),
            (
                "harder puzzle",
                "",
                "four_starts",
                ("four_starts", "second_pretraining"),
                {"selfie": "Selfie, harder puzzle, 5,000 steps, two runs"},
            ),
        )
    ),
    Study(
        "cats_dogs/four_starts",
        "cats and dogs, narrow, 500 × 64, four starts",
        f"{_PHOTOGRAPHS}pretrain.steps=5000,weights=small200.safetensors,"
        'experiment.arms=[supervised,selfie,weights,weights_selfie]"',
        weights="cats_dogs/stand_in.json",
        weights_name="supervised on 200 classes",
        data="cats and dogs",
        starts={"weights": "weights trained on the labels of 200 other classes"},
    ),
    Study(
        "flowers",
        "flowers, narrow, 500 × 64, harder puzzle, defaults only",
        'kedro run --env=image_folder --pipeline=experiment --params "data.folder=FOLDER,'
        'experiment.labeled_fracs=[0.1]"',
        data="flowers, defaults only",
        starts={"selfie": "Selfie, harder puzzle, 9,370 steps"},
    ),
    Study(
        "small_200/cells",
        "200 classes at 32 × 32, narrow, 6,000 × 64, harder puzzle",
        f'{_GRID}"data.source=image_folder,data.name=small_200,data.folder=FOLDER,'
        f'{_RATE},experiment.labeled_fracs=[0.05],experiment.seeds=[0,1,2]"',
    ),
    Study(
        "small_200/rate_0.3",
        "200 classes at 32 × 32, narrow, 12,000 × 64, harder puzzle, learning rate 0.3",
        f'{_GRID}"data.source=image_folder,data.name=small_200,data.folder=FOLDER,'
        'finetune.steps=12000,experiment.labeled_fracs=[0.05],experiment.seeds=[0,1,2]"',
        data="200 classes at 32 × 32",
        starts={"selfie": "Selfie, harder puzzle, 12,500 steps"},
    ),
    Study(
        "small_200/transfer",
        "200 classes at 32 × 32, narrow, 12,000 × 64, harder puzzle on CIFAR-10",
        f'{_GRID}"data.source=image_folder,data.name=small_200,data.folder=FOLDER,'
        "pretrained_on=cifar10,finetune.steps=12000,experiment.labeled_fracs=[0.05],"
        'experiment.seeds=[0,1,2],experiment.arms=[selfie]"',
        scratch="small_200/rate_0.3",
    ),
    Study(
        "cifar10/long",
        "CIFAR-10, narrow, 6,000 × 64",
        f'{_GRID}"{_PAPER},finetune.steps=6000,finetune.batch_size=64,'
        "finetune.warmup_steps=100,finetune.weight_decay=0.0005,"
        'experiment.labeled_fracs=[0.05],experiment.seeds=[0,1,2]"',
        data="CIFAR-10",
        starts={"selfie": "Selfie, the paper's puzzle, 12,500 steps"},
    ),
    Study(
        "cifar10/harder_puzzle",
        "CIFAR-10, narrow, 6,000 × 64, harder puzzle",
        f'{_GRID}"{_RATE},'
        "weights=simclr.safetensors,experiment.arms=[supervised,selfie,weights],"
        'experiment.labeled_fracs=[0.05],experiment.seeds=[0,1,2,3,4]"',
        weights="benchmarks/simclr_cifar10.json",
        data="CIFAR-10",
        starts={"weights": "SimCLR, as long"},
    ),
    Study(
        ("cifar10/harder_puzzle", "cifar10/second_pretraining"),
        "CIFAR-10, narrow, 6,000 × 64, harder puzzle, two pretrainings",
        f'{_GRID}"{_RATE},'
        'experiment.labeled_fracs=[0.05],experiment.seeds=[0,1,2,3,4]", and again with '
        "pretrain.seed=1",
        scratch="cifar10/harder_puzzle",
    ),
    Study(
        ("cifar10/rate_0.3", "cifar10/rate_0.3_second"),
        "CIFAR-10, narrow, 6,000 × 64, harder puzzle, learning rate 0.3, two pretrainings",
        f'{_GRID}"experiment.labeled_fracs=[0.05]", and again with pretrain.seed=1',
        scratch="cifar10/harder_puzzle",
        data="CIFAR-10",
        starts={"selfie": "Selfie, harder puzzle, 12,500 steps, two runs"},
    ),
    Study(
        ("cifar10/steps_1000", "cifar10/steps_1000_second"),
        "CIFAR-10, narrow, 6,000 × 64, harder puzzle, rate 0.3, 1,000 steps, two pretrainings",
        f'{_GRID}"pretrain.steps=1000,experiment.labeled_fracs=[0.05],experiment.seeds=[0,1,2],'
        'experiment.arms=[selfie]", and again with pretrain.seed=1',
        scratch="cifar10/harder_puzzle",
        data="CIFAR-10",
        starts={"selfie": "Selfie, harder puzzle, 1,000 steps, two runs"},
    ),
    Study(
        ("cifar10/targets_8", "cifar10/targets_8_second"),
        "CIFAR-10, narrow, 6,000 × 64, harder puzzle, rate 0.3, eight targets, two pretrainings",
        f'{_GRID}"patch.targets=8,experiment.labeled_fracs=[0.05],experiment.arms=[selfie]", '
        "and again with pretrain.seed=1",
        scratch="cifar10/harder_puzzle",
        data="CIFAR-10",
        starts={"selfie": "Selfie, harder puzzle, half of the patches masked, two runs"},
    ),
    Study(
        "cifar10/transfer",
        "CIFAR-10, narrow, 6,000 × 64, harder puzzle on 200 other classes, learning rate 0.3",
        f'{_GRID}"pretrained_on=small_200,experiment.labeled_fracs=[0.05],'
        'experiment.arms=[selfie]"',
        scratch="cifar10/harder_puzzle",
        data="CIFAR-10",
        starts={"selfie": "Selfie, harder puzzle on 200 other classes, 12,500 steps"},
    ),
    Study(
        "cifar10/cells",
        "CIFAR-10, narrow, short: 800 × 32",
        f'{_GRID}"{_PAPER},finetune.steps=800,finetune.batch_size=32,'
        "finetune.warmup_steps=50,finetune.weight_decay=0.0001,"
        'experiment.labeled_fracs=[0.05,0.2],experiment.seeds=[0,1,2],tune.trials=3"',
    ),
    Study(
        "cifar10/hybrid",
        "CIFAR-10, narrow with attention, short: 800 × 32",
        f'{_GRID}"{_PAPER},finetune.steps=800,finetune.batch_size=32,'
        "finetune.warmup_steps=50,finetune.weight_decay=0.0001,"
        "finetune.architecture=resnet36_attention,"
        "finetune.peak_learning_rate=0.049944766738414935,"
        'experiment.labeled_fracs=[0.05],experiment.seeds=[0,1,2]"',
    ),
    Study(
        "cifar10/hybrid_long",
        "CIFAR-10, narrow with attention, 6,000 × 64, harder puzzle",
        f'{_GRID}"{_RATE},finetune.architecture=resnet36_attention,'
        'experiment.labeled_fracs=[0.05],experiment.seeds=[0,1,2]"',
    ),
]


def summarise(study: Study) -> Iterator[dict[str, Any]]:
    """Yield a row of the summary for each labeled fraction and arm of a study."""
    cells = list(chain(*study.pretrainings()))
    for row in build_results_table(study.cells()).itertuples():
        same = [c for c in cells if c["labels"] == row.labels and c["arm"] == row.arm]
        origins = [cell["provenance"] for cell in same]
        seeds = {origin["configuration"].get("pretrain", {}).get("seed") for origin in origins}
        images = {origin["pretraining_images"] for origin in origins} - {None}
        if row.arm == "weights":
            images = {study.weights_images()}
        pretrained = row.arm != "supervised"
        is_simclr = row.arm == "weights" and study.weights_name == "SimCLR"
        yield {
            "data": study.title,
            "labels_percent": f"{row.labeled_percent:g}",
            "arm": "simclr" if is_simclr else row.arm,
            "baseline": "supervised" if pretrained else "",
            "accuracy": _round(row.mean),
            "gain": _round(row.difference),
            "gain_low": _round(row.difference_low),
            "gain_high": _round(row.difference_high),
            "finetuning_seeds": row.seeds,
            "pretraining_seeds": len(seeds) if pretrained else 0,
            "pretraining_images": max(images, default=0),
            "converged": "" if pd.isna(row.converged) else str(row.converged).lower(),
            "command": study.command,
        }


def readme_table() -> str:
    """Return a Markdown table of some of the studies' starts."""
    head = ["data", "labels", "start", "from scratch", "with this start", "gain", "seeds"]
    rows = [head, ["---"] * len(head)]
    for study in STUDIES:
        table = build_results_table(study.cells())
        text = display_table(table)
        for arm, start in study.starts.items():
            row = table.index[table["arm"] == arm][0]
            same = table["labels"] == table.loc[row, "labels"]
            both = table[same & table["arm"].isin(["supervised", arm])]
            scratch = both.index[both["arm"] == "supervised"][0]
            rows.append(
                [
                    study.data,
                    text.loc[row, "Labeled"],
                    start if both["converged"].all() else f"{start}; not converged",
                    *(_without_n(text.loc[each, "Accuracy, %"]) for each in (scratch, row)),
                    _without_n(text.loc[row, "Difference, points (95 % CI)"]),
                    str(table.loc[row, "pairs"]),
                ]
            )
    return _to_markdown(rows)


def full_table() -> str:
    """Return the studies as a Markdown table with a row for each labeled fraction and start."""
    head = ["data, network, finetuning", "labels", "from scratch", "pretrained", "accuracy"]
    rows = [[*head, "difference", "converged"], ["---"] * 7]
    for study in STUDIES:
        text = display_table(build_results_table(study.cells()))
        for labels, arms in text.groupby("Labeled", sort=False):
            (_, scratch), *others = arms.iterrows()
            for _, arm in others:
                converged = {each.get("Converged", "") for each in (scratch, arm)}
                answer = "not recorded" if "" in converged else "no" if "no" in converged else "yes"
                rows.append(
                    [
                        study.title,
                        str(labels),
                        scratch["Accuracy, %"],
                        study.name_arms().get(arm["Arm"], arm["Arm"]),
                        arm["Accuracy, %"],
                        arm["Difference, points (95 % CI)"],
                        answer,
                    ]
                )
    return _to_markdown(rows)


def summary_text() -> str:
    """Return the content of `summary.csv`."""
    rows = [row for study in STUDIES for row in summarise(study)]
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def with_table(page: str, table: str) -> str:
    """Return a page with the table between its two marks replaced."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}{table}{END}{rest.split(END)[1]}"


def _key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return cell["arm"], cell["labeled_frac"], cell["seed"]


def _has_converged(cell: dict[str, Any]) -> bool:
    ending = cell["provenance"].get("training")
    return bool(ending) and has_converged(ending)


def _to_markdown(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _without_n(text: str) -> str:
    """Return an accuracy or a difference without the number of its seeds."""
    return re.sub(r" \(n = \d+\)|; n = \d+", "", text)


def _round(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


if __name__ == "__main__":
    SUMMARY.write_text(summary_text(), encoding="utf-8")
    for path, table in ((README, readme_table()), (INDEX, full_table())):
        path.write_text(with_table(path.read_text(encoding="utf-8"), table), encoding="utf-8")
