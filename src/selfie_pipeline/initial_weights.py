"""The initial weights of an experiment's arms: an encoder, given weights, or none."""

from __future__ import annotations

from collections.abc import Collection

from selfie_pipeline.config import Arm, UserError
from selfie_pipeline.datasets.weights import read_given_weights
from selfie_pipeline.project import Project, resolve_path
from selfie_pipeline.provenance import find_differences
from selfie_pipeline.training.lineage import pretraining_lineage
from selfie_pipeline.weights import Weights


def load_initial_weights(
    arms: Collection[Arm], encoder: Weights | None, weights: str | None, project: Project
) -> dict[Arm, Weights | None]:
    """Load what each arm starts from, before any of them is trained.

    Args:
        arms: The arms of the experiment.
        encoder: The encoder of this run, pretrained from scratch; None if no arm starts from it.
        weights: The file of the given weights; None if no arm starts from it.
        project: The project, which has the encoder that was pretrained from these weights.

    Raises:
        UserError: The file can't be read; this run's encoder did not begin from scratch; or that of
            `weights_selfie` does not exist, or was pretrained otherwise than this run's.
    """
    initial: dict[Arm, Weights | None] = {"supervised": None, "selfie": encoder}
    if encoder is not None:
        pretraining = pretraining_lineage(encoder)["configuration"]
        if "weights" in pretraining["pretrain"]:
            raise UserError(
                "pretrain.weights makes the encoder of another arm; leave it out, and set "
                "weights=FILE,experiment.arms=[supervised,selfie,weights,weights_selfie]"
            )
    if weights is not None and {"weights", "weights_selfie"}.intersection(arms):
        initial["weights"] = given = read_given_weights(resolve_path(weights))
    if weights is not None and "weights_selfie" in arms:
        found: Weights | None = project.load("encoder", pretrain={"weights": weights})
        wanted = pretraining | {"pretrain": pretraining["pretrain"] | given.provenance}
        theirs = pretraining_lineage(found)["configuration"] if found else {}
        if theirs != wanted:
            differences = "; ".join(
                f"{name}: {old}, not {new}" for name, old, new in find_differences(theirs, wanted)
            )
            raise UserError(
                "the arm weights_selfie needs an encoder with the pretraining of the arm selfie, "
                f"started from {weights}; run `kedro run --pipeline=pretrain --params "
                f"pretrain.weights={weights}`, with the options of this run"
                + (f" (the latest has {differences})" if found else "")
            )
        initial["weights_selfie"] = found
    return initial
