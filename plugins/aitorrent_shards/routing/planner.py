"""Plans which holders compute which layers of an answer. Pure functions, no I/O.

A route covers the wanted layers exactly and in order; a holder may be used for part of its span.
Fewest stages win, because each costs a network trip per token; then the lowest estimated time per
token; then the order of the holders' ids, so that equal input gives equal routes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from aitorrent_shards.protocol.spans import Span
from aitorrentd.api import PeerId

MAX_SPANS: Final = 64
"Limits planning time under a flood of records; the widest spans are kept."
UNKNOWN_LAYER_US: Final = 1000.0
FULL_PENALTY_US: Final = 10_000_000.0
STICKY_FACTOR: Final = 0.9

Reaches = Callable[[PeerId, PeerId], bool]
"Whether the first node can open a stream to the second."


@dataclass(frozen=True, slots=True)
class Leg:
    """One stage of a route: the layers [start, end) at the holder of `span`."""

    span: Span
    start: int
    end: int


def leg_cost_us(
    leg: Leg, *, rtt_us: float, need_positions: int, sticky: Collection[PeerId]
) -> float:
    """Estimated microseconds per token: half a round trip to the holder, plus its layers.

    A holder that reports it is full is used only as a last resort. One in `sticky` (already part of
    the answer) costs a little less, so that near-equal routes do not flap.
    """
    span, width = leg.span, leg.end - leg.start
    layer_us = span.step_us / (span.end - span.start) if span.step_us else UNKNOWN_LAYER_US
    cost = rtt_us / 2 + layer_us * width
    if span.peer in sticky:
        cost *= STICKY_FACTOR
    if span.free_positions * (span.end - span.start) < need_positions * width:
        cost += FULL_PENALTY_US
    return cost


def reaches_all(sender: PeerId, receiver: PeerId) -> bool:
    """No link is known to fail."""
    return True


def route(
    spans: Iterable[Span],
    start: int,
    end: int,
    *,
    rtt_us: Callable[[PeerId], float],
    need_positions: int = 1,
    sticky: Collection[PeerId] = (),
    reaches: Reaches = reaches_all,
    before: PeerId | None = None,
    after: PeerId | None = None,
) -> tuple[Leg, ...] | None:
    """The best legs over the layers [start, end), or None if there is a gap.

    `spans` are of one kind (same digest, dtype and width). Shortest path over the layer boundaries
    at which a span starts or ends. Each holder must reach the next; `before` sends to the first,
    and the last one sends to `after`.
    """
    usable = [s for s in spans if s.start < end and s.end > start]
    usable.sort(key=lambda s: (s.start - s.end, s.peer, s.start))
    usable = usable[:MAX_SPANS]
    marks = {start, end}
    for span in usable:
        marks.update(m for m in (span.start, span.end) if start < m < end)
    bounds = sorted(marks)
    rtts = {s.peer: rtt_us(s.peer) for s in usable}
    # for each boundary, the best path per holder of the last leg before it
    paths: dict[int, dict[str, _Path]] = {start: {"": _Path(0, 0.0, before, None, None)}}
    for i, here in enumerate(bounds[:-1]):
        known = sorted(paths.get(here, {}).values(), key=_Path.rank)
        for span in usable:
            if not known or not span.start <= here < span.end:
                continue
            path = next((k for k in known if _joins(k.holder, span.peer, reaches)), None)
            if path is None:
                continue
            for there in bounds[i + 1 :]:
                if there > span.end:
                    break
                if there == end and not _joins(span.peer, after, reaches):
                    continue
                leg = Leg(span, here, there)
                added = leg_cost_us(
                    leg, rtt_us=rtts[span.peer], need_positions=need_positions, sticky=sticky
                )
                longer = _Path(path.stages + 1, path.cost_us + added, span.peer, leg, path)
                others = paths.setdefault(there, {})
                if span.peer not in others or longer.rank() < others[span.peer].rank():
                    others[span.peer] = longer
    best = min(paths.get(end, {}).values(), key=_Path.rank, default=None)
    if best is None:
        return None
    legs: list[Leg] = []
    at: _Path | None = best
    while at is not None and at.leg is not None:
        legs.append(at.leg)
        at = at.rest
    return tuple(reversed(legs))


class _Path(NamedTuple):
    """Legs from the first layer to a boundary."""

    stages: int
    cost_us: float
    holder: PeerId | None
    leg: Leg | None
    rest: _Path | None

    def rank(self) -> tuple[int, float, str]:
        """Fewest stages first, then lowest cost, then the order of ids."""
        return self.stages, self.cost_us, self.holder or ""


def _joins(sender: PeerId | None, receiver: PeerId | None, reaches: Reaches) -> bool:
    if sender is None or receiver is None or sender == receiver:
        return True
    return reaches(sender, receiver)


def prefill_chunks(n: int, *, chunk: int) -> list[int]:
    """Split a prompt of `n` tokens, so that the stages work on different pieces concurrently.

    Up to twice `chunk` stays in one piece; more is split evenly into pieces of at most `chunk`.
    Nothing else matters: the same prompt is split the same way on any route, which keeps answers
    bit for bit the same.
    """
    if n <= 2 * chunk:
        return [n]
    pieces = -(-n // chunk)
    return [n * (i + 1) // pieces - n * i // pieces for i in range(pieces)]
