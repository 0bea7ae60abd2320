import time
from datetime import UTC, datetime, timedelta

import pytest
from kedro.io.core import VERSION_FORMAT

from selfie_pipeline.config import UserError
from selfie_pipeline.run_budget import find_budget, find_start


def test_a_budget_sets_the_steps(make_config):
    config = make_config({"budget": "30min"})

    assert find_budget(config, {}) == "30min"
    assert find_budget(config, {"budget": "30min", "pretrain": {"seed": 3}}) == "30min"
    assert find_budget(make_config(), {"pretrain": {"steps": 3}}) is None


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_steps_that_are_given_go_over_the_budget_of_a_recipe(make_config, kind):
    assert find_budget(make_config({"budget": "1h"}), {kind: {"steps": 5}}) is None


def test_steps_and_a_budget_are_not_given_together(make_config):
    config = make_config({"budget": "1h", "finetune.steps": 50})

    with pytest.raises(UserError) as caught:
        find_budget(config, {"budget": "1h", "finetune": {"steps": 50}})

    assert str(caught.value) == (
        "budget = 1h sets the steps, but finetune.steps = 50 is given, too; leave one of them out"
    )


@pytest.mark.parametrize(("age_s", "counted_s"), [(5, 5), (7200, 60), (-7200, 0)])
def test_a_run_starts_with_its_session_unless_that_is_old_or_the_clock_was_set(age_s, counted_s):
    created = (datetime.now(UTC) - timedelta(seconds=age_s)).strftime(VERSION_FORMAT)
    run_id = f"{created[:-4]}Z"  # milliseconds, as Kedro has it

    assert time.monotonic() - find_start(run_id) == pytest.approx(counted_s, abs=1)
