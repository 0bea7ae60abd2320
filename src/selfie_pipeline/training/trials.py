"""The trials of a search, which Optuna chooses, keeps and prunes.

Nothing imports this module before a search begins: Optuna is an extra.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, NullPool

from selfie_pipeline.atomic_write import atomic_write
from selfie_pipeline.config import UserError
from selfie_pipeline.locks import lock
from selfie_pipeline.training.jobs import Job
from selfie_pipeline.training.search import Search, SearchResult

_LOG = logging.getLogger(__name__)
# It warns of each interrupted trial, with a traceback. Here, for the processes of trials, too.
optuna.logging.set_verbosity(optuna.logging.ERROR)
_INITIAL_TRIALS = 5
"""Number of trials whose values do not depend on the scores of others."""
Objective = Callable[[optuna.Trial], float]


@contextmanager
def open_studies(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Open the file of the studies, an SQLite database, and create it if there is none.

    If another run has it open, wait for the end of that run, whose trials are of use to this one.

    Raises:
        UserError: It can't be created, read or written, also within the context.
    """
    try:
        with lock(path, "tune"):
            if not path.exists():
                with atomic_write(path) as partial:  # for its tables are made one by one
                    _open_storage(partial)
            yield _open_storage(path)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, sqlite3.Error):
            cause = cause.__cause__  # SQLAlchemy and Optuna wrap it
        if cause is None:
            raise
        raise UserError(
            f"{path} can't be used: {cause}; fix the cause (free space, permissions), or delete it "
            "if it is damaged, and run again"
        ) from error


def _open_storage(path: Path) -> optuna.storages.RDBStorage:
    """Open a file, which is created if there is none; no connection stays open between its uses."""
    url = URL.create("sqlite", database=str(path)).render_as_string()  # `%` and others are escaped
    return optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})


def open_study(search: Search, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """Load the study, or create it."""
    return optuna.create_study(
        study_name=search.study_name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
    )


def run_search(search: Search, study: optuna.Study, objective: Objective) -> Job[None]:
    """Run the remaining trials; the values of each depend on those before.

    Only this process reads and writes the study's storage, which gets a trial after its end: one
    that is interrupted is run again, with the same values. The yielded calls receive the trials
    before them and need nothing else, so they may run on other machines, with the same results.
    """
    while len(before := finished_trials(study)) < search.tune.trials:
        study.add_trial((yield partial(run_trial, search, objective, before)))


def best_result(search: Search, study: optuna.Study) -> SearchResult | None:
    """Return the best values that the study has found so far; None if no trial was completed."""
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return None
    return SearchResult(
        study=search.study_name,
        arm=search.arm,
        labeled_frac=search.labeled_frac,
        settings=study.best_params,
        validation_accuracy=study.best_value,
        trials=len(finished_trials(study)),
        setup=search.study_name_any_images,
    )


def run_trial(search: Search, objective: Objective, before: list[FrozenTrial]) -> FrozenTrial:
    """Run one trial.

    Its values, and whether it is pruned, follow from its search's seed and trials so far, `before`.

    Returns:
        The trial, completed or pruned.
    """
    number = len(before)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(
            n_startup_trials=_INITIAL_TRIALS, seed=(search.tune.seed + number) % 2**32
        ),
        # Under a cosine schedule high rates catch up late, so only the worst quarter is pruned.
        pruner=optuna.pruners.PercentilePruner(75, n_startup_trials=3),
    )
    study.add_trials(before)
    if number < _INITIAL_TRIALS:
        study.enqueue_trial(search.initial_settings(number))
    study.optimize(objective, n_trials=1)
    return study.trials[-1]


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were completed or pruned.

    Earlier commits also stored those that were interrupted.
    """
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
