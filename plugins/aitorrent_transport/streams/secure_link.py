"""What a channel needs from a link, so that channels know nothing of sockets and handshakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aitorrentd.api import PeerId, Route


class SecureLink(Protocol):
    """The interface a channel needs from a link after its handshake."""

    on_record: Callable[[memoryview], None]
    on_lost: Callable[[str], None]
    on_writable: Callable[[], None]

    @property
    def peer(self) -> PeerId:
        """The peer at the other end, authenticated by the handshake."""

    @property
    def agent(self) -> str:
        """The software that the peer claims to run."""

    @property
    def outbound(self) -> bool:
        """Whether this side dialled."""

    @property
    def remote(self) -> tuple[str, int]:
        """IP address and port of the other end of the connection: the peer's, or its relay's."""

    @property
    def local_host(self) -> str:
        """IP address of this end; empty if the connection is no TCP connection."""

    @property
    def route(self) -> Route:
        """How the peer is reached."""

    @property
    def instance(self) -> bytes:
        """Distinguishes the peer's process from another with its identity; empty if not sent."""

    @property
    def observed(self) -> tuple[str, int] | None:
        """This end's address and port as the peer sees them, or None."""

    @property
    def handshake_hash(self) -> bytes:
        """Identical on both sides, unique per handshake."""

    @property
    def can_move(self) -> bool:
        """Whether the peer can move a channel from or to this link."""

    @property
    def writable(self) -> bool:
        """Whether the write buffer is below its high-water mark."""

    @property
    def bytes_in(self) -> int:
        """Bytes received."""

    @property
    def bytes_out(self) -> int:
        """Bytes sent."""

    def start(self) -> None:
        """Start delivering records."""

    def pause_reading(self) -> None:
        """Deliver no records until `resume_reading`."""

    def resume_reading(self) -> None:
        """Continue after `pause_reading`."""

    def send(self, *parts: bytes | memoryview) -> None:
        """Send one record, which may be batched until `flush`."""

    def flush(self) -> None:
        """Write batched records to the socket now."""

    def is_stalled(self) -> bool:
        """Whether the peer's silence suggests a path that drops large packets."""

    def is_unheard(self) -> bool:
        """Whether nothing that this node sends has arrived for seconds."""

    def close(self, reason: str = "") -> None:
        """Close once pending records are sent, giving the peer the reason."""

    def abort(self) -> None:
        """Close immediately."""
