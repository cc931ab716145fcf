"""Whether the web is worth asking beside peers.

On one machine both share processors, and on one link the bandwidth: what the web sends, peers may
send as well, without costs for whoever pays the web server. So once both have brought pieces for a
while, the web is left out on trial. It stays out as long as peers alone are as fast as both were,
and is asked again when they are not; trials that fail become rarer.
"""

from __future__ import annotations

from typing import Final

from aitorrentd.api.backoff import exponential_s

_WINDOW_S: Final = 0.5
_WINDOW_PIECES: Final = 8
_WINDOW_MOST_S: Final = 4.0
"A rate is measured this long: until enough pieces came, within bounds."
_SLACK_PIECES: Final = 3
"Peers finish pieces together: so many may be about to arrive when a window is judged early."
_SETTLE_S: Final = 0.2
"After the web was left out, until peers are measured."
_AS_FAST: Final = 0.9
_SLOWER: Final = 0.7
"Of the rate of both: peers alone are no longer enough."
_AGAIN_S: Final = 4.0
_AGAIN_MOST_S: Final = 60.0


class Pace:
    """Decides by the pieces that arrived; times are in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.uses_web = True
        self._is_trial = False
        self._both = 0.0
        "Pieces per second when both were asked."
        self._failed = 0
        "Trials in a row."
        self._not_before = 0.0
        self._since: float | None = None
        "When the window began."
        self._before = (0, 0)
        "How many pieces were here then, and how many of them from peers."

    def look(self, now: float, *, held: int, from_peers: int) -> bool:
        """Learn that so many pieces are here, and how many came from peers; whether `uses_web`
        changed."""
        if not from_peers or now < self._not_before:
            return False
        if self._since is None:
            self._since, self._before = now, (held, from_peers)
        lasted_s = now - self._since
        came, sent = held - self._before[0], from_peers - self._before[1]
        before = self.uses_web
        if self.uses_web:
            if _is_enough(lasted_s, came):
                self._since = None
                if sent:
                    self._leave_out(now, came / lasted_s)
        else:
            least = (_AS_FAST if self._is_trial else _SLOWER) * self._both
            if lasted_s >= _WINDOW_S and sent + _SLACK_PIECES < least * lasted_s:
                self._ask_again(now)
            elif _is_enough(lasted_s, sent):
                self._since = None
                if sent < least * lasted_s:
                    self._ask_again(now)
                else:
                    self._is_trial, self._failed = False, 0
        return self.uses_web != before

    def _leave_out(self, now: float, both: float) -> None:
        self.uses_web, self._is_trial, self._both = False, True, both
        self._not_before = now + _SETTLE_S

    def _ask_again(self, now: float) -> None:
        self.uses_web, self._since = True, None
        self._not_before = now + exponential_s(self._failed, _AGAIN_S, _AGAIN_MOST_S)
        self._failed += 1


def _is_enough(lasted_s: float, pieces: int) -> bool:
    """Whether so many pieces in a window tell the rate."""
    is_long = lasted_s >= _WINDOW_S and pieces >= _WINDOW_PIECES
    return is_long or lasted_s >= _WINDOW_MOST_S
