"""Why a peer is connected the way it is, in one line. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from aitorrentd.api import Attempt, PeerView


def in_use(view: PeerView | None, attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt that led to the channel in use, or None."""
    if view is None:
        return None
    made = (a for a in reversed(attempts) if a.ok and a.where == view.address)
    return next(made, None)


def explained(view: PeerView | None, is_relayed: bool, attempts: Sequence[Attempt]) -> str:
    """How the peer is connected and why; `view` is None if it is not."""
    failed = [attempt for attempt in attempts if not attempt.ok]
    if view is None:
        if not attempts:
            return "not connected, and not tried in the last 24 hours"
        last = attempts[-1]
        if last.ok:
            return f"not connected now; last reached by {_way(last)}"
        return f"not connected; {_failures(failed)}"
    text = f"connected ({view.route}) at {view.address or 'an unknown address'}"
    made = in_use(view, attempts)
    if made is None:
        text += ", which the peer opened" if not view.outbound else ""
    if not is_relayed:
        return text
    better = [attempt for attempt in failed if attempt.way != view.route]
    return f"{text}; {_failures(better) if better else 'no other way was tried yet'}"


def _failures(failed: Sequence[Attempt]) -> str:
    """How many attempts failed, and the error of the last one."""
    last = failed[-1]
    count = "1 attempt" if len(failed) == 1 else f"{len(failed)} attempts"
    ways = sorted({attempt.way for attempt in failed})
    return f"{count} failed ({', '.join(ways)}), the last by {_way(last)}: {last.outcome}"


def _way(attempt: Attempt) -> str:
    return f"{attempt.way} at {attempt.where}" if attempt.where else attempt.way
