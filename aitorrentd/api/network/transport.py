"""Peers, channels and streams, as plugins see them.

A channel is an authenticated, encrypted connection to one peer; it carries many streams. A stream
is opened for a protocol id; the peer's handler for that id gets the other end. Opening a stream to
the node's own id gives a stream inside the process, so that callers need no special case.
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
    """Who goes first when a channel is busy; each class keeps a floor of the bandwidth."""

    CONTROL = 0
    TENSOR = 1
    BULK = 2


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer as it stands now."""

    id: PeerId
    address: str
    "Where the channel goes, as a multiaddr without /p2p."
    outbound: bool
    connected_s: float
    "Seconds since the handshake completed."
    rtt_s: float | None
    "Smoothed round-trip time of pings in the channel; None before the first."
    streams: int
    bytes_in: int
    bytes_out: int
    agent: str
    "What the peer says it runs, such as `aitorrentd/0.1.0`."
    name: str = ""
    """What the peer calls itself, at most 64 harmless characters: a claim, which any other node may
    make too. Only the id is proven."""


class Stream(Protocol):
    """One end of a stream. Reads and writes wait for the peer's window, so memory stays bounded.

    Every method raises PeerGone when the stream or its channel was reset or lost.
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
        """Between 1 and `max_bytes` bytes as soon as there are any; b"" after the peer closed."""

    async def read_exactly(self, n: int) -> bytes:
        """Exactly `n` bytes; PeerGone when the stream ends before."""

    async def read_line(self, max_bytes: int = 65_536) -> bytes:
        """Bytes up to and with the next newline; b"" at the end; TooLarge beyond `max_bytes`."""

    def take_frame(self, *, max_bytes: int) -> Frame | None:
        """The next frame, as `read_frame` gives it, or None while a part of it is still missing.

        This and the two that follow are for those to whom a pass of the event loop is long; the
        others read and write.

        Raises:
            ProtocolError: not a frame, or longer than `max_bytes`. PeerGone: also when the stream
            ended in order.
        """

    def when_frame(self, wake: Callable[[], None]) -> None:
        """Call `wake` once when `take_frame`, which just gave None, has a frame or raises.

        The call comes from where the bytes arrive: it should do what is urgent and return. An
        error that it raises resets the stream.
        """

    def write_now(self, *parts: bytes | memoryview) -> bool:
        """Queue all of `parts`, which nobody may change later, unless that would have to wait;
        whether it did.

        Raises:
            Conflict: this end is closed for writing.
        """

    async def close_write(self) -> None:
        """Say that no more bytes follow; reading goes on."""

    async def close(self) -> None:
        """End both directions in order; bytes already written are still delivered."""

    def reset(self, reason: str = "") -> None:
        """End both directions at once; the peer's calls raise PeerGone."""


@dataclass(frozen=True, slots=True)
class WireProtocol:
    """A peer protocol that a plugin answers.

    `handler` owns the stream and returns when it is done; an error that escapes resets the stream,
    never the channel. `max_streams` bounds the handler's concurrent streams of one peer.
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

    def addresses(self) -> Sequence[str]:
        """Where this node listens, as multiaddrs with /p2p; ports are the real ones."""

    def peers(self) -> Sequence[PeerView]:
        """Connected peers, in order of connection."""

    def peer(self, peer: PeerId) -> PeerView | None:
        """The peer, or None while it is not connected."""

    async def connect(self, address: str, *, timeout_s: float = 10.0) -> PeerView:
        """A channel to `address` (multiaddr or host:port); an open one to the same peer is reused.

        Raises:
            InvalidParams: not an address. Unavailable: nobody answers there, or the handshake
            failed. TimedOut: not within `timeout_s`.
        """

    async def disconnect(self, peer: PeerId) -> None:
        """End the channel to `peer`; nothing happens when there is none."""

    async def open_stream(
        self,
        peer: PeerId,
        protocol: str,
        *,
        timeout_s: float = 10.0,
        priority: Priority = Priority.CONTROL,
        addresses: Sequence[str] = (),
    ) -> Stream:
        """A stream to `peer`, dialling its known addresses and `addresses` if it is not connected.

        Returns as soon as the open request is queued; a refusal shows as PeerGone on the first
        read.

        Raises:
            Unavailable: the peer cannot be reached. Busy: too many streams are open to it.
        """

    async def ping(self, peer: PeerId, *, timeout_s: float = 10.0) -> float:
        """Measured round-trip time in seconds.

        Raises:
            Unavailable: not connected. TimedOut: no answer.
        """

    async def broadcast(self, text: str) -> int:
        """Send a message of at most 4096 characters to every connected peer; returns how many."""


TRANSPORT: Final = ServiceKey[Transport]("transport.v1")
