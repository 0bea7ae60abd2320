"""Tests of the search for parameters, over made-up objectives."""

from __future__ import annotations

import itertools
import logging
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from selfie_pipeline.config import UserError
from selfie_pipeline.training.job_runner import run_jobs
from selfie_pipeline.training.search import Search
from selfie_pipeline.training.signals import TrainingInterrupted
from selfie_pipeline.training.trials import (
    Objective,
    best_result,
    finished_trials,
    open_studies,
    open_study,
    run_search,
    run_trial,
)

RECIPE = {"peak_learning_rate": 0.05, "weight_decay": 0.0001}


@pytest.fixture
def make_search(make_config) -> Callable[..., Search]:
    """Return a factory of searches of Selfie's learning rate with 10 % of the labels."""

    def make(lineage: dict[str, Any] | None = None, **changes: Any) -> Search:
        tune = make_config({f"tune.{name}": value for name, value in changes.items()}).tune
        return Search("selfie", 0.1, lineage or {"configuration": {"finetune": RECIPE}}, tune)

    return make


@pytest.fixture
def make_trials(make_config) -> Callable[..., list[FrozenTrial]]:
    """Return a function that runs a search to its end and returns its trials."""

    def run(search: Search, objective: Objective, storage: Any = None) -> list[FrozenTrial]:
        study = open_study(search, storage or optuna.storages.InMemoryStorage())
        run_jobs([run_search(search, study, objective)], make_config().compute, job_bytes=1)
        return study.get_trials()

    return run


def peak(trial: optuna.Trial) -> float:
    """Return an accuracy that is best at a learning rate of 0.2."""
    return 1 - abs(trial.suggest_float("peak_learning_rate", 0.01, 0.4, log=True) - 0.2)


def rates(trials: list[FrozenTrial]) -> list[float]:
    return [trial.params["peak_learning_rate"] for trial in trials]


def test_the_recipes_own_value_comes_first_and_all_are_in_the_range(
    make_search, make_trials
) -> None:
    trials = make_trials(make_search(trials=8), peak)

    assert rates(trials)[0] == 0.05
    assert len(set(rates(trials))) == 8
    assert all(0.01 <= rate <= 0.4 for rate in rates(trials))
    assert [trial.value for trial in trials] == [1 - abs(rate - 0.2) for rate in rates(trials)]


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_the_next_four_trials_are_spread_over_the_range(
    make_search, make_trials, seed: int
) -> None:
    trials = make_trials(make_search(trials=5, seed=seed), peak)

    quarters = [4 * np.log(rate / 0.01) // np.log(0.4 / 0.01) for rate in rates(trials)[1:]]
    assert sorted(quarters) == [0, 1, 2, 3]


def test_after_five_trials_values_are_drawn_near_the_best(make_search, make_trials) -> None:
    trials = make_trials(make_search(trials=25), peak)

    spread, informed = rates(trials)[1:5], rates(trials)[10:]
    mean = [sum(abs(x - 0.2) for x in part) / len(part) for part in (spread, informed)]
    assert mean[1] < mean[0]
    assert any(abs(rate - 0.2) < 0.02 for rate in informed)


def test_trials_follow_from_the_seed_and_a_search_goes_on_where_it_ended(
    make_search, make_trials
) -> None:
    straight = make_trials(make_search(trials=8), peak)
    storage = optuna.storages.InMemoryStorage()
    make_trials(make_search(trials=3), peak, storage)

    assert rates(make_trials(make_search(trials=8), peak, storage)) == rates(straight)
    assert rates(make_trials(make_search(trials=8, seed=1), peak)) != rates(straight)


def test_interrupted_trials_are_the_next_ones(make_search, make_trials) -> None:
    straight = rates(make_trials(make_search(trials=4), peak))
    storage = optuna.storages.InMemoryStorage()
    search = make_search(trials=4)
    job = run_search(search, open_study(search, storage), peak)
    call = next(job)
    job.send(call())  # the second trial begins, and does not end

    trials = make_trials(search, peak, storage)

    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert rates(trials) == straight


def test_an_interrupted_trial_is_not_logged_by_optuna(
    make_search, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def objective(trial: optuna.Trial) -> float:
        raise TrainingInterrupted("stopped", signal.SIGTERM)

    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    with pytest.raises(TrainingInterrupted, match="stopped"):
        run_trial(make_search(), objective, [])

    assert caplog.messages == []


def test_interrupted_trials_that_earlier_commits_stored_are_run_again(
    make_search, make_trials
) -> None:
    search = make_search(trials=8)
    straight = rates(make_trials(search, peak))
    storage = optuna.storages.InMemoryStorage()
    make_trials(make_search(trials=3), peak, storage)
    study = open_study(search, storage)
    study.tell(study.ask(), state=TrialState.FAIL)
    study.ask()
    study.enqueue_trial({"peak_learning_rate": 0.2})

    trials = make_trials(search, peak, storage)

    assert rates([trial for trial in trials if trial.state == TrialState.COMPLETE]) == straight


def test_a_search_that_is_killed_at_any_moment_tries_the_same_values(
    make_search, make_trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed before a write to the storage, and again before the same one of its next run."""
    search = make_search(trials=4)
    straight = rates(make_trials(search, peak))
    storage: Any = None
    written = last = 0

    def watch(write: Callable[..., Any]) -> Callable[..., Any]:
        def watched(self: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal written
            if self is storage:
                written += 1
                if written == last:
                    raise KeyboardInterrupt
            return write(self, *arguments, **options)

        return watched

    for name in ("create_new_study", "create_new_trial"):
        write = getattr(optuna.storages.InMemoryStorage, name)
        monkeypatch.setattr(optuna.storages.InMemoryStorage, name, watch(write))
    for last in itertools.count(1):
        storage = optuna.storages.InMemoryStorage()
        killed = []
        for _ in range(2):
            written = 0
            with suppress(KeyboardInterrupt):
                make_trials(search, peak, storage)
            killed.append(written == last)
        if not killed[0]:
            break
        written = -1000
        trials = make_trials(search, peak, storage)
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        assert rates(done) == straight, f"killed before write {last}"
    assert last > 4


def test_the_result_is_the_best_of_the_trials(make_search, make_trials) -> None:
    search, storage = make_search(trials=6), optuna.storages.InMemoryStorage()
    trials = make_trials(search, peak, storage)

    result = best_result(search, open_study(search, storage))

    assert result["validation_accuracy"] == max(trial.value for trial in trials)
    assert result["settings"] == max(trials, key=lambda trial: trial.value).params
    assert (result["arm"], result["labeled_frac"], result["trials"]) == ("selfie", 0.1, 6)
    assert search.find_settings([result]) == result["settings"]
    assert make_search(seed=1).find_settings([result]) == {}


def test_no_result_if_no_trial_was_completed(make_search, make_trials) -> None:
    def diverge(trial: optuna.Trial) -> float:
        raise optuna.TrialPruned

    search, storage = make_search(trials=2), optuna.storages.InMemoryStorage()
    make_trials(search, diverge, storage)

    assert best_result(search, open_study(search, storage)) is None


def test_the_largest_seed(make_search, make_trials) -> None:
    assert len(make_trials(make_search(trials=3, seed=2**32 - 1), peak)) == 3


def test_a_study_is_that_of_all_its_trials_depend_on_but_their_number(make_search) -> None:
    study = make_search().study_name

    assert study.startswith("selfie, 10 %, ")
    assert make_search(trials=50).study_name == study
    assert make_search(seed=1).study_name != study
    assert (
        make_search(lineage={"configuration": {"finetune": RECIPE, "seed": 3}}).study_name != study
    )


@pytest.mark.parametrize(("others", "pruned"), [([0.5, 0.6], False), ([0.5, 0.6, 0.7], True)])
def test_the_worst_quarter_is_pruned_once_there_are_three_others(
    make_search, others: list[float], pruned: bool
) -> None:
    def run(score: float, before: list[FrozenTrial]) -> FrozenTrial:
        def objective(trial: optuna.Trial) -> float:
            trial.report(score, step=1)
            if trial.should_prune():
                raise optuna.TrialPruned
            return score

        return run_trial(make_search(), objective, before)

    before = [run(score, []) for score in others]
    worst, middle = run(0.1, before), run(0.58, before)

    assert worst.intermediate_values == {1: 0.1}
    assert (worst.state == TrialState.PRUNED) == pruned
    assert middle.state == TrialState.COMPLETE


def test_pruned_trials_count_and_interrupted_ones_do_not() -> None:
    study = optuna.create_study(direction="maximize")
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        study.tell(study.ask(), 0.5 if state == TrialState.COMPLETE else None, state)
    study.ask()

    assert [trial.state for trial in finished_trials(study)] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
    ]


@pytest.mark.parametrize("size", [0, 8192, 30_000, 60_000])
def test_a_disk_that_fills_up_leaves_no_half_made_file_of_the_studies(
    tmp_path: Path, size: int
) -> None:
    """Without its indices, Optuna would make two studies of a name, and load neither."""
    path = tmp_path / "tuning" / "studies.db"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(UserError) as caught, open_studies(path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert "studies.db can't be used: " in str(caught.value)
    assert list(path.parent.iterdir()) == []
    with open_studies(path) as storage:
        optuna.create_study(storage=storage, study_name="one")
    with open_studies(path) as storage, pytest.raises(optuna.exceptions.DuplicatedStudyError):
        optuna.create_study(storage=storage, study_name="one")


@pytest.mark.parametrize("name", ["feature%2Fx", "{x} %20? #1 é"])
def test_the_studies_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "studies.db"
    for _ in range(2):  # a new file, and an existing one
        with open_studies(path) as storage:
            optuna.create_study(storage=storage, study_name="one", load_if_exists=True)

    assert list(tmp_path.iterdir()) == [path.parent]
    assert list(path.parent.iterdir()) == [path]


def test_a_damaged_file_of_the_studies_is_named(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    path.write_bytes(b"not a database" * 100)

    with (
        pytest.raises(UserError, match=r"studies\.db can't be used: .*delete it"),
        open_studies(path),
    ):
        pass


SEARCHING = """
import sys
from pathlib import Path
from selfie_pipeline.training.trials import open_studies

with open_studies(Path(sys.argv[1])):
    print("searching", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_a_second_run_waits_until_the_first_has_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    path = tmp_path / "tuning" / "studies.db"
    first = subprocess.Popen(
        [sys.executable, "-c", SEARCHING, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    assert first.stdout.readline() == "searching\n"
    ending = Timer(0.5, first.kill if end == "killed" else partial(first.communicate, "\n"))
    ending.start()

    with open_studies(path):
        assert first.wait() == (-signal.SIGKILL if end == "killed" else 0)

    ending.join()
    first.communicate()
    assert caplog.messages == [
        f"tune: waits for process {first.pid} on {socket.gethostname()}, which uses {path}"
    ]
    assert list(path.parent.iterdir()) == [path]
