"""Pings of one channel: round-trip times, and when a silent peer is lost. No I/O.

Callers pass `now` in monotonic seconds.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from aitorrent_transport.streams.frames import NONCE_BYTES

MAX_PINGS: Final = 64
_MAX_UNANSWERED: Final = 8
_RECENT: Final = 7
_FIRST: Final = 5  # in succession, since window growth needs the round-trip time


class Pings:
    """Pings in flight, each with the future of its caller, or None for a keepalive."""

    def __init__(self, keepalive_s: float, now: float) -> None:
        self.srtt_s: float | None = None
        "Median of recent round-trip times, robust against a single late reply."
        self._keepalive_s = keepalive_s
        self._in_flight: dict[bytes, tuple[float, asyncio.Future[float] | None]] = {}
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._last = self._heard = self._checked = now
        self._bytes_seen = 0

    @property
    def is_full(self) -> bool:
        """Whether too many are in flight for another one."""
        return len(self._in_flight) >= MAX_PINGS

    @property
    def rtt_known(self) -> bool:
        """Whether enough pings were answered for a reliable estimate."""
        return len(self._recent) >= _FIRST

    @property
    def least_rtt_s(self) -> float:
        """Least of the recent round-trip times: under load, pings queue behind data."""
        return min(self._recent)

    def restart(self) -> None:
        """Start measuring again, because the channel continues on another link."""
        self.srtt_s = None
        self._recent.clear()
        for nonce in [n for n, (_, answer) in self._in_flight.items() if answer is None]:
            del self._in_flight[nonce]

    def begin(self, now: float, answer: asyncio.Future[float] | None) -> bytes:
        """Note a ping that is sent now; return its nonce."""
        nonce = os.urandom(NONCE_BYTES)
        self._in_flight[nonce] = (now, answer)
        if answer is None:
            self._last = now
        return nonce

    def take(self, nonce: bytes, now: float) -> bool:
        """Note a pong; return whether it answers a ping in flight."""
        sent, answer = self._in_flight.pop(nonce, (None, None))
        if sent is None:
            return False
        took = now - sent
        self._recent.append(took)
        ranked = sorted(self._recent)
        self.srtt_s = ranked[len(ranked) // 2]
        if answer is not None and not answer.done():
            answer.set_result(took)
        return True

    def forget(self, nonce: bytes) -> None:
        """Forget a ping whose caller no longer waits."""
        self._in_flight.pop(nonce, None)

    def fail(self, error: Callable[[], Exception]) -> None:
        """Fail every caller with an error of its own, because the channel ended."""
        for _, answer in self._in_flight.values():
            if answer is not None and not answer.done():
                answer.set_exception(error())
        self._in_flight.clear()

    def hear(self, now: float) -> None:
        """Note a sign of life."""
        self._heard = now

    def check(self, now: float, bytes_in: int, *, is_unheard: bool = False) -> str:
        """Why the peer is lost, or the empty string.

        `bytes_in` counts what the link received; `is_unheard` says that its kernel acknowledges
        nothing, which is known sooner than that a ping has no answer.
        """
        unanswered = self._unanswered()
        if bytes_in != self._bytes_seen or now - self._checked > self._keepalive_s:
            # Bytes arrived, or this process itself stalled, which is not the peer's fault.
            self._bytes_seen = bytes_in
            self._heard = now
        self._checked = now
        silent_s = now - max(self._heard, min(unanswered, default=now))
        if silent_s >= self._keepalive_s * 4 / 3:
            return f"silent for {silent_s:.0f} s"
        if is_unheard and now - self._heard >= self._keepalive_s / 3:
            return f"nothing arrives there or from there for {now - self._heard:.0f} s"
        if len(unanswered) >= _MAX_UNANSWERED:
            return f"{len(unanswered)} pings unanswered"
        return ""

    def is_due(self, now: float) -> bool:
        """Whether the next keepalive is to be sent."""
        is_new = not self.rtt_known and not self._unanswered()
        return is_new or now - self._last >= self._keepalive_s

    def _unanswered(self) -> list[float]:
        """When each keepalive in flight was sent."""
        return [sent for sent, answer in self._in_flight.values() if answer is None]
