"""Tests of the check of the labels, before the first training."""

from __future__ import annotations

import pandas as pd
import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.label_check import check_labels


def samples(*counts: int) -> pd.DataFrame:
    """Some training samples of each class."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return pd.DataFrame({"split": "train", "label": labels, "sample": range(len(labels))})


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"encoder"}, None),
        ({"selfie_classifier"}, None),
        ({"supervised_classifier"}, None),
        ({"encoder", "experiment_cells"}, "0.02 of 60 training samples leaves 1 of 2"),
        ({"encoder", "params:ratio"}, "0.02 of 60 training samples leaves 1 of 2"),
        ({"tuning_trials"}, "0.02 of 48 training samples leaves 1 of 2"),
    ],
)
def test_the_smallest_subset_of_a_run_is_checked(make_config, entries, message):
    config = make_config({"labeled_frac": 0.1, "experiment.labeled_fracs": [0.5, 0.02]})
    table = samples(40, 20)

    if message is None:
        check_labels(table, config, entries)
        return
    with pytest.raises(UserError, match=rf"^min\(experiment.labeled_fracs\) = {message}"):
        check_labels(table, config, entries)


def test_samples_that_cannot_be_held_out_are_noticed(make_config):
    with pytest.raises(UserError, match=r"tune.validation_share = 0.2 of 3"):
        check_labels(samples(2, 1), make_config(), {"tuning_trials"})


def test_a_run_without_labels_can_only_pretrain(make_config):
    unlabeled = pd.DataFrame({"split": ["unlabeled"], "label": [-1]})

    check_labels(unlabeled, make_config(), {"encoder"})
    with pytest.raises(UserError, match="only pretraining can run"):
        check_labels(unlabeled, make_config(), {"encoder", "selfie_classifier"})
