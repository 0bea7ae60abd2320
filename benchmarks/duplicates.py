"""Compares the near duplicates that the data check finds in CIFAR-10 with those that people found.

    kedro run --env=cifar10_small --pipelines=ingest,patch
    python benchmarks/duplicates.py duplicates_cifar10.csv

The list is that of ciFAIR (Barz and Denzler, arXiv 1902.00423; meta/ in the repository
cvjena/cifair). It pairs test images with the nearest training image by a network's features, which
a person judged to be an exact duplicate (0), a near duplicate (1) or a very similar picture (2).
An image may be in several pairs, of which the list has one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).parents[1]
_TRAINING_IMAGES = 50_000


def main() -> None:
    """Count the pairs found at a few thresholds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", type=Path, help="ciFAIR's duplicates_cifar10.csv")
    parser.add_argument("--recipe", default="cifar10_small")
    options = parser.parse_args()

    stored = PROJECT / "data/03_primary" / options.recipe / "duplicates.csv"
    pairs = pd.read_csv(max(stored.glob("*/duplicates.csv")))
    pairs["test"] = pairs["second_sample"] - _TRAINING_IMAGES
    listed = pd.read_csv(options.list).rename(columns={"TestID": "test", "TrainID": "first_sample"})
    print(f"listed: {listed['Judgment'].value_counts().to_dict()} by judgment")
    rows = []
    for distance in (6, 8, 10):
        for similarity in (0.6, 0.7, 0.8):
            found = pairs[(pairs["distance"] <= distance) & (pairs["similarity"] >= similarity)]
            both = found.merge(listed, on=["first_sample", "test"])
            unlisted = found[~found["test"].isin(listed["test"])]
            rows.append(
                {
                    "bits": distance,
                    "similarity": similarity,
                    "pairs": len(found),
                    "training images": found["first_sample"].nunique(),
                    "test images": found["test"].nunique(),
                    "of these not listed": unlisted["test"].nunique(),
                    "listed pairs, near": int((both["Judgment"] <= 1).sum()),
                    "very similar": int((both["Judgment"] == 2).sum()),  # noqa: PLR2004
                    "of other classes": int(
                        (found["first_class_name"] != found["second_class_name"]).sum()
                    ),
                }
            )
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
