# SPDX-License-Identifier: Apache-2.0
"""A wait that fails must explain itself."""

import pytest
from tests.waiting import wait_for, witness


def test_a_wait_that_fails_shows_its_condition_and_the_logs() -> None:
    with witness(lambda: "log of agent 7"), pytest.raises(AssertionError) as failure:
        wait_for(lambda: "never" == "now", patience=0.01)
    assert "within 0.01 s" in str(failure.value)
    assert '"never" == "now"' in str(failure.value)
    assert "log of agent 7" in str(failure.value)
    with pytest.raises(AssertionError) as failure:
        wait_for(lambda: False, patience=0)
    assert "log of agent 7" not in str(failure.value)


def test_a_condition_that_holds_ends_the_wait() -> None:
    answers = iter([False, True])
    wait_for(lambda: next(answers), patience=5, interval=0)
