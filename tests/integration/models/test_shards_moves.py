"""The channel between two stages moves to another connection, or is cut, in mid-answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from aitorrent_transport.service import TransportService
from aitorrentd.api import (
    ADVERTISERS,
    DIALERS,
    PEER_PORT,
    TRANSPORT,
    MakeProtocol,
    PeerDisconnected,
    PeerRouteChanged,
    Route,
    StageLost,
)
from aitorrentd.api.network.addresses import Address, parse_address
from aitorrentd.node import Node
from tests.support.nodes import NodeFactory, free_port, wait_for
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import (
    READY_S,
    greedy,
    reference_ids,
    shards_config,
    spans_seen,
)
from tests.support.transport.brought import RELAY, relay_route, secured

pytestmark = pytest.mark.slow

NEW = 40
PROMPT = "WHICH WAY DO THE TOKENS GO"
IDS = [ord(c) - 33 if c != " " else 220 for c in PROMPT]
NOBODY = "/ip4/127.0.0.1/tcp/1"
CIRCUIT = f"/ip4/192.0.2.9/tcp/7/p2p/{RELAY}/p2p-circuit"


async def holders(
    factory: NodeFactory,
    path: Path,
    connect: Callable[[Node, Node], Awaitable[None]],
    announce: str = NOBODY,
) -> tuple[Node, Node]:
    """Two nodes with half of the layers each, which nobody can dial, and the first one asks."""
    nodes = []
    for layers, own in (("0-3", NOBODY), ("3-6", announce)):
        config = shards_config(path, layers)
        config["plugins"] |= {
            "transport": {"announce": [own], "keepalive_s": 2.0},
            "nat": {"enabled": False},
        }
        nodes.append(await factory(config))
    asks, helps = nodes
    await connect(asks, helps)
    await wait_for(lambda: spans_seen(asks) == spans_seen(helps) == 2, READY_S)
    await asks.wait_for_model("m", timeout_s=READY_S)
    return asks, helps


async def answered(node: Node, acts: dict[int, Callable[[], Awaitable[None]]]) -> list[int]:
    """The ids of a greedy answer; after so many of them, the act for that number is done."""
    ids: list[int] = []
    async for chunk in node.generate(PROMPT, model="m", raw=True, **greedy(NEW)):
        ids += chunk.token_ids
        for at in [at for at in acts if at < len(ids)]:
            await acts.pop(at)()
    return ids


async def test_answer_stays_the_same_while_its_channel_moves_from_a_relay(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m")

    async def connect(a: Node, b: Node) -> None:
        await secured(a.service(PEER_PORT), b.service(PEER_PORT), a.id, b.id, relay_route())

    asks, helps = await holders(node_factory, path, connect)
    expected = reference_ids(path, IDS, NEW)

    async def upgrade() -> None:
        ports = asks.service(PEER_PORT), helps.service(PEER_PORT)
        views = await secured(*ports, asks.id, helps.id)
        assert [view.route for view in views] == ["brought", "brought"]

    with asks.events(PeerRouteChanged, PeerDisconnected, StageLost) as happened:
        assert await answered(asks, {NEW // 2: upgrade}) == expected
        first = await anext(happened)
    assert first == PeerRouteChanged(helps.id, "brought")
    peers = asks.service(TRANSPORT).peers()
    assert [(peer.id, peer.route) for peer in peers] == [(helps.id, "brought")]
    assert await answered(asks, {}) == expected


class Relay:
    """A dialer that knows the way to one node behind a relay."""

    name = "relay"

    def __init__(self, port: int) -> None:
        self._port = port

    def can_try(self, address: Address) -> bool:
        return address.relay is not None

    def route(self, address: Address) -> Route:
        return Route("relay", address.location, is_relayed=True)

    async def connect(self, address: Address, make_protocol: MakeProtocol) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(make_protocol, "127.0.0.1", self._port)
        return transport

    def addresses(self) -> list[Address]:
        return [parse_address(CIRCUIT)]


class Cable:
    """A TCP connection to a port, which can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._copies: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._carries = asyncio.Event()
        self._carries.set()

    async def plug(self, port: int) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", port)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, other_writer]
        for source, target in ((reader, other_writer), (other_reader, writer)):
            copy = asyncio.create_task(self._copy(source, target))
            self._copies.add(copy)
            copy.add_done_callback(self._copies.discard)

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while part := await source.read(65_536):
                await self._carries.wait()
                target.write(part)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.close()

    async def swallow(self) -> None:
        """Lose whatever is sent from now on, without a word."""
        self._carries.clear()

    async def cut(self) -> None:
        """Break the connections and refuse others."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        self._carries.set()
        if self._copies:
            await asyncio.wait(self._copies)


@pytest.fixture
async def cables() -> AsyncIterator[list[Cable]]:
    """What the test plugs; cut when it ends."""
    plugged: list[Cable] = []
    yield plugged
    for cable in plugged:
        await cable.cut()


@pytest.mark.parametrize("silently", [False, True])
async def test_answer_goes_on_through_a_relay_when_the_direct_channel_is_cut(
    node_factory: NodeFactory, tmp_path: Path, cables: list[Cable], silently: bool
) -> None:
    path = make_model(tmp_path / "m")
    port = free_port()

    async def connect(a: Node, b: Node) -> None:
        cables.append(Cable(b.service(TRANSPORT).bound[0][1]))
        await cables[0].plug(port)
        await a.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{b.id}")

    asks, helps = await holders(node_factory, path, connect, f"/ip4/127.0.0.1/tcp/{port}")
    expected = reference_ids(path, IDS, NEW)
    relay = Relay(helps.service(TRANSPORT).bound[0][1])
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def cut() -> None:
        times.append(loop.time())
        await (cables[0].swallow() if silently else cables[0].cut())

    async def on_again() -> None:
        times.append(loop.time())

    with (
        asks.service(DIALERS).added("relay", relay),
        helps.service(ADVERTISERS).added("relay", relay),
    ):
        told = f"{CIRCUIT}/p2p/{helps.id}"
        transport = cast(TransportService, asks.service(TRANSPORT))
        await wait_for(lambda: told in transport.addresses_of(helps.id), 20)
        assert await answered(asks, {NEW // 2: cut, NEW // 2 + 3: on_again}) == expected
        peers = asks.service(TRANSPORT).peers()
        assert [(peer.id, peer.route) for peer in peers] == [(helps.id, "relay")]
        assert times[1] - times[0] < 10.0
