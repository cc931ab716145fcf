"""Which holders compute which layers of an answer. Pure functions, no I/O.

A route covers the wanted layers exactly and in order; a holder may be used for a part of its span.
Fewest stages win, since each costs a trip over the network per token; then the lowest estimated
time per token; then the order of the holders' ids, so that equal input gives equal routes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from aitorrent_shards.protocol.spans import Span
from aitorrentd.api import PeerId

MAX_SPANS: Final = 64
"A flood of records must not make planning slow; the widest spans are kept."
UNKNOWN_LAYER_US: Final = 1000.0
FULL_PENALTY_US: Final = 10_000_000.0
STICKY_FACTOR: Final = 0.9


@dataclass(frozen=True, slots=True)
class Leg:
    """One stage of a route: the layers [start, end) at the holder of `span`."""

    span: Span
    start: int
    end: int


def leg_cost_us(
    leg: Leg, *, rtt_us: float, need_positions: int, sticky: Collection[PeerId]
) -> float:
    """Estimated microseconds per token: half a round trip to get there, then its layers.

    A holder that says it is full is used only when nobody else is there. One in `sticky` (already
    part of the answer) counts a little less, so that near-equal routes do not flap.
    """
    span, width = leg.span, leg.end - leg.start
    layer_us = span.step_us / (span.end - span.start) if span.step_us else UNKNOWN_LAYER_US
    cost = rtt_us / 2 + layer_us * width
    if span.peer in sticky:
        cost *= STICKY_FACTOR
    if span.free_positions * (span.end - span.start) < need_positions * width:
        cost += FULL_PENALTY_US
    return cost


def route(
    spans: Iterable[Span],
    start: int,
    end: int,
    *,
    rtt_us: Callable[[PeerId], float],
    need_positions: int = 1,
    sticky: Collection[PeerId] = (),
) -> tuple[Leg, ...] | None:
    """The best legs over the layers [start, end), or None when there is a gap.

    `spans` are alike (one digest, dtype and width). Shortest path over the layer boundaries at
    which a span starts or ends.
    """
    usable = [s for s in spans if s.start < end and s.end > start]
    usable.sort(key=lambda s: (s.start - s.end, s.peer, s.start))
    usable = usable[:MAX_SPANS]
    marks = {start, end}
    for span in usable:
        marks.update(m for m in (span.start, span.end) if start < m < end)
    bounds = sorted(marks)
    rtts = {s.peer: rtt_us(s.peer) for s in usable}
    # per boundary: (stages, cost, holder of the last leg) and the leg that leads there
    best: dict[int, tuple[int, float, str]] = {start: (0, 0.0, "")}
    came: dict[int, Leg] = {}
    for i, here in enumerate(bounds[:-1]):
        if here not in best:
            continue
        stages, cost, _ = best[here]
        for span in usable:
            if not span.start <= here < span.end:
                continue
            for there in bounds[i + 1 :]:
                if there > span.end:
                    break
                leg = Leg(span, here, there)
                added = leg_cost_us(
                    leg, rtt_us=rtts[span.peer], need_positions=need_positions, sticky=sticky
                )
                score = (stages + 1, cost + added, span.peer)
                if there not in best or score < best[there]:
                    best[there], came[there] = score, leg
    if end not in came:
        return None
    legs, at = [], end
    while at > start:
        legs.append(came[at])
        at = came[at].start
    return tuple(reversed(legs))


def prefill_chunks(n: int, *, chunk: int) -> list[int]:
    """How a prompt of `n` tokens is cut, so that the stages work on different pieces at once.

    Up to twice `chunk` goes in one piece; more is cut evenly into pieces of at most `chunk`. It
    depends on nothing else: the same prompt is cut the same way whatever the route, which keeps
    answers bit for bit the same.
    """
    if n <= 2 * chunk:
        return [n]
    pieces = -(-n // chunk)
    return [n * (i + 1) // pieces - n * i // pieces for i in range(pieces)]
