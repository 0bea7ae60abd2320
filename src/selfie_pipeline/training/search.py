"""The search for the best finetuning parameters of an arm and a labeled fraction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from selfie_pipeline.config import Arm, TuneConfig
from selfie_pipeline.provenance import hash_json
from selfie_pipeline.training.jobs import Job

Objective = Callable[[optuna.Trial], float]


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: an entry of `best_settings`.

    Attributes:
        study: Name of the search, which identifies everything that its trials depend on.
        arm: Arm that was searched for.
        labeled_frac: Labeled fraction that was searched for.
        settings: The best values of the parameters of `finetune`, by name.
        validation_accuracy: Accuracy with these values, a fraction.
        trials: Number of completed and pruned trials.
    """

    study: str
    arm: Arm
    labeled_frac: float
    settings: dict[str, float]
    validation_accuracy: float
    trials: int


@dataclass(frozen=True)
class Search:
    """The search for one arm and labeled fraction.

    Attributes:
        arm: Arm to search for.
        labeled_frac: Labeled fraction to search for.
        lineage: Lineage of the classifiers with the recipe's own values, as
            `lineage.classifier_lineage` returns it.
        tune: Parameters of the search.
    """

    arm: Arm
    labeled_frac: float
    lineage: dict[str, Any]
    tune: TuneConfig

    @property
    def study(self) -> str:
        """The name of its study, which changes with anything that its trials depend on.

        The number of trials is not part of it, so that a search can be extended.
        """
        fixed = hash_json({**self.lineage, "tune": self.tune.model_dump(exclude={"trials"})})
        return f"{self.arm}, {100 * self.labeled_frac:g} %, {fixed[:12]}"

    def find_settings(self, results: Iterable[SearchResult]) -> dict[str, float]:
        """Return the best values among the results of searches; none if this one was not made."""
        return next((result.settings for result in results if result.study == self.study), {})

    def open_study(self, storage: optuna.storages.BaseStorage) -> optuna.Study:
        """Load the study, or create it with the recipe's own values as the first trial.

        Trials that an interrupted run had started are the next ones.
        """
        study = optuna.create_study(
            study_name=self.study,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
        )
        finished = [trial.params for trial in finished_trials(study)]
        interrupted = [
            trial.params
            for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.FAIL))
            if trial.params and trial.params not in finished
        ]
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
        waiting: list[dict[str, Any]] = interrupted
        if not finished and not interrupted:
            recipe = self.lineage["configuration"]["finetune"]
            waiting = [{name: recipe[name] for name in self.tune.space}]
        for params in waiting:
            study.enqueue_trial(params, skip_if_exists=True)
        return study

    def run(self, study: optuna.Study, objective: Objective) -> Job[None]:
        """Run the remaining trials; the values of each depend on those before.

        Only this process reads and writes the study's storage. The yielded calls receive the
        trials before them and need nothing else, so they may run on other machines, with the same
        results.
        """
        while (finished := len(finished_trials(study))) < self.tune.trials:
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=5, seed=self.tune.seed + finished
            )
            trial = study.ask()
            settings = self.suggest(trial)
            tried: FrozenTrial = yield partial(
                run_trial, objective, settings, finished_trials(study)
            )
            for step, score in tried.intermediate_values.items():
                trial.report(score, step)
            pruned = tried.state == TrialState.PRUNED
            study.tell(trial, None if pruned else tried.value, tried.state)

    def suggest(self, trial: optuna.Trial) -> dict[str, float]:
        """Suggest the values of a trial."""
        return {
            name: trial.suggest_float(name, interval.low, interval.high, log=interval.log)
            for name, interval in self.tune.space.items()
        }

    def result(self, study: optuna.Study) -> SearchResult:
        """Return the best values that the study has found so far."""
        return SearchResult(
            study=self.study,
            arm=self.arm,
            labeled_frac=self.labeled_frac,
            settings=study.best_params,
            validation_accuracy=study.best_value,
            trials=len(finished_trials(study)),
        )


def run_trial(
    objective: Objective, settings: dict[str, float], before: list[FrozenTrial]
) -> FrozenTrial:
    """Run one trial.

    Args:
        objective: The function to maximise.
        settings: Values of the trial.
        before: The search's trials so far, which determine if this one is pruned.

    Returns:
        The trial, completed or pruned.
    """
    study = optuna.create_study(
        direction="maximize",
        # Under a cosine schedule high rates catch up late, so only the worst quarter is pruned.
        pruner=optuna.pruners.PercentilePruner(75, n_startup_trials=3),
    )
    study.add_trials(before)
    study.enqueue_trial(settings)
    study.optimize(objective, n_trials=1)
    return study.trials[-1]


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were completed or pruned, without those that were interrupted."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
