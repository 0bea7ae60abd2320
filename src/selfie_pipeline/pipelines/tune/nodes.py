"""Node of the tuning."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd
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
from selfie_pipeline.initial_weights import load_initial_weights
from selfie_pipeline.models.classifier import Classifier
from selfie_pipeline.project import Project
from selfie_pipeline.provenance import hash_json
from selfie_pipeline.sources.samples import count_classes
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import WindowReader, open_windows
from selfie_pipeline.training.data.subset import draw_labeled_subset, hold_out
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.finetuning import (
    finetune,
    finetuning_bytes,
    initialise_classifier,
    set_initial_weights,
)
from selfie_pipeline.training.inference import NonFiniteOutputError, compute_accuracy
from selfie_pipeline.training.job_runner import run_jobs
from selfie_pipeline.training.jobs import Job, WorkerDiedError
from selfie_pipeline.training.lineage import (
    classifier_lineage,
    fingerprint_data,
    initial_weights_lineage,
)
from selfie_pipeline.training.search import Search, SearchResult
from selfie_pipeline.training.state import NonFiniteLossError, TrainingState
from selfie_pipeline.weights import Weights

if TYPE_CHECKING:
    import optuna  # an extra
    from optuna.trial import FrozenTrial

_LOG = logging.getLogger(__name__)
_EVALUATIONS = 4
"""Validations of a trial, the last one at its end; it may be pruned after each of the others."""
_SCORE_PREFIX = "validation_"
"""Beginning of a score's name in the checkpoints; the step follows."""
_ALL_DIVERGED = (
    "the loss of every trial diverged; lower the learning rates in tune.space and "
    "finetune.peak_learning_rate, or set finetune.clip_norm, and run again"
)


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
    weights: str | None,
    project: Project,
) -> tuple[list[SearchResult], pd.DataFrame]:
    """Search the best parameters for each arm and fraction of the experiment.

    A trial is finetuned on a labeled subset of the samples that are not held out, and scored on
    those that are. The searches run in parallel. The trials of a search follow from one another,
    so it finds the same as alone.

    Returns:
        The results of the searches that found some values, then the latest results of the earlier
        ones, which were for other arms, fractions or trainings; and one row a trial of this run.

    Raises:
        UserError: A value of the recipe is outside its range; the file of the studies can't be read
            or written; all trials of all searches diverged; or see `run_jobs`.
    """
    from selfie_pipeline.training.trials import (  # noqa: PLC0415  # Optuna is an extra
        best_result,
        finished_trials,
        open_studies,
        open_study,
        run_search,
    )

    _check_ranges(recipe, tune)
    earlier: list[SearchResult] = project.load("best_settings") or []
    data = fingerprint_data(patch_grids, samples)
    split = hold_out(samples, tune)
    images = open_windows(patch_grids, patch, augmentation)
    initial = load_initial_weights(experiment.arms, encoder, weights, project)
    trial_compute = compute.model_copy(update={"engine": "local"})  # wherever a trial runs

    def search_one(arm: Arm, fraction: float) -> Job[tuple[SearchResult | None, pd.DataFrame]]:
        pretraining = initial_weights_lineage(initial[arm])
        lineage = classifier_lineage(pretraining, data, patch, augmentation, model, recipe)
        search = Search(arm, fraction, lineage, tune)
        study = open_study(search, storage)
        objective = _Objective(
            search, split, images, model, recipe, trial_compute, folder, resume, initial[arm]
        )
        try:
            yield from run_search(search, study, objective)
        except WorkerDiedError as error:
            raise UserError(f"tune, {arm}, {100 * fraction:g} %: {error}") from None
        best = best_result(search, study)
        _log_result(search, best)
        return best, _trials_table(search, finished_trials(study))

    grid = list(product(experiment.arms, experiment.labeled_fracs))
    jobs = [search_one(arm, fraction) for arm, fraction in grid]
    trial_bytes = finetuning_bytes(model, recipe, patch)
    with open_studies(folder / "studies.db") as storage:
        found, tables = zip(*run_jobs(jobs, compute, trial_bytes), strict=True)
    results = [best for best in found if best is not None]
    if not results:
        searches = "; ".join(f"{arm}, {100 * fraction:g} %" for arm, fraction in grid)
        raise UserError(f"no values were found ({searches}): {_ALL_DIVERGED}")
    repeated = {search["study"] for search in results}
    kept = [search for search in earlier if search["study"] not in repeated]
    return [*results, *kept], pd.concat(tables, ignore_index=True)


def _check_ranges(recipe: FinetuneConfig, tune: TuneConfig) -> None:
    """Check that the first trial, which has the recipe's values, is in the search space."""
    for name, interval in tune.space.items():
        value = getattr(recipe, name)
        if not interval.low <= value <= interval.high:
            raise UserError(
                f"finetune.{name} = {value:g}, which the first trial has, is outside tune.space, "
                f"from {interval.low:g} to {interval.high:g}; change one of them"
            )


def _log_result(search: Search, best: SearchResult | None) -> None:
    title = f"tune: {search.arm}, {100 * search.labeled_frac:g} %"
    if best is None:
        _LOG.warning("%s: no values were found: %s", title, _ALL_DIVERGED)
        return
    _LOG.info(
        "%s: %s, validation accuracy %.1f %% (%d trials)",
        title,
        ", ".join(f"{name} = {value:.3g}" for name, value in best["settings"].items()),
        100 * best["validation_accuracy"],
        best["trials"],
    )


@dataclass(frozen=True)
class _Objective:
    """The objective of a search: train with some settings, score on the validation split."""

    search: Search
    samples: pd.DataFrame
    images: WindowReader
    model: ModelConfig
    recipe: FinetuneConfig
    compute: ComputeConfig
    folder: Path
    resume: Literal["auto", "never"]
    initial_weights: Weights | None

    def __call__(self, trial: optuna.Trial) -> float:
        from optuna import TrialPruned  # noqa: PLC0415  # an extra

        settings = self.search.suggest(trial)
        device = find_device(self.compute)
        recipe = self.recipe.model_copy(update=settings)
        identity = {"study": self.search.study_name, "settings": settings}
        checkpoints = Checkpoints(
            self.folder / "checkpoints" / hash_json(identity)[:16],
            {**identity, "precision": device.precision},
            recipe.checkpoint_every,
            self.resume,
        )
        percent = f"{100 * self.search.labeled_frac:g} %"
        title, score = f"tune, {self.search.arm}, {percent}, trial {trial.number + 1}", None
        try:
            score = self._train(trial, recipe, device, checkpoints, title)
        except (NonFiniteLossError, NonFiniteOutputError):
            _LOG.warning("%s: pruned, because its loss or its outputs are not finite", title)
        except TrialPruned:
            pass
        checkpoints.remove()  # kept if the trial is interrupted
        if score is None:
            raise TrialPruned
        return score

    def _train(
        self,
        trial: optuna.Trial,
        recipe: FinetuneConfig,
        device: Device,
        checkpoints: Checkpoints,
        title: str,
    ) -> float:
        """Train, and report the scores on the way; return the last one.

        Raises:
            TrialPruned: Another score was too low.
            NonFiniteLossError: The loss diverged.
        """
        from optuna import TrialPruned  # noqa: PLC0415  # an extra

        evaluated = {recipe.steps * part // _EVALUATIONS for part in range(1, _EVALUATIONS)}
        reported: set[str] = set()

        def report(measured: Mapping[str, float]) -> None:
            """Report new scores, which are those before a checkpoint if the trial was resumed."""
            for name in measured.keys() - reported:
                trial.report(measured[name], int(name.removeprefix(_SCORE_PREFIX)))
            reported.update(measured)

        def evaluate(state: TrainingState) -> None:
            if state.step in evaluated:
                state.measured[f"{_SCORE_PREFIX}{state.step}"] = self.score(state.network, device)
                state.network.train()
            report(state.measured)
            if state.step in evaluated and trial.should_prune():
                raise TrialPruned

        network, pretrained = self._initialise(recipe)
        fraction, seed = self.search.labeled_frac, self.search.tune.seed
        labeled = draw_labeled_subset(self.samples, fraction, seed)
        trained = finetune(
            network,
            pretrained=pretrained,
            recipe=recipe,
            seed=seed,
            images=self.images,
            rows=labeled["sample"].to_numpy(),
            labels=labeled["label"].to_numpy(),
            device=device,
            checkpoints=checkpoints,
            title=title,
            callbacks=[evaluate],
        )
        report(trained.measured)  # of a trial that was resumed after its last step
        return self.score(network, device)

    def _initialise(self, recipe: FinetuneConfig) -> tuple[Classifier, list[str]]:
        """Initialise the classifier; return it with the names of its pretrained tensors."""
        classes, seed = count_classes(self.samples), self.search.tune.seed
        patch = self.images.patch
        network = initialise_classifier(self.model, recipe.architecture, patch, classes, seed)
        return network, set_initial_weights(network, self.initial_weights, self.model)

    def score(self, network: nn.Module, device: Device) -> float:
        """Compute the accuracy on the validation split, a fraction."""
        held_out = self.samples[self.samples["split"] == "validation"]
        rows, labels = held_out["sample"].to_numpy(), held_out["label"].to_numpy()
        return compute_accuracy(network, self.images, rows, labels, device)


def _trials_table(search: Search, trials: Iterable[FrozenTrial]) -> pd.DataFrame:
    """Tabulate the trials that ended: settings, score, and whether each was pruned."""
    return pd.DataFrame(
        [
            {
                "arm": search.arm,
                "labeled_frac": search.labeled_frac,
                "trial": number,
                "state": trial.state.name.lower(),
                **trial.params,
                "validation_accuracy": float("nan") if trial.value is None else trial.value,
                "study": search.study_name,
            }
            for number, trial in enumerate(trials, 1)  # without those that were interrupted
        ]
    )
