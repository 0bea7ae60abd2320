"""What is searched for an arm and a labeled fraction, and what was found."""

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
class Best:
    """What a search found: an entry of `best_settings`.

    Attributes:
        study: Name of the search; it says everything that the search followed from.
        settings: Values of `finetune`'s parameters, by their names.
        validation_accuracy: With these, a fraction.
        trials: Trainings that ended, and were given up early.
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
        arm: Which arm.
        labeled_frac: Which fraction.
        origin: As `finetune.origin.classifier_lineage` gives it, with the recipe's own values.
        tune: How and where to search.
    """

    arm: Arm
    labeled_frac: float
    origin: dict[str, Any]
    tune: TuneConfig

    @property
    def study(self) -> str:
        """Its name: another one as soon as anything differs that its trials follow from.

        The number of trials is not among that: a search may go on.
        """
        fixed = hash_json({**self.origin, "tune": self.tune.model_dump(exclude={"trials"})})
        return f"{self.arm}, {100 * self.labeled_frac:g} %, {fixed[:12]}"

    def settings_among(self, found: Iterable[Best]) -> dict[str, float]:
        """What this search found; nothing where it has not been made."""
        return next((best.settings for best in found if best.study == self.study), {})

    def open(self, storage: optuna.storages.BaseStorage) -> optuna.Study:
        """The study: new, with the recipe's own values to be tried first, or as it was left.

        What an interrupted run had begun to try comes first.
        """
        study = optuna.create_study(
            study_name=self.study,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
        )
        done = [trial.params for trial in ended(study)]
        broken = [
            trial.params
            for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.FAIL))
            if trial.params and trial.params not in done
        ]
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
        if not done and not broken:
            recipe = self.origin["configuration"]["finetune"]
            broken = [{name: recipe[name] for name in self.tune.space}]
        for params in broken:
            study.enqueue_trial(params, skip_if_exists=True)
        return study

    def run(self, study: optuna.Study, objective: Objective) -> Job[None]:
        """Run the trials that are left; which values come next follows from those before.

        The study stays with this process, which alone reads and writes its storage. What is called
        knows the trials before it, and needs nothing else: it may run on another machine, and
        finds the same there.
        """
        while (done := len(ended(study))) < self.tune.trials:
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=5, seed=self.tune.seed + done
            )
            trial = study.ask()
            settings = self.suggest(trial)
            tried: FrozenTrial = yield partial(run_trial, objective, settings, ended(study))
            for step, score in tried.intermediate_values.items():
                trial.report(score, step)
            pruned = tried.state == TrialState.PRUNED
            study.tell(trial, None if pruned else tried.value, tried.state)

    def suggest(self, trial: optuna.Trial) -> dict[str, float]:
        """Values to try."""
        return {
            name: trial.suggest_float(name, where.low, where.high, log=where.log)
            for name, where in self.tune.space.items()
        }

    def best(self, study: optuna.Study) -> Best:
        """What the study has found so far."""
        return Best(
            study=self.study,
            arm=self.arm,
            labeled_frac=self.labeled_frac,
            settings=study.best_params,
            validation_accuracy=study.best_value,
            trials=len(ended(study)),
        )


def run_trial(
    objective: Objective, settings: dict[str, float], before: list[FrozenTrial]
) -> FrozenTrial:
    """Run one trial.

    Args:
        objective: What is searched.
        settings: Values to try.
        before: The search's trials so far; they say whether this one is worth going on with.

    Returns:
        The trial, which has come to its end or was given up early.
    """
    study = optuna.create_study(
        direction="maximize",
        # Under a cosine schedule high rates catch up late: only the last quarter is given up.
        pruner=optuna.pruners.PercentilePruner(75, n_startup_trials=3),
    )
    study.add_trials(before)
    study.enqueue_trial(settings)
    study.optimize(objective, n_trials=1)
    return study.trials[-1]


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """Its trials that came to their end or were given up early; not those that broke off."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
