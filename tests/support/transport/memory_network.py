"""Nodes that reach each other in memory: the only stand-in for `aitorrentd.api.Transport`.

Whoever joins is connected to all others. A test sets how far two nodes are apart, cuts them off
from each other, loses their streams, freezes a node, or takes it away. Distances are times of the
running loop, so they cost nothing on one whose clock jumps (`jump_clock`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from aitorrent_transport.streams.loopback import local_streams
from aitorrentd.api import (
    AitorrentError,
    Event,
    PeerConnected,
    PeerDisconnected,
    PeerGone,
    PeerId,
    PeerView,
    Priority,
    Record,
    Stream,
    TimedOut,
    Unavailable,
    WireProtocol,
)
from aitorrentd.api.network.addresses import parse_address
from tests.support.transport.streams import MemoryStream, stream_pair

Handler = Callable[[Stream], Awaitable[None]]


class MemoryNetwork:
    """All nodes of a test, and what the directories of all of them know."""

    def __init__(self) -> None:
        self.nodes: dict[PeerId, MemoryTransport] = {}
        self.records: dict[tuple[str, PeerId], Record] = {}
        self.opened: list[PeerId] = []
        "The peers to which a stream was asked for, in order."
        self.streams: list[MemoryStream] = []
        "The openers' ends of all streams between two nodes."
        self.handlers: set[asyncio.Task[None]] = set()
        self.errors: list[BaseException] = []
        "What handlers raised, but for lost streams."
        self.on_written: Callable[[MemoryStream, bytes], None] | None = None
        "Called after each write to a stream; it may lose that stream, bytes under way included."
        self.is_swallowed: Callable[[MemoryStream, bytes], bool] = lambda stream, data: False
        "Whether the node at the other end takes these bytes and forgets them, like one that hangs."
        self._round_trips_s: dict[frozenset[PeerId], float] = {}
        self._cut: set[frozenset[PeerId]] = set()

    def join(
        self,
        me: PeerId,
        *protocols: WireProtocol,
        name: str = "",
        publish: Callable[[Event], None] = lambda event: None,
        connected: bool = True,
    ) -> MemoryTransport:
        """A new node that serves `protocols`, connected to all others unless told otherwise."""
        node = MemoryTransport(self, me, protocols, name, publish)
        self.nodes[me] = node
        if connected:
            for other in self.nodes.values():
                if other is not node and other.is_up:
                    node.channel_to(other)
        return node

    def apart(self, a: PeerId, b: PeerId, round_trip_s: float, *, measured: bool = True) -> None:
        """How far two nodes are apart from now on; `measured` if both have pinged before."""
        self._round_trips_s[frozenset((a, b))] = round_trip_s
        for here, there in ((a, b), (b, a)):
            if measured and (channel := self.nodes[here].channels.get(there)):
                channel.rtt_s = round_trip_s

    def round_trip_s(self, a: PeerId, b: PeerId) -> float:
        """How far two nodes are apart."""
        return self._round_trips_s.get(frozenset((a, b)), 0.0)

    def can_reach(self, a: PeerId, b: PeerId) -> bool:
        """Whether there is a way between two nodes."""
        ends = (self.nodes.get(a), self.nodes.get(b))
        return frozenset((a, b)) not in self._cut and all(end and end.is_up for end in ends)

    def cut(self, a: PeerId, b: PeerId) -> None:
        """Two nodes cannot reach each other any more, nor do their streams go on."""
        self._cut.add(frozenset((a, b)))
        self.disconnect(a, b, "the test cut them off from each other")

    def heal(self) -> None:
        """All nodes can reach each other again."""
        self._cut.clear()

    def lose_streams(self, a: PeerId, b: PeerId | None = None) -> None:
        """Lose every stream of a node, or those with another."""
        for stream in self.streams:
            ends = (stream.peer, stream.other.peer)
            if a in ends and (b is None or b in ends):
                stream.reset("the test broke it")

    def disconnect(self, a: PeerId, b: PeerId, reason: str) -> None:
        """End the channel between two nodes with its streams."""
        self.lose_streams(a, b)
        for here, there in ((a, b), (b, a)):
            if there in self.nodes[here].channels:
                del self.nodes[here].channels[there]
                self.nodes[here].publish(PeerDisconnected(there, reason))

    def kill(self, node: PeerId) -> None:
        """As SIGKILL of a daemon: it is gone, and what it told the directory is, too."""
        self.nodes[node].is_up = False
        for peer in list(self.nodes[node].channels):
            self.disconnect(peer, node, "the test killed it")
        for key in [k for k in self.records if k[1] == node]:
            del self.records[key]

    def serve(self, handler: Handler, stream: Stream) -> None:
        """Run a handler as the transport does: what it raises resets its stream."""
        task = asyncio.get_running_loop().create_task(self._serve(handler, stream))
        self.handlers.add(task)
        task.add_done_callback(self.handlers.discard)

    async def _serve(self, handler: Handler, stream: Stream) -> None:
        try:
            await handler(stream)
            await stream.close()
        except PeerGone as e:
            stream.reset(e.message)
        except AitorrentError as e:
            self.errors.append(e)
            stream.reset(e.message)
        except Exception as e:
            self.errors.append(e)
            stream.reset("the handler failed")

    async def close(self) -> None:
        """End every handler that still runs."""
        for task in self.handlers:
            task.cancel()
        if self.handlers:
            await asyncio.wait(self.handlers)


@dataclass
class _Channel:
    outbound: bool
    since_s: float
    rtt_s: float | None = None
    route: str = "direct"


@dataclass
class MemoryTransport:
    """One node's transport."""

    network: MemoryNetwork
    me: PeerId
    protocols: Sequence[WireProtocol]
    name: str
    publish: Callable[[Event], None]
    is_up: bool = True
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    "Cleared while the node hangs: it takes streams, and neither reads nor writes."
    channels: dict[PeerId, _Channel] = field(default_factory=dict)
    pinged: list[PeerId] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.awake.set()

    @property
    def node_id(self) -> PeerId:
        return self.me

    @property
    def location(self) -> str:
        """Its address without /p2p."""
        return f"/ip4/127.0.0.1/tcp/{1 + list(self.network.nodes).index(self.me)}"

    @property
    def bound(self) -> Sequence[tuple[str, int]]:
        return ()

    @property
    def announced(self) -> Sequence[str]:
        return ()

    @property
    def is_masking(self) -> bool:
        return False

    async def bootstrap_addresses(self) -> Sequence[str]:
        return ()

    def network_key(self, purpose: str) -> bytes:
        return bytes(32)

    def addresses(self) -> Sequence[str]:
        return [f"{self.location}/p2p/{self.me}"]

    def peers(self) -> Sequence[PeerView]:
        return [self._view(peer, channel) for peer, channel in self.channels.items()]

    def peer(self, peer: PeerId) -> PeerView | None:
        channel = self.channels.get(peer)
        return self._view(peer, channel) if channel is not None else None

    def _view(self, peer: PeerId, channel: _Channel) -> PeerView:
        there = self.network.nodes[peer]
        return PeerView(
            id=peer,
            address=there.location,
            outbound=channel.outbound,
            connected_s=_now() - channel.since_s,
            rtt_s=channel.rtt_s,
            streams=sum(
                {s.peer, s.other.peer} == {self.me, peer} and not s.is_over
                for s in self.network.streams
            ),
            bytes_in=0,
            bytes_out=0,
            agent="memory",
            name=there.name,
            host=parse_address(there.location).host,
            route=channel.route,
        )

    def channel_to(self, other: MemoryTransport) -> None:
        """Be connected to another node from now on."""
        for here, there in ((self, other), (other, self)):
            here.channels[there.me] = _Channel(here is self, _now())
            here.publish(PeerConnected(there.me, there.location, here is self))

    async def connect(self, address: str, *, timeout_s: float = 10.0) -> PeerView:
        location = parse_address(address).location
        for node in self.network.nodes.values():
            if node is not self and node.location == location:
                await self._dial(node.me, timeout_s)
                return self._view(node.me, self.channels[node.me])
        raise Unavailable(f"nobody listens at {address}")

    async def _dial(self, peer: PeerId, timeout_s: float) -> None:
        if peer in self.channels:
            return
        if not self.network.can_reach(self.me, peer):
            raise Unavailable(f"{peer} cannot be reached")
        await self._travel(peer, timeout_s)
        self.channel_to(self.network.nodes[peer])

    async def _travel(self, peer: PeerId, timeout_s: float) -> None:
        """The time of a round trip."""
        takes_s = self.network.round_trip_s(self.me, peer)
        await asyncio.sleep(min(takes_s, timeout_s))
        there = self.network.nodes[peer]
        if takes_s > timeout_s or not there.awake.is_set():
            raise TimedOut(f"{peer} did not answer within {timeout_s:g} s")

    async def disconnect(self, peer: PeerId) -> None:
        if peer in self.channels:
            self.network.disconnect(self.me, peer, "disconnected by its operator")

    async def open_stream(
        self,
        peer: PeerId,
        protocol: str,
        *,
        timeout_s: float = 10.0,
        priority: Priority = Priority.CONTROL,
        addresses: Sequence[str] = (),
    ) -> Stream:
        await asyncio.sleep(0)
        self.network.opened.append(peer)
        if peer == self.me:
            near, far = local_streams(peer, protocol, priority, _now)
            self._begin(far)
            return near
        await self._dial(peer, timeout_s)
        there = self.network.nodes[peer]
        ours, theirs = stream_pair(
            protocol,
            client=self.me,
            server=peer,
            delay_s=self.network.round_trip_s(self.me, peer) / 2,
            awake=(self.awake, there.awake),
        )
        for end in (ours, theirs):
            end.on_written = self._written
            end.is_swallowed = lambda stream, data: self.network.is_swallowed(stream, data)
        self.network.streams.append(ours)
        there._begin(theirs)
        return ours

    def _written(self, stream: MemoryStream, data: bytes) -> None:
        if self.network.on_written is not None:
            self.network.on_written(stream, data)

    def _begin(self, stream: Stream) -> None:
        """Serve a stream that was opened to this node, or refuse it."""
        served = next((p for p in self.protocols if p.id == stream.protocol), None)
        if served is None:
            stream.reset(f"no such protocol {stream.protocol}")
        else:
            self.network.serve(served.handler, stream)

    async def ping(self, peer: PeerId, *, timeout_s: float = 10.0) -> float:
        self.pinged.append(peer)
        if peer == self.me:
            return 0.0
        if peer not in self.channels:
            raise Unavailable(f"{peer} is not connected")
        await self._travel(peer, timeout_s)
        self.channels[peer].rtt_s = self.network.round_trip_s(self.me, peer)
        return self.network.round_trip_s(self.me, peer)

    async def broadcast(self, text: str) -> int:
        self.said.append(text)
        return len(self.channels)


def _now() -> float:
    return asyncio.get_running_loop().time()
