"""Peers, channels and streams, as plugins see them.

A channel is an authenticated, encrypted connection to one peer; it carries many streams. A stream
is opened for a protocol id; the peer's handler for that id gets the other end. A stream to the
node's own id stays inside the process, so callers need no special case.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from aitorrentd.api.ids import PeerId
from aitorrentd.api.services import ServiceKey
from aitorrentd.wire import Frame


class Priority(IntEnum):
    """Priority on a busy channel; each class keeps a minimum share of the bandwidth."""

    CONTROL = 0
    TENSOR = 1
    BULK = 2


@dataclass(frozen=True, slots=True)
class PeerView:
    """A snapshot of a peer."""

    id: PeerId
    address: str
    "The channel's remote address, as a multiaddr without /p2p."
    outbound: bool
    connected_s: float
    "Seconds since the handshake completed."
    rtt_s: float | None
    "Smoothed round-trip time of pings in the channel; None before the first."
    streams: int
    bytes_in: int
    bytes_out: int
    agent: str
    "The software that the peer reports, such as `aitorrentd/0.1.0`."
    name: str = ""
    """The peer's self-chosen name, at most 64 safe characters: an unverified claim, which any other
    node may make too. Only the id is authenticated."""
    route: str = "direct"
    "How the peer is connected: `direct`, `relay` and the like; see `Route`."
    host: str = ""
    "The peer's IP address; empty if unknown, as behind a relay."
    observed: str = ""
    "This node's address and port as the peer sees them, HOST:PORT; a claim, empty if not told."


class Stream(Protocol):
    """One end of a stream. Flow control by the peer's window bounds memory use.

    Every method raises PeerGone once the stream or its channel is reset or lost.
    """

    @property
    def peer(self) -> PeerId:
        """The node at the other end."""

    @property
    def protocol(self) -> str:
        """The protocol id that the stream was opened for."""

    async def write(self, data: bytes | memoryview) -> None:
        """Queue all of `data`, waiting while the peer's window is full."""

    async def read(self, max_bytes: int = 65_536) -> bytes:
        """1 to `max_bytes` bytes, as soon as any arrive; b"" after the peer closed."""

    async def read_exactly(self, n: int) -> bytes:
        """Exactly `n` bytes; PeerGone if the stream ends first."""

    async def read_line(self, max_bytes: int = 65_536) -> bytes:
        """Bytes through the next newline; b"" at the end; TooLarge beyond `max_bytes`."""

    def take_frame(self, *, max_bytes: int) -> Frame | None:
        """The next frame, as `read_frame` returns it, or None while it is incomplete.

        This method and the next two are for callers that cannot afford a pass of the event loop;
        other callers use `read` and `write`.

        Raises:
            ProtocolError: not a frame, or longer than `max_bytes`. PeerGone: also after a clean end
            of the stream.
        """

    def when_frame(self, wake: Callable[[], None]) -> None:
        """Call `wake` once when `take_frame`, which just returned None, has a frame or raises.

        The call comes directly from the receive path: do only urgent work and return. An error that
        it raises resets the stream.
        """

    def write_now(self, *parts: bytes | memoryview) -> bool:
        """Queue all of `parts` (not to be modified later) unless that would block; whether it did.

        Raises:
            Conflict: this end is closed for writing.
        """

    async def close_write(self) -> None:
        """Half-close: no more bytes follow; reading stays possible."""

    async def close(self) -> None:
        """Close both directions cleanly; bytes already written are still delivered."""

    def reset(self, reason: str = "") -> None:
        """Abort both directions at once; the peer's calls raise PeerGone."""


@dataclass(frozen=True, slots=True)
class WireProtocol:
    """A peer protocol that a plugin serves.

    `handler` owns the stream and returns when done; an escaping error resets the stream, never the
    channel. `max_streams` limits one peer's concurrent streams to the handler.
    """

    id: str
    handler: Callable[[Stream], Awaitable[None]]
    max_streams: int = 32
    priority: Priority = Priority.CONTROL


class Transport(Protocol):
    """Channels to peers. Provided by the transport plugin."""

    @property
    def node_id(self) -> PeerId:
        """This node's own id."""

    @property
    def bound(self) -> Sequence[tuple[str, int]]:
        """IP addresses and TCP ports on which this node listens; grows as addresses appear."""

    @property
    def announced(self) -> Sequence[str]:
        """The addresses that the operator says are this node's (`announce`); usually none."""

    @property
    def is_masking(self) -> bool:
        """Whether connections that this node opens are disguised; plugins then open no others."""

    def addresses(self) -> Sequence[str]:
        """Listening addresses of this node as multiaddrs with /p2p; ports are the actual ones."""

    async def bootstrap_addresses(self) -> Sequence[str]:
        """The configured bootstrap addresses, with those that its address files list now."""

    def network_key(self, purpose: str) -> bytes:
        """32 bytes that each node of this network derives, also from its pre-shared key if it has
        one; each purpose has its own."""

    def peers(self) -> Sequence[PeerView]:
        """Connected peers, in order of connection."""

    def peer(self, peer: PeerId) -> PeerView | None:
        """The peer, or None while it is not connected."""

    async def connect(self, address: str, *, timeout_s: float = 10.0) -> PeerView:
        """Open a channel to `address` (multiaddr or host:port), or reuse one to the same peer.

        Raises:
            InvalidParams: not an address. Unavailable: no answer, or the handshake failed.
            TimedOut: not within `timeout_s`.
        """

    async def disconnect(self, peer: PeerId) -> None:
        """Close the channel to `peer`, if there is one."""

    async def open_stream(
        self,
        peer: PeerId,
        protocol: str,
        *,
        timeout_s: float = 10.0,
        priority: Priority = Priority.CONTROL,
        addresses: Sequence[str] = (),
    ) -> Stream:
        """Open a stream to `peer`, dialling its known addresses and `addresses` if not connected.

        Returns as soon as the open request is queued; a refusal raises PeerGone on the first read.

        Raises:
            Unavailable: the peer cannot be reached. Busy: too many streams are open to it.
        """

    async def ping(self, peer: PeerId, *, timeout_s: float = 10.0) -> float:
        """Measure the round-trip time in seconds.

        Raises:
            Unavailable: not connected. TimedOut: no answer.
        """

    async def broadcast(self, text: str) -> int:
        """Send at most 4096 characters to every connected peer; returns the number of peers."""


TRANSPORT: Final = ServiceKey[Transport]("transport.v1")
"Channels to peers."
