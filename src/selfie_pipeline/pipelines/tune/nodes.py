"""Nodes of the tuning."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import pandas as pd
from sklearn.model_selection import train_test_split
from torch import nn

from selfie_pipeline.config import (
    Arm,
    AugmentationConfig,
    ComputeConfig,
    ExperimentConfig,
    FinetuneConfig,
    ModelConfig,
    PatchConfig,
    TuneConfig,
    UserError,
)
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.datasets.weights import Weights
from selfie_pipeline.evaluation.scores import accuracy
from selfie_pipeline.pipelines.finetune.nodes import (
    draw_labeled_subset,
    initialise_from_encoder,
    initialise_from_scratch,
    train_classifier,
)
from selfie_pipeline.pipelines.finetune.origin import FROM_SCRATCH, classifier_origin, from_encoder
from selfie_pipeline.pipelines.patch.nodes import stored_images
from selfie_pipeline.provenance import digest
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import Images
from selfie_pipeline.training.data.randomness import Purpose, fold_in
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.engine import run_jobs
from selfie_pipeline.training.finetuning import classify
from selfie_pipeline.training.jobs import Chain
from selfie_pipeline.training.search import Best, Search, ended
from selfie_pipeline.training.tasks import NonFiniteLossError, Task

_LOG = logging.getLogger(__name__)
_PARTS = 4
"""Parts of a trial, after each of which it is scored, and may be given up."""


def hold_out(samples: pd.DataFrame, tune: TuneConfig) -> pd.DataFrame:
    """Cut the validation split from the training samples, stratified; the test split stays out.

    Returns:
        The training samples, of which those held out are of the split "validation".

    Raises:
        UserError: There are too few samples of a class to hold one out.
    """
    train = samples[samples["split"] == "train"].copy()
    try:
        _, held_out = train_test_split(
            train.index,
            test_size=tune.validation_share,
            stratify=train["label"],
            random_state=fold_in(tune.seed, Purpose.VALIDATION) % 2**32,
        )
    except ValueError as error:
        raise UserError(
            f"tune.validation_share = {tune.validation_share:g} of {len(train)} training samples "
            f"can't be held out ({error}); allowed: a share that leaves every class a sample on "
            "either side"
        ) from None
    train.loc[held_out, "split"] = "validation"
    return train


def tune_finetuning(
    encoder: Weights,
    samples: pd.DataFrame,
    patch_grids: PatchGrids,
    folder: Path,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: FinetuneConfig,
    compute: ComputeConfig,
    tune: TuneConfig,
    experiment: ExperimentConfig,
    resume: Literal["auto", "never"],
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Search the best parameters for each arm and fraction of the experiment.

    A trial is finetuned on a labeled subset of what is not held out, and scored on what is; the
    test split has no part in it. On a cluster the searches go on side by side; the trials of each
    follow from one another, so that it finds what it finds here.

    Returns:
        What was found, an entry of `Best`'s fields a search; and one row a trial.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'studies.db'}")
    split = hold_out(samples, tune)
    images = stored_images(patch_grids, patch, augmentation)
    within = compute.model_copy(update={"engine": "local"})  # of a trial, wherever it runs

    def searched(arm: Arm, fraction: float) -> Chain[tuple[Best, pd.DataFrame]]:
        pretraining = from_encoder(encoder) if arm == "selfie" else FROM_SCRATCH
        origin = classifier_origin(
            pretraining, patch_grids.fingerprint, patch, augmentation, model, recipe
        )

        def initialise(changed: FinetuneConfig) -> Weights:
            shared = (split, patch, model, changed, tune.seed)
            if arm == "selfie":
                return initialise_from_encoder(encoder, *shared)
            return initialise_from_scratch(*shared)

        search = Search(arm, fraction, origin, tune)
        study = search.open(storage)
        trial = _Trial(search, split, images, model, recipe, within, folder, resume, initialise)
        yield from search.run(study, trial)
        best = search.best(study)
        _LOG.info(
            "tune: %s, %g %%: %s, validation accuracy %.1f %% (%d trials)",
            arm,
            100 * fraction,
            ", ".join(f"{name} = {value:.3g}" for name, value in best.settings.items()),
            100 * best.validation_accuracy,
            best.trials,
        )
        return best, _trials_table(search, study)

    chains = [
        searched(arm, fraction) for arm in experiment.arms for fraction in experiment.labeled_fracs
    ]
    found, tables = zip(*run_jobs(chains, compute), strict=True)
    return [asdict(best) for best in found], pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class _Trial:
    """The objective of a search: train with some settings, score on the validation split."""

    search: Search
    samples: pd.DataFrame
    images: Images
    model: ModelConfig
    recipe: FinetuneConfig
    compute: ComputeConfig
    folder: Path
    resume: Literal["auto", "never"]
    initialise: Callable[[FinetuneConfig], Weights]

    def __call__(self, trial: optuna.Trial) -> float:
        settings = self.search.suggest(trial)
        device = find_device(self.compute)
        recipe = self.recipe.model_copy(update=settings)
        seed = self.search.tune.seed
        identity = {"study": self.search.study, "settings": settings}
        checkpoints = Checkpoints(
            self.folder / "checkpoints" / digest(identity)[:16],
            {**identity, "precision": device.precision},
            recipe.checkpoint_every,
            self.resume,
        )
        looks = {recipe.steps * part // _PARTS for part in range(1, _PARTS)}

        def look(task: Task, done: int) -> None:
            if done not in looks:
                return
            trial.report(self.score(task.network, device), done)
            task.network.train()
            if trial.should_prune():
                raise optuna.TrialPruned

        title = f"tune, {self.search.arm}, {100 * self.search.labeled_frac:g} %"
        try:
            network, _ = train_classifier(
                self.initialise(recipe),
                draw_labeled_subset(self.samples, self.search.labeled_frac, seed),
                self.images,
                self.model,
                recipe,
                seed,
                device,
                checkpoints,
                f"{title}, trial {trial.number + 1}",
                look,
            )
        except NonFiniteLossError as error:
            _LOG.warning("%s: given up: %s", title, error)
            raise optuna.TrialPruned from None
        value = self.score(network, device)
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
        return value

    def score(self, network: nn.Module, device: Device) -> float:
        """Accuracy on the validation split, a fraction."""
        held_out = self.samples[self.samples["split"] == "validation"]
        logits = classify(network, self.images, held_out["sample"].to_numpy(), device)
        return accuracy(held_out["label"].to_numpy(), logits)


def _trials_table(search: Search, study: optuna.Study) -> pd.DataFrame:
    """One row a trial that ended: its settings, its score and whether it was given up early."""
    return pd.DataFrame(
        [
            {
                "arm": search.arm,
                "labeled_frac": search.labeled_frac,
                "trial": trial.number + 1,
                "state": trial.state.name.lower(),
                **trial.params,
                "validation_accuracy": trial.value,
                "study": search.study,
            }
            for trial in ended(study)
        ]
    )
