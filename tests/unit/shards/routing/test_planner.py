"""Routes cover the layers exactly, with as few stages as there can be."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from aitorrent_shards.protocol.spans import Span, gaps
from aitorrent_shards.routing.planner import prefill_chunks, route
from aitorrentd.api import PeerId, peer_id

LAYERS = 8
PEERS = [peer_id(random.Random(n).randbytes(32)) for n in range(12)]


def span(start: int, end: int, n: int = 0, *, free: int = 10_000, step_us: int = 0) -> Span:
    return Span(PEERS[n], "m", "d", "f", start, end, LAYERS, "float32", 16, 512, free, step_us, 7)


def no_rtt(peer: PeerId) -> float:
    return 0.0


RANGES = st.tuples(st.integers(0, LAYERS - 1), st.integers(1, LAYERS)).filter(lambda r: r[0] < r[1])
SPANS = st.lists(RANGES, max_size=7).map(
    lambda ranges: [span(a, b, n) for n, (a, b) in enumerate(ranges)]
)


def fewest(spans: list[Span], start: int, end: int) -> int | None:
    """The least number of spans that cover the layers, by trying all sets."""
    for size in range(1, len(spans) + 1):
        if any(not gaps(some, start, end) for some in itertools.combinations(spans, size)):
            return size
    return None


@given(SPANS, RANGES)
def test_route_covers_the_layers_in_order_with_fewest_stages(
    spans: list[Span], wanted: tuple[int, int]
) -> None:
    start, end = wanted
    legs = route(spans, start, end, rtt_us=no_rtt)
    if legs is None:
        assert fewest(spans, start, end) is None
        return
    assert len(legs) == fewest(spans, start, end)
    assert [leg.start for leg in legs] == [start, *(leg.end for leg in legs[:-1])]
    assert legs[-1].end == end
    assert all(leg.span.start <= leg.start < leg.end <= leg.span.end for leg in legs)
    assert all(leg.span in spans for leg in legs)


@given(SPANS, st.randoms())
def test_order_of_the_records_does_not_matter(spans: list[Span], rng: random.Random) -> None:
    mixed = list(spans)
    rng.shuffle(mixed)
    assert route(spans, 0, LAYERS, rtt_us=no_rtt) == route(mixed, 0, LAYERS, rtt_us=no_rtt)


FAILED = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=24)


@given(SPANS, FAILED)
def test_neighbours_of_a_route_reach_each_other_and_no_shorter_route_does(
    spans: list[Span], failed: set[tuple[int, int]]
) -> None:
    home = PEERS[7]
    cut = {(PEERS[a], PEERS[b]) for a, b in failed}

    def works(path: tuple[Span, ...]) -> bool:
        peers = [home, *(s.peer for s in path), home]
        return all(a == b or (a, b) not in cut for a, b in itertools.pairwise(peers))

    def covers(path: tuple[Span, ...]) -> bool:
        reached = 0
        for each in path:
            if not each.start <= reached < each.end:
                return False
            reached = each.end
        return reached == LAYERS

    legs = route(
        spans,
        0,
        LAYERS,
        rtt_us=no_rtt,
        reaches=lambda a, b: (a, b) not in cut,
        before=home,
        after=home,
    )
    small = spans[:5]
    paths = itertools.chain.from_iterable(
        itertools.permutations(small, n) for n in range(1, len(small) + 1)
    )
    shortest = next((len(p) for p in paths if covers(p) and works(p)), None)
    if legs is None:
        assert shortest is None
    else:
        assert works(tuple(leg.span for leg in legs))
        assert shortest is None or len(legs) <= shortest


def test_nearer_holder_is_preferred() -> None:
    far, near = span(0, 8, 0), span(0, 8, 1)
    legs = route([far, near], 0, 8, rtt_us=lambda p: 50_000 if p == far.peer else 1000)
    assert legs is not None
    assert legs[0].span is near


def test_faster_holder_is_preferred() -> None:
    slow, fast = span(0, 8, 0, step_us=90_000), span(0, 8, 1, step_us=9_000)
    legs = route([slow, fast], 0, 8, rtt_us=no_rtt)
    assert legs is not None
    assert legs[0].span is fast


def test_holder_without_room_is_the_last_resort() -> None:
    full, free = span(0, 8, 0, free=10), span(0, 8, 1, step_us=900_000)
    legs = route([full, free], 0, 8, rtt_us=no_rtt, need_positions=100)
    assert legs is not None
    assert legs[0].span is free
    assert route([full], 0, 8, rtt_us=no_rtt, need_positions=100) is not None


def test_known_holder_wins_among_nearly_equal() -> None:
    spans = [span(0, 8, 0, step_us=1000), span(0, 8, 1, step_us=1050)]
    legs = route(spans, 0, 8, rtt_us=no_rtt, sticky={PEERS[1]})
    assert legs is not None
    assert legs[0].span.peer == PEERS[1]


def test_flood_of_records_is_cut() -> None:
    flood = [span(n % 7, n % 7 + 1, n % 12) for n in range(5000)]
    legs = route([*flood, span(0, 8, 3)], 0, 8, rtt_us=no_rtt)
    assert legs is not None
    assert len(legs) == 1


@given(st.integers(1, 5000), st.integers(1, 300))
def test_prompt_is_cut_evenly_and_wholly(n: int, chunk: int) -> None:
    pieces = prefill_chunks(n, chunk=chunk)
    assert sum(pieces) == n
    assert all(1 <= p <= 2 * chunk for p in pieces)
    assert max(pieces) - min(pieces) <= 1
    if n > 2 * chunk:
        assert max(pieces) <= chunk
