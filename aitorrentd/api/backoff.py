"""How long to wait before the next attempt: exponential backoff with jitter. No clock, no I/O.

Source: Brooker, "Exponential Backoff and Jitter" (AWS, 2015).
"""

from __future__ import annotations

from typing import Final

_MAX_DOUBLINGS: Final = 60
"Keeps the power finite; every cap is reached long before."


def full_jitter_s(attempt: int, *, base_s: float = 1.0, cap_s: float = 60.0, draw: float) -> float:
    """Seconds to wait before retry number `attempt` (0 = first): between 0 and the full delay.

    Spreads out callers that failed together. `draw` in [0, 1) comes from the caller's random
    source, so that tests are deterministic.

    Raises:
        ValueError: attempt < 0.
    """
    return draw * exponential_s(attempt, base_s, cap_s)


def equal_jitter_s(attempt: int, *, base_s: float = 1.0, cap_s: float = 60.0, draw: float) -> float:
    """Like `full_jitter_s`, but at least half the full delay, so an instant failure never spins.

    Raises:
        ValueError: attempt < 0.
    """
    return exponential_s(attempt, base_s, cap_s) * (0.5 + draw / 2)


def exponential_s(attempt: int, base_s: float, cap_s: float) -> float:
    """Seconds that double with each attempt, from `base_s` for attempt 0 up to `cap_s`.

    Raises:
        ValueError: attempt < 0.
    """
    if attempt < 0:
        raise ValueError(f"attempt must be 0 or more, got {attempt}")
    return min(cap_s, base_s * 2.0 ** min(attempt, _MAX_DOUBLINGS))
