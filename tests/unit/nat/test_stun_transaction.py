"""When a STUN request is sent again (RFC 8489, section 6.2.1)."""

from __future__ import annotations

import pytest

from aitorrent_nat.stun.transaction import Timers, Transaction


def sendings(timers: Timers) -> tuple[list[float], float]:
    """When a request without a reply is sent, and when it fails."""
    transaction, at = Transaction(timers, 0.0), []
    while True:
        now = transaction.due
        try:
            if transaction.poll(now):
                at.append(now)
        except TimeoutError:
            return at, now


def test_request_is_sent_again_as_in_the_example_of_the_rfc() -> None:
    at, failed = sendings(Timers())
    assert at == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert failed == Timers().total_s == 39.5


def test_nothing_is_sent_before_it_is_due() -> None:
    transaction = Transaction(Timers(rto_s=0.5, sends=2, last_wait=2), 10.0)
    assert transaction.poll(10.0)
    assert not transaction.poll(10.4)
    assert transaction.poll(10.5)
    assert not transaction.poll(11.4)
    with pytest.raises(TimeoutError):
        transaction.poll(11.5)
