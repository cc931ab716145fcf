"""A relayed channel with streams under way moves to QUIC on a path that loses datagrams."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path

import pytest

from aitorrent_nat.punch.paths.datagrams import SocketPath
from aitorrent_nat.punch.paths.quic_transport import QuicTransport
from aitorrentd.api import (
    PEER_PORT,
    MakeProtocol,
    PeerDisconnected,
    PeerRouteChanged,
    Priority,
    Route,
)
from tests.support.nat.paths import Weather, paths
from tests.support.nodes import wait_for
from tests.support.transport.brought import relay_route, secured
from tests.support.transport.transport_nodes import ECHO, TestNode, node

QUIC = Route("quic", "/ip4/192.0.2.1/udp/1/quic-v1", "192.0.2.1")


async def over(path: SocketPath, is_client: bool, make: MakeProtocol) -> asyncio.Transport:
    return await QuicTransport.over(path, make, is_client=is_client)


async def echoes(a: TestNode, b: TestNode, moved: asyncio.Event, seed: int) -> None:
    """Send random bytes and expect them back, until the channel moved and a little longer."""
    draw = random.Random(seed)
    stream = await a.transport.open_stream(b.id, ECHO, priority=Priority(seed % 3))
    after = 0
    while after < 3:
        said = draw.randbytes(30_000)
        writing = asyncio.create_task(stream.write(said))
        assert await stream.read_exactly(len(said)) == said
        await writing
        after += moved.is_set()
    await stream.close()


@pytest.mark.parametrize(("loss", "jitter_s"), [(0.0, 0.0), (0.02, 0.004)])
async def test_streams_survive_the_move_to_a_punched_path(
    tmp_path: Path, loss: float, jitter_s: float
) -> None:
    async with (
        node(tmp_path, "a") as a,
        node(tmp_path, "b") as b,
        paths(Weather(loss=loss, delay_s=0.002, jitter_s=jitter_s)) as ends,
    ):
        ports = a.kernel.service(PEER_PORT), b.kernel.service(PEER_PORT)
        await secured(*ports, a.id, b.id, relay_route())
        pairs = [(a, b), (b, a)] * 5
        moved = asyncio.Event()
        talks = [asyncio.create_task(echoes(*pair, moved, seed)) for seed, pair in enumerate(pairs)]
        await asyncio.sleep(0.05)
        await asyncio.gather(
            ports[0].secure(partial(over, ends[0], True), b.id, QUIC, dialer=True),
            ports[1].secure(partial(over, ends[1], False), a.id, QUIC, dialer=False),
        )
        await wait_for(lambda: a.count(PeerRouteChanged) == b.count(PeerRouteChanged) == 1)
        moved.set()
        await asyncio.gather(*talks)
        for each in (a, b):
            assert [peer.route for peer in each.transport.peers()] == ["quic"]
            assert each.count(PeerDisconnected) == 0
