"""Limits of failures and of rates: who waits, how long, and in how much memory."""

from __future__ import annotations

import pytest

from wakeloop.web.limits import TRUST_SECONDS, FailureLimit, RateLimit, whose


class Time:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_who_has_failed_too_often_waits_until_the_first_failure_is_old_enough() -> None:
    """And is let through again then, one failure at a time."""
    time = Time()
    limit = FailureLimit(3, 60, clock=time)
    for _ in range(3):
        assert limit.wait_seconds("a") == 0
        limit.fail("a")
        time.now += 10

    assert limit.wait_seconds("a") == 31
    assert limit.wait_seconds("b") == 0
    time.now += 31
    assert limit.wait_seconds("a") == 0
    limit.fail("a")
    assert 0 < limit.wait_seconds("a") <= 10


def test_who_has_passed_lately_is_looked_at_all_the_same() -> None:
    """Failures of others at its address do not keep it out, for an hour."""
    time = Time()
    limit = FailureLimit(1, 1e6, clock=time)
    limit.passed("a")
    for key in ("a", "b"):
        limit.fail(key)

    assert limit.refusal_seconds("a") == 0
    assert limit.wait_seconds("a") > 0
    assert limit.refusal_seconds("b") > 0
    time.now += TRUST_SECONDS + 1
    assert limit.refusal_seconds("a") > 0


def test_a_burst_may_take_a_minutes_worth_at_once() -> None:
    """Then as many as flow in."""
    time = Time()
    limit = RateLimit(60, clock=time)

    assert [limit.take("a") for _ in range(60)] == [0] * 60
    assert limit.take("a") == 2
    assert limit.take("b") == 0
    time.now += 2
    assert [limit.take("a") for _ in range(3)] == [0, 0, 2]


def test_no_limit_is_no_limit_and_keeps_nothing() -> None:
    """Zero turns it off."""
    rate, failures = RateLimit(0), FailureLimit(0, 60)
    for _ in range(1000):
        failures.fail("a")
        failures.passed("a")

    assert {rate.take("a") for _ in range(1000)} == {0}
    assert failures.refusal_seconds("a") == 0
    assert (len(rate), len(failures)) == (0, 0)


def test_memory_is_bounded_however_many_there_are() -> None:
    """Who was heard of longest ago is forgotten first."""
    rate, failures = RateLimit(5, keys=100), FailureLimit(1, 60, keys=100)
    for number in range(5000):
        rate.take(str(number))
        failures.fail(str(number))
        failures.passed(str(number))

    assert (len(rate), len(failures)) == (100, 200)
    assert failures.wait_seconds("4999") > 0
    assert failures.wait_seconds("0") == 0


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_addresses_are_counted_by_whose_they_are(address: str, key: str) -> None:
    """A customer with an IPv6 network is one, not 2 to the 64."""
    assert whose(address) == key
