# SPDX-License-Identifier: Apache-2.0
"""The waits between scans of a host that changes all the time."""

import pytest

from xdpscope.scanner import ScanLimiter


def rests(took: float, seconds: float, interval: float = 5.0) -> list[float]:
    """Return when each scan of ``took`` seconds ends, each after the wait that follows the one
    before.
    """
    limiter, now, found = ScanLimiter(), 1000.0, []
    while now < 1000.0 + seconds:
        now += took
        found.append(limiter.rest(took, now, interval))
        now += found[-1]
    return found


@pytest.mark.parametrize("took", [0.001, 0.02, 0.1, 0.4])
def test_scanning_takes_a_tenth_of_the_time_in_the_long_run(took: float) -> None:
    assert took * len(rests(took, 3600)) == pytest.approx(360, rel=0.01)


def test_at_first_scans_come_close_on_each_other_however_slow_they_are() -> None:
    found = rests(0.4, 60)
    assert found[:4] == [0.5] * 4
    assert found[-1] == pytest.approx(3.6)


def test_and_again_after_a_quiet_time() -> None:
    limiter = ScanLimiter()
    for _ in range(20):
        limiter.rest(0.4, 1000.0, 5.0)
    assert limiter.rest(0.4, 1001.0, 5.0) == 5.0
    assert limiter.rest(0.4, 1030.0, 5.0) == 0.5


@pytest.mark.parametrize(("interval", "longest"), [(0.1, 0.1), (0.5, 0.5), (5.0, 5.0), (3600, 5.0)])
def test_no_rest_is_longer_than_the_interval_or_five_seconds(
    interval: float, longest: float
) -> None:
    assert max(rests(2.0, 600, interval)) == longest


def test_what_was_owed_beyond_that_is_forgotten() -> None:
    limiter = ScanLimiter()
    assert limiter.rest(1000.0, 1000.0, 0.5) == 0.5
    assert limiter.rest(0.001, 1021.0, 5.0) == pytest.approx(0.009)
