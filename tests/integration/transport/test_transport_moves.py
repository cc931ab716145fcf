"""A relayed channel between two nodes moves to a better connection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aitorrent_transport.links import handshaking
from aitorrent_transport.links.link import Link
from aitorrent_transport.routes.joining import Joining
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.secure.handshake import Handshake
from aitorrent_transport.secure.suites import own_capabilities
from aitorrentd.api import (
    PEER_PORT,
    Denied,
    PeerConnected,
    PeerDisconnected,
    PeerRouteChanged,
    Priority,
    Route,
)
from tests.support.nodes import wait_for
from tests.support.transport.brought import PUNCHED, relay_route, secured
from tests.support.transport.transport_nodes import ECHO, Identity, TestNode, node


@asynccontextmanager
async def relayed(path: Path) -> AsyncIterator[tuple[TestNode, TestNode]]:
    """Two nodes with a relayed channel between them; the first one has the smaller peer id."""
    async with node(path, "a") as a, node(path, "b") as b:
        a, b = sorted((a, b), key=lambda each: each.id)
        await connected(a, b, relay_route())
        await wait_for(lambda: routes(a, b) == ["relay", "relay"])
        yield a, b


async def connected(a: TestNode, b: TestNode, route: Route = PUNCHED) -> None:
    """Another connection between the two nodes."""
    await secured(a.kernel.service(PEER_PORT), b.kernel.service(PEER_PORT), a.id, b.id, route)


def routes(*nodes: TestNode) -> list[str]:
    return [peer.route for each in nodes for peer in each.transport.peers()]


def channels(*nodes: TestNode) -> int:
    return sum(len(peer.channels) for each in nodes for peer in each.transport.table)


async def echoes(a: TestNode, b: TestNode, moved: asyncio.Event) -> int:
    """Send bytes to and fro until the channel has moved, and a little longer; return how many."""
    stream = await a.transport.open_stream(b.id, ECHO, priority=Priority.TENSOR)
    size = after = 0
    while after < 20:
        said = os.urandom(30_000)
        await stream.write(said)
        assert await stream.read_exactly(len(said)) == said
        size += len(said)
        after += moved.is_set()
    await stream.close()
    return size


@pytest.mark.parametrize("dialer", [0, 1])
async def test_streams_go_on_when_a_better_connection_exists(tmp_path: Path, dialer: int) -> None:
    async with relayed(tmp_path) as nodes:
        a, b = nodes
        moved = asyncio.Event()
        talks = [asyncio.create_task(echoes(*ends, moved)) for ends in ((a, b), (b, a)) * 10]
        await asyncio.sleep(0.05)
        await connected(nodes[dialer], nodes[not dialer])
        assert routes(a, b) == ["brought", "brought"]
        moved.set()
        total = sum(await asyncio.gather(*talks))
        for each in nodes:
            assert (each.count(PeerConnected), each.count(PeerDisconnected)) == (1, 0)
            changes = [e for e in each.events if isinstance(e, PeerRouteChanged)]
            assert [(e.peer, e.route) for e in changes] == [((b if each is a else a).id, "brought")]
            view = each.transport.peers()[0]
            assert (view.host, view.address) == (PUNCHED.host, PUNCHED.location)
            assert view.bytes_in > total
            attempt = each.transport.attempts.of(view.id)[-1]
            assert (attempt.way, attempt.where, attempt.ok) == ("move", PUNCHED.location, True)
        await wait_for(lambda: channels(a, b) == 2)


async def test_dialling_an_address_makes_a_relayed_peer_direct(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (a, b):
        stream = await a.transport.open_stream(b.id, ECHO)
        view = await b.transport.dial_once(a.address)
        assert (view.route, view.host) == ("direct", "127.0.0.1")
        await wait_for(lambda: routes(a, b) == ["direct", "direct"])
        await stream.write(b"as before")
        assert await stream.read_exactly(9) == b"as before"
        # The peer's own addresses mean something only where its packets come from.
        await wait_for(lambda: a.address in b.transport.addresses_of(a.id))


async def test_upgrades_that_race_leave_one_channel_with_all_streams(tmp_path: Path) -> None:
    async with relayed(tmp_path) as nodes:
        a, b = nodes
        moved = asyncio.Event()
        talks = [asyncio.create_task(echoes(*ends, moved)) for ends in ((a, b), (b, a)) * 5]
        await asyncio.sleep(0.05)
        await asyncio.gather(
            connected(a, b),
            connected(b, a),
            a.transport.dial_once(b.address),
            b.transport.dial_once(a.address),
        )
        assert "relay" not in routes(a, b)
        moved.set()
        await asyncio.gather(*talks)
        await wait_for(lambda: channels(a, b) == 2)
        assert a.count(PeerDisconnected) == b.count(PeerDisconnected) == 0
        links = [peer.best.link for each in nodes for peer in each.transport.table]
        assert links[0].handshake_hash == links[1].handshake_hash


async def test_channel_of_a_peer_that_cannot_move_retires_after_its_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Identity("b").peer_id

    def shake(credentials: Credentials, **options: Any) -> Handshake:
        is_old = credentials.signer.peer_id == old
        return Handshake(
            credentials, capabilities=own_capabilities() if is_old else None, **options
        )

    monkeypatch.setattr(handshaking, "Handshake", shake)
    async with relayed(tmp_path) as (a, b):
        stream = await a.transport.open_stream(b.id, ECHO)
        await connected(a, b)
        assert channels(a, b) == 4
        assert routes(a, b) == ["brought", "brought"]
        await stream.write(b"on the old one")
        assert await stream.read_exactly(14) == b"on the old one"
        await stream.close()
        await wait_for(lambda: channels(a, b) == 2)
        assert a.count(PeerRouteChanged) == b.count(PeerRouteChanged) == 0


@pytest.mark.parametrize("leader_notices", [True, False])
async def test_new_link_replaces_a_channel_that_ends_while_both_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leader_notices: bool
) -> None:
    async with relayed(tmp_path) as (a, b):
        here, there = (a, b) if leader_notices else (b, a)
        entry = here.transport.table.get(there.id)
        assert entry is not None
        channel, start = entry.best, Joining.start

        def start_and_lose(joining: Joining) -> None:
            start(joining)
            if joining.link.peer == there.id:
                channel.lose("the relay is gone")

        monkeypatch.setattr(Joining, "start", start_and_lose)
        async with asyncio.timeout(3):
            await connected(a, b)
        await wait_for(lambda: routes(a, b) == ["brought", "brought"])
        assert channel.closed
        stream = await a.transport.open_stream(b.id, ECHO)
        await stream.write(b"reached again")
        assert await stream.read_exactly(13) == b"reached again"


async def test_ban_of_the_new_address_ends_the_channel_that_moved_there(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (a, b):
        await connected(a, b)
        await a.transport.banning.ban(PUNCHED.host, 60.0, "a test")
        await wait_for(lambda: not a.transport.peers() and not b.transport.peers())


async def test_link_from_a_banned_address_moves_no_channel(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (a, b):
        await a.transport.banning.ban(PUNCHED.host, 60.0, "a test")
        with pytest.raises(Denied, match="banned"):
            await connected(a, b)
        assert routes(a, b) == ["relay", "relay"]
        assert await a.transport.ping(b.id) < 5


async def test_disconnecting_closes_links_that_wait_for_the_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Joining, "_agree", lambda joining, place: None)
    async with relayed(tmp_path) as (a, b):
        joining = asyncio.create_task(connected(a, b))
        await wait_for(lambda: len(b.transport.table.moves) or len(a.transport.table.moves))
        await a.transport.disconnect(b.id)
        await asyncio.gather(joining, return_exceptions=True)
        await wait_for(lambda: not a.transport.peers() and not b.transport.peers())
        assert not len(a.transport.table.moves) + len(b.transport.table.moves)


async def test_giving_up_closes_the_link_and_keeps_the_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Joining, "_agree", lambda joining, place: None)
    async with relayed(tmp_path) as (a, b):
        joining = [asyncio.create_task(connected(a, b)) for _ in range(2)]
        await wait_for(lambda: len(a.transport.table.moves) == 1)
        await wait_for(lambda: len(b.transport.table.moves) == 2)
        for task in joining:
            task.cancel()
        await asyncio.gather(*joining, return_exceptions=True)
        assert not len(a.transport.table.moves) + len(b.transport.table.moves)
        assert routes(a, b) == ["relay", "relay"]
        assert await a.transport.ping(b.id) < 5


async def test_ban_while_both_sides_agree_ends_the_channel_that_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relayed(tmp_path) as (a, b):
        agree = Joining._agree

        def ban_and_agree(joining: Joining, place: bytes) -> None:
            b.transport.guard.ban(PUNCHED.host, 60.0, "a test")
            agree(joining, place)

        monkeypatch.setattr(Joining, "_agree", ban_and_agree)
        await asyncio.gather(connected(a, b), return_exceptions=True)
        await wait_for(lambda: not a.transport.peers() and not b.transport.peers())
        assert b.count(PeerRouteChanged) == 0


async def test_next_move_waits_for_the_one_under_way(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (a, b):
        entry = a.transport.table.get(b.id)
        assert entry is not None
        channel, old = entry.best, entry.best.link
        assert isinstance(old, Link)
        stream = await a.transport.open_stream(b.id, ECHO)
        old.pause_reading()
        await connected(a, b, replace(relay_route(), renews=True))
        assert channel.mover.is_moving
        upgrade = asyncio.create_task(connected(a, b))
        await wait_for(lambda: len(b.transport.table.moves))
        await stream.write(b"on the way")
        await asyncio.sleep(0.1)
        assert routes(a, b) == ["relay", "relay"]
        old.resume_reading()
        await upgrade
        await wait_for(lambda: routes(a, b) == ["brought", "brought"])
        assert await stream.read_exactly(10) == b"on the way"
        assert entry.channels == [channel]
        await stream.close()
