"""A peer that says it loads a model is waited for only while it gets further."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.protocol.loading import Loading
from aitorrent_shards.protocol.loading_claims import (
    BEGINNINGS,
    FORGET_S,
    MAX_CLAIMS,
    STALL_S,
    Claims,
)
from aitorrentd.api import PeerId
from tests.support.clocks import FakeClock
from tests.support.shards.shards_fakes import FakeNode, toy_network

SAID = Loading(PeerId("p"), "m", 0, 3, 0, 1000)


def test_claim_is_believed_while_it_gets_further() -> None:
    claims, now = Claims(), 0.0
    for done in range(0, 1001, 10):
        assert claims.advancing([replace(SAID, done_bytes=done)], now)
        now += STALL_S * 0.9


def test_claim_that_stands_still_is_believed_for_a_while_and_again_when_it_goes_on() -> None:
    claims = Claims()
    other = replace(SAID, peer=PeerId("q"))
    assert claims.advancing([SAID, other], 0) == [SAID, other]
    assert claims.advancing([SAID, other], STALL_S * 0.9) == [SAID, other]
    creeping, other = replace(SAID, done_bytes=9), replace(other, done_bytes=10)
    assert claims.advancing([creeping, other], STALL_S) == [other]
    gone_on = replace(SAID, done_bytes=10)
    assert claims.advancing([gone_on], STALL_S * 2) == [gone_on]


def test_loading_begins_a_few_times_but_not_for_ever() -> None:
    claims = Claims()
    believed = 0
    for n in range(50):
        said = replace(SAID, total_bytes=1000 + n, done_bytes=n % 2)
        believed += len(claims.advancing([said], n * STALL_S))
    assert believed == BEGINNINGS


def test_claim_that_comes_and_goes_begins_no_new_time_until_it_was_away_for_long() -> None:
    claims, now = Claims(), 0.0
    assert claims.advancing([SAID], now)
    for _ in range(50):
        claims.advancing([], now := now + STALL_S / 2)
        found = claims.advancing([SAID], now := now + STALL_S / 2)
        assert not found
    assert not claims.advancing([], now + FORGET_S)
    assert not len(claims)
    assert claims.advancing([SAID], now + FORGET_S)


def test_many_claims_cost_bounded_memory() -> None:
    claims = Claims()
    for n in range(10):
        said = [replace(SAID, model=f"m{n}-{i}") for i in range(1000)]
        assert claims.advancing(said, float(n)) == said
    assert len(claims) == MAX_CLAIMS


async def test_model_that_a_peer_only_claims_to_load_is_told_as_incomplete(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3") as nodes:
        here = nodes[0]
        here.clock = clock = FakeClock()
        liar = FakeNode(here.net, 9, here.folder, ShardsConfig())
        liar.directory.publish("ait:loading:toy", replace(SAID, start=3, end=6).value())
        liar.directory.publish("ait:loading:other", SAID.value())
        clock.now += STALL_S * 0.9
        toy, other = here.shards.backend.pending()
        assert (toy.state, other.state) == ("loading", "loading")
        clock.now += STALL_S * 0.9
        assert [p.state for p in here.shards.backend.pending()] == ["loading", "loading"]
        clock.now += STALL_S * 0.2
        (toy,) = here.shards.backend.pending()
        assert (toy.name, toy.state, toy.missing) == ("toy", "incomplete", ((3, 6),))
        assert toy.detail.startswith("no reachable node holds layers 3-6 of toy")
        liar.directory.publish(
            "ait:loading:toy", replace(SAID, start=3, end=6, done_bytes=500).value()
        )
        (toy,) = here.shards.backend.pending()
        assert (toy.state, toy.done_bytes) == ("loading", 500)
