"""Nodes in this process punch over loopback: sessions, refusals, and what hostile peers send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aitorrent_nat.punch import messages, sighting
from aitorrent_nat.punch.messages import MAX_MESSAGE_BYTES, Offer, Refuse, decode, encode
from aitorrent_nat.punch.part import SESSION_BURST, PunchPart
from aitorrentd.api import (
    ATTEMPTS,
    PROTECTION,
    Offence,
    PeerGone,
    Reach,
    Stream,
    encode_frame,
    read_frame,
)
from tests.support.nat.relayed import RelayNode, relay_node
from tests.support.nat.terms import terms
from tests.support.nodes import Leaks, wait_for
from tests.support.transport.transport_nodes import ECHO


@pytest.fixture(autouse=True)
async def nothing_is_left_behind() -> AsyncIterator[None]:
    leaks = Leaks()
    yield
    await leaks.check()


@asynccontextmanager
async def trio(
    path: Path, *, second: bool = True, **nat: Any
) -> AsyncIterator[tuple[RelayNode, RelayNode, RelayNode]]:
    """A relay, and two nodes that are connected to it; the second can be reached through it, and
    punches if the test says so."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(
            relay_node(path, "relay", Reach.PUBLIC, punches=True)
        )
        one, two = [
            await stack.enter_async_context(relay_node(path, seed, punches=punches, **nat))
            for seed, punches in (("one", True), ("two", second))
        ]
        await two.reserves_at(relay)
        await one.transport.connect(relay.address)
        one.plugin.relays.add(relay.id)
        yield relay, one, two


def punch_of(node: RelayNode) -> PunchPart:
    assert node.plugin.punch is not None
    return node.plugin.punch


def route(node: RelayNode, other: RelayNode) -> str:
    view = node.transport.peer(other.id)
    return view.route if view else ""


async def test_a_stream_goes_on_while_its_channel_becomes_direct(tmp_path: Path) -> None:
    async with trio(tmp_path) as (relay, one, two):
        await one.transport.connect(two.behind(relay))
        stream = await one.transport.open_stream(two.id, ECHO)
        await stream.write(b"before")
        assert await stream.read_exactly(6) == b"before"
        await wait_for(lambda: route(one, two) == route(two, one) == "punched")
        await stream.write(b"after")
        assert await stream.read_exactly(5) == b"after"
        await stream.close()
        await wait_for(lambda: punch_of(one).connected["tcp-punch"] == 1)
        assert "1 by tcp-punch" in punch_of(one).state()
        noted = one.kernel.service(ATTEMPTS).of(two.id)
        [attempt] = [each for each in noted if each.way == "tcp-punch"]
        assert attempt.ok
        assert attempt.where.startswith("/ip4/127.0.0.1/tcp/")


async def test_without_punch_a_channel_stays_relayed(tmp_path: Path) -> None:
    async with trio(tmp_path, punch=False) as (relay, one, two):
        await one.transport.connect(two.behind(relay))
        with pytest.raises(PeerGone):
            await ask(one, two, b"")
        assert route(one, two) == "relay"
        assert punch_of(one).state() == "off: plugins.nat.punch is false"


async def test_a_peer_that_does_not_punch_is_rarely_asked(tmp_path: Path) -> None:
    async with trio(tmp_path, second=False) as (relay, one, two):
        real, punch_of(one).upgrades._punch = punch_of(one).punch, never
        await one.transport.connect(two.behind(relay))
        assert await real(two.id) is False
        noted = one.kernel.service(ATTEMPTS).of(two.id)
        assert [each.way for each in noted if not each.ok] == ["punch"]
        assert noted[-1].outcome == "the peer does not punch: it is set so, or its version cannot"
        assert route(one, two) == "relay"


async def ask(one: RelayNode, two: RelayNode, raw: bytes) -> messages.Message:
    """Send `raw` on a session's stream, and read the answer."""
    stream = await one.transport.open_stream(two.id, messages.PROTOCOL)
    await stream.write(raw or encode(Offer(b"s" * 16, terms("127.0.0.1"))))
    return await answer(stream)


async def answer(stream: Stream) -> messages.Message:
    async with asyncio.timeout(10):
        return decode(await read_frame(stream, max_bytes=MAX_MESSAGE_BYTES))


async def test_a_direct_channel_needs_no_session(tmp_path: Path) -> None:
    async with trio(tmp_path) as (relay, one, _):
        refused = await ask(one, relay, b"")
        assert refused == Refuse("the channel does not pass a relay")


async def test_a_peer_that_asks_too_often_is_refused(tmp_path: Path) -> None:
    async with trio(tmp_path) as (relay, one, two):
        punch_of(one).upgrades._punch = never
        punch_of(two).upgrades._punch = never
        await one.transport.connect(two.behind(relay))
        for _ in range(SESSION_BURST):
            stream = await one.transport.open_stream(two.id, messages.PROTOCOL)
            await stream.write(encode(Offer(b"s" * 16, terms("127.0.0.1"))))
            assert isinstance(await answer(stream), messages.Answer)
            stream.reset("enough")
            await wait_for(lambda: not punch_of(two)._running)
        assert await ask(one, two, b"") == Refuse("too many sessions; try again in a minute")


async def never(_: object) -> bool:
    return True


@pytest.mark.parametrize(
    "raw",
    [
        encode_frame({"t": "offer", "session": b"short"}),
        encode_frame({"t": "go"}),
        encode_frame({"t": "offer"}, b"tail"),
        b"\xff\xff\xff\xff" + bytes(100),
    ],
)
async def test_broken_messages_are_an_offence_and_end_the_session(
    tmp_path: Path, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio(tmp_path) as (relay, one, two):
        punch_of(one).upgrades._punch = never
        punch_of(two).upgrades._punch = never
        await one.transport.connect(two.behind(relay))
        reported: list[Offence] = []
        guard = two.kernel.service(PROTECTION)
        monkeypatch.setattr(
            guard, "report", lambda peer, offence, detail="": reported.append(offence)
        )
        with pytest.raises(PeerGone):
            await ask(one, two, raw)
        assert reported == [Offence.INVALID_MESSAGE]
        assert route(one, two) == "relay"


async def test_a_node_says_what_it_has_seen_only_of_the_asking_peer(tmp_path: Path) -> None:
    async with trio(tmp_path) as (relay, one, two):
        seen = await punch_of(one).around.sightings(two.id)
        [told] = seen
        assert (told.witness, told.host) == (relay.id, "127.0.0.1")
        # Two believes the relay, which it is connected to, about one, and about nobody else.
        assert punch_of(two).around.believed(one.id, seen) == {"127.0.0.1"}
        assert punch_of(two).around.believed(relay.id, seen) == set()
        # Not even one itself, whose signature is good.
        signer = punch_of(one)._ctx.identity
        own = sighting.attest(signer, "test", one.id, "127.0.0.1", told.at_unix_s)
        assert own.is_true("test", one.id, told.at_unix_s)
        assert punch_of(two).around.believed(one.id, [own]) == set()


async def test_both_ends_may_begin_at_once(tmp_path: Path) -> None:
    async with trio(tmp_path) as (relay, one, two):
        real = punch_of(one).punch, punch_of(two).punch
        punch_of(one).upgrades._punch = never
        punch_of(two).upgrades._punch = never
        await one.transport.connect(two.behind(relay))
        await wait_for(lambda: route(two, one) == "relay")
        await asyncio.gather(real[0](two.id), real[1](one.id))
        await wait_for(lambda: route(one, two) == route(two, one) == "punched")
