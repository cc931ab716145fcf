"""Punching sessions between hosts of a lab, all in this process, without daemons.

The signalling runs over a stream in memory, with the round trip of a relayed channel; everything
else is real: sockets on the hosts, NAT boxes between them, a mirror and a STUN server in public.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from aioice import stun

from aitorrent_nat.punch.birthday import Turns
from aitorrent_nat.punch.messages import Result
from aitorrent_nat.punch.mirror import HostPort, Mirror
from aitorrent_nat.punch.plan import Nat
from aitorrent_nat.punch.session import Session
from aitorrent_nat.punch.sighting import Sighting
from aitorrent_nat.punch.surroundings import TurnAccess
from aitorrentd.api import Attempt, MakeProtocol, PeerGone, PeerId, PeerView, Route, Stream, peer_id
from aitorrentd.api.tasks import Tasks
from tests.support.nat.ends import End, mirror_server
from tests.support.nat.lab import Host, Lab
from tests.support.nat.terms import KINDS

MIRROR_PORT: Final = 8468
STUN_PORT: Final = 3478
RTT_S: Final = 0.04
LOWER, HIGHER = PeerId("peer-1"), PeerId("peer-2")
WITNESS: Final = peer_id(bytes(32))


class MemoryStream:
    """One end of a stream whose ends live on different event loops."""

    protocol = "test"

    def __init__(self, loop: asyncio.AbstractEventLoop, peer: PeerId, delay_s: float) -> None:
        self.peer = peer
        self.other: MemoryStream | None = None
        self._loop = loop
        self._delay_s = delay_s
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._gone = False

    def _feed(self, data: bytes | None) -> None:
        self._loop.call_later(self._delay_s, self._arrive, data)

    def _arrive(self, data: bytes | None) -> None:
        if data is None:
            self._gone = True
        else:
            self._buffer += data
        self._news.set()

    def _tell(self, data: bytes | None) -> None:
        if self.other is not None:
            self.other._loop.call_soon_threadsafe(self.other._feed, data)

    async def write(self, data: bytes | memoryview) -> None:
        self._tell(bytes(data))

    async def read_exactly(self, n: int) -> bytes:
        while len(self._buffer) < n:
            if self._gone:
                raise PeerGone("the other end is gone")
            self._news.clear()
            await self._news.wait()
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    async def close(self) -> None:
        self._tell(None)

    def reset(self, reason: str = "") -> None:
        self._tell(None)


class Secured(asyncio.Protocol):
    """Stands for the channel: says which node it is, and counts what arrives later."""

    def __init__(self, node: PeerId) -> None:
        self._node = node
        self.hello: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.received = 0
        self.wanted = 0
        self.complete = asyncio.Event()
        self.can_write = asyncio.Event()
        self.can_write.set()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._node.encode())

    def data_received(self, data: bytes) -> None:
        if not self.hello.done():
            self.hello.set_result(data[: len(self._node)].decode())
            data = data[len(self._node) :]
        self.received += len(data)
        if self.wanted and self.received >= self.wanted:
            self.complete.set()

    def pause_writing(self) -> None:
        self.can_write.clear()

    def resume_writing(self) -> None:
        self.can_write.set()

    async def send(self, count: int) -> None:
        """Write `count` bytes."""
        chunk = bytes(256 * 1024)
        for at in range(0, count, len(chunk)):
            self.transport.write(chunk[: count - at])
            await self.can_write.wait()


class FakePort:
    """A peer port that secures nothing."""

    def __init__(self, node: PeerId) -> None:
        self._node = node
        self.secured: dict[str, Secured] = {}

    async def secure(
        self,
        connect: Callable[[MakeProtocol], Awaitable[asyncio.Transport]],
        peer: PeerId,
        route: Route,
        *,
        dialer: bool,
        timeout_s: float = 10.0,
    ) -> PeerView:
        made: list[Secured] = []

        def make() -> Secured:
            made.append(Secured(self._node))
            return made[0]

        async with asyncio.timeout(timeout_s):
            await connect(make)
            assert await made[0].hello == peer
        self.secured[route.name] = made[0]
        return PeerView(
            peer, route.location, dialer, 0.0, None, 0, 0, 0, "", route=route.name, host=route.host
        )


@dataclass
class FakeAround:
    """What a session knows of its node and of the network."""

    node_id: PeerId
    host: Host
    peer_host: Host
    relay: Host
    known: Nat
    birthday: bool = True
    mirror_places: Sequence[HostPort] | None = None
    sees: frozenset[str] | None = None
    turn_access: TurnAccess | None = None
    listens: Sequence[HostPort] = ()
    attempts: list[Attempt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = FakePort(self.node_id)

    @property
    def peer_port(self) -> Any:
        return self.port

    def mirrors(self, peer: PeerId) -> Sequence[HostPort]:
        if self.mirror_places is not None:
            return self.mirror_places
        return [(address, MIRROR_PORT) for address in (self.relay.address, *self.relay.others)]

    def stun_servers(self) -> Sequence[HostPort]:
        return [(self.relay.address, STUN_PORT)]

    def nat(self) -> Nat:
        return self.known

    def listening(self) -> Sequence[HostPort]:
        return self.listens

    def local_hosts(self) -> Sequence[str]:
        return [self.host.address]

    async def sightings(self, peer: PeerId) -> Sequence[Sighting]:
        return [Sighting(WITNESS, self.host.public, 0, bytes(64))]

    def believed(self, peer: PeerId, sightings: Sequence[Sighting]) -> frozenset[str]:
        return frozenset({self.peer_host.public}) if self.sees is None else self.sees

    def turn(self) -> TurnAccess | None:
        return self.turn_access

    def is_direct(self, peer: PeerId) -> bool:
        return bool(self.port.secured)

    def note(self, peer: PeerId, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def unix_s(self) -> float:
        return time.time()


class Reflector(asyncio.DatagramProtocol):
    """Answers STUN binding requests."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        request = stun.parse_message(data)
        response = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.RESPONSE,
            transaction_id=request.transaction_id,
        )
        response.attributes["XOR-MAPPED-ADDRESS"] = addr
        self._transport.sendto(bytes(response), addr)


class Pair:
    """Two hosts, and the public host between them; `run` runs one session."""

    def __init__(self, relay: Host, one: Host, two: Host, ends: tuple[End, End]) -> None:
        self.relay = relay
        self.ends = ends
        self.arounds = (
            FakeAround(LOWER, one, two, relay, KINDS[one.kind]),
            FakeAround(HIGHER, two, one, relay, KINDS[two.kind]),
        )
        self.turns = Turns(lambda: 0.0), Turns(lambda: 0.0)

    def run(self, timeout_s: float = 40.0) -> tuple[Result, Result]:
        """The results of both ends."""
        streams = [
            end.run(_make_stream(end.loop, peer))
            for end, peer in zip(self.ends, (HIGHER, LOWER), strict=True)
        ]
        streams[0].other, streams[1].other = streams[1], streams[0]
        running = [
            end.start(_session(around, stream, turns, initiator=not n))
            for n, (end, around, stream, turns) in enumerate(
                zip(self.ends, self.arounds, streams, self.turns, strict=True)
            )
        ]
        one, two = (each.result(timeout_s) for each in running)
        return one, two

    def outcome(self, way: str) -> list[Attempt]:
        """What both ends noted about a leg."""
        return [each for around in self.arounds for each in around.attempts if each.way == way]


async def _make_stream(loop: asyncio.AbstractEventLoop, peer: PeerId) -> MemoryStream:
    return MemoryStream(loop, peer, RTT_S / 2)


async def _session(
    around: FakeAround, stream: MemoryStream, turns: Turns, *, initiator: bool
) -> Result:
    tasks = Tasks(logging.getLogger("aitorrentd.nat"))
    session = Session(around, cast(Stream, stream), tasks, turns, initiator=initiator)
    return await session.run()


@contextmanager
def pair(net: Lab, one: Host, two: Host) -> Iterator[Pair]:
    """Two hosts and a public one with two addresses, each with an event loop."""
    relay = net.public(2)
    with ExitStack() as stack:
        public, *ends = [stack.enter_context(End(host.namespace)) for host in (relay, one, two)]
        ready = threading.Event()
        serving = public.start(_serve(ready))
        assert ready.wait(10)
        both = Pair(relay, one, two, (ends[0], ends[1]))
        try:
            yield both
        finally:
            for end, around in zip(ends, both.arounds, strict=True):
                end.run(_end(around))
            serving.cancel()
            public.run(asyncio.sleep(0.1))


async def _end(around: FakeAround) -> None:
    """Close what the sessions left: their channels."""
    for secured in around.port.secured.values():
        secured.transport.abort()
    await asyncio.sleep(0.1)


async def _serve(ready: threading.Event) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        Reflector, local_addr=("0.0.0.0", STUN_PORT), family=socket.AF_INET
    )
    try:
        async with mirror_server(Mirror(time.monotonic), "0.0.0.0", MIRROR_PORT):
            ready.set()
            await asyncio.Event().wait()
    finally:
        transport.close()
