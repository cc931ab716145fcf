"""Waits between attempts."""

from __future__ import annotations

import pytest

from aitorrentd.api.backoff import equal_jitter_s, full_jitter_s


def test_full_jitter_draws_from_the_whole_doubling_delay_up_to_its_cap() -> None:
    waits = [full_jitter_s(i, draw=0.5) for i in (0, 1, 2, 5, 6, 5000)]
    assert waits == [0.5, 1, 2, 16, 30, 30]
    assert full_jitter_s(3, draw=0.0) == 0.0


def test_equal_jitter_keeps_half_of_the_doubling_delay() -> None:
    waits = [equal_jitter_s(n, base_s=1.0, cap_s=60.0, draw=0.0) for n in range(8)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert equal_jitter_s(5000, base_s=1.0, cap_s=60.0, draw=0.5) == 45.0


def test_the_first_attempt_is_number_0() -> None:
    for wait in (full_jitter_s, equal_jitter_s):
        with pytest.raises(ValueError, match="attempt must be 0 or more, got -1"):
            wait(-1, draw=0.0)
