"""One request and its retransmissions (RFC 8489, section 6.2.1). No I/O; callers pass `now`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aitorrentd.api.backoff import exponential_s


@dataclass(frozen=True, slots=True)
class Timers:
    """When to send again, and when to give up; the defaults are those of the RFC."""

    rto_s: float = 0.5
    "Until the second sending; it doubles each time."
    sends: int = 7
    "Rc of the RFC."
    last_wait: float = 16.0
    "Rm of the RFC: how many `rto_s` to wait after the last sending."

    @property
    def total_s(self) -> float:
        """How long a request without a reply takes: 39.5 s by the RFC's values."""
        waits = [exponential_s(n, self.rto_s, 3600.0) for n in range(self.sends - 1)]
        return sum(waits) + self.last_wait * self.rto_s


BRISK: Final = Timers(rto_s=0.5, sends=3, last_wait=3)
"3 s: for servers that are asked again later anyway."
SILENT: Final = Timers(rto_s=0.3, sends=2, last_wait=4)
"1.5 s: where no reply is the answer, and a server that is known to be near was asked."


class Transaction:
    """When the request is due to be sent, and when it has failed."""

    def __init__(self, timers: Timers, now: float) -> None:
        self.sent = 0
        "Times that it was sent."
        self.due = now
        "When `poll` is to be called next."
        self._timers = timers

    def poll(self, now: float) -> bool:
        """Whether to send the request now.

        Raises:
            TimeoutError: it was sent often enough, and long enough ago.
        """
        if now < self.due:
            return False
        if self.sent == self._timers.sends:
            raise TimeoutError
        if self.sent == self._timers.sends - 1:
            wait_s = self._timers.last_wait * self._timers.rto_s
        else:
            wait_s = exponential_s(self.sent, self._timers.rto_s, 3600.0)
        self.sent += 1
        self.due = now + wait_s
        return True
