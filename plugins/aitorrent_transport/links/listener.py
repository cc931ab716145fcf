"""Listening for peers.

A listener takes plain and masked connections on the same port and tells them apart by their first
four bytes. Connections that have not authenticated are bounded (see `half_open`), each under a
deadline; who had begun properly is told why it has to go.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import Final, cast

from aitorrent_transport.links.half_open import MAX_HALF_OPEN, HalfOpen
from aitorrent_transport.links.handshaking import HandshakeProtocol, remote_of, why
from aitorrent_transport.links.link import Link
from aitorrent_transport.links.masking import GET, MaskedListener
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.secure.handshake import HANDSHAKE_S, MAGIC, Refusal
from aitorrent_transport.secure.hello import HostPort
from aitorrentd.api import AitorrentError, ProtocolError, Unavailable
from aitorrentd.api.descriptors import is_scarce
from aitorrentd.api.tally import Tally

BACKLOG: Final = 256
MAX_REFUSED: Final = 8
"Connections that are to be refused and have not said yet in which protocol."
REFUSED_S: Final = 1.0

log = logging.getLogger("aitorrentd.transport")


class _Doorman(asyncio.Protocol):
    """Holds a new connection until its first four bytes say what it speaks."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._first = b""
        self._shake = listener.handshake(self)
        self._inner: HandshakeProtocol | MaskedListener | None = None
        self.host = ""
        self.deadline: asyncio.TimerHandle | None = None
        self.refusal: Refusal | None = None
        "Why it is to be refused as soon as it says in which protocol."

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.host = remote_of(self._transport)[0]
        sock = self._transport.get_extra_info("socket")
        if not self._listener.admit(self, sock.fileno() if sock is not None else -1):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self.deadline is None:
            return
        self._first += data
        start = self._first[: len(MAGIC)]
        if start == MAGIC:
            self._hand_over(self._shake)
        elif start == GET:
            self._hand_over(MaskedListener(self._shake))
        elif not MAGIC.startswith(start) and not GET.startswith(start):
            self.end(ProtocolError("the connection does not speak this protocol"))

    def _hand_over(self, protocol: HandshakeProtocol | MaskedListener) -> None:
        if self._transport is None:
            return
        self._inner = protocol
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self.refusal is not None:
            self.refuse(self.refusal)
            return
        self._listener.spoke(self)
        first, self._first = self._first, b""
        protocol.data_received(first)

    def refuse(self, refusal: Refusal) -> None:
        """Cut the connection; who began a handshake is told why."""
        self._listener.forget(self)
        if isinstance(self._inner, MaskedListener) and not self._inner.is_open:
            self._inner.refuse()
        elif self._inner is not None:
            self._shake.refuse(refusal)
        elif self._transport is not None:
            self._transport.abort()

    def end(self, error: AitorrentError) -> None:
        """Cut the connection, which has not authenticated."""
        self._listener.dismiss(self, error)
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.dismiss(self, Unavailable("the connection was closed"))


class Listener:
    """Accepts peers. `on_link` gets each link after its handshake, not yet started.

    Masked and plain connections are both accepted. Each has `deadline_s` to authenticate, and
    `half_open` bounds how many may be about it. When the process runs out of file descriptors,
    newcomers are refused while there is still a reserve for everything else.
    """

    def __init__(
        self,
        credentials: Credentials,
        on_link: Callable[[Link], None],
        *,
        max_half_open: int = MAX_HALF_OPEN,
        deadline_s: float = HANDSHAKE_S,
    ) -> None:
        self._credentials = credentials
        self._on_link = on_link
        self._deadline_s = deadline_s
        self._servers: list[asyncio.Server] = []
        self._half_open: HalfOpen[_Doorman] = HalfOpen(max_half_open)
        self._refused: set[_Doorman] = set()
        self._closed = False
        self.refusals = Tally()
        "Connections that were refused or cut for want of room, and of which hosts."
        self.scarce_at: float | None = None
        "When a connection was last refused for want of file descriptors, by the loop's clock."
        self.accepted = 0
        self.failed = 0

    async def listen(self, host: str, port: int) -> HostPort:
        """Listen at one more address; returns it with its real port.

        Raises:
            CannotListen: now, or at all.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: _Doorman(self), host, port, backlog=BACKLOG)
        except OSError as e:
            raise CannotListen(host, port, e) from None
        self._servers.append(server)
        name = server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def close(self) -> None:
        """Stop accepting and cut unfinished handshakes; links live on with their owner."""
        self._closed = True
        await self.unlisten()

    async def unlisten(self) -> None:
        """Give all addresses up, with the unfinished handshakes there; others may follow."""
        for server in self._servers:
            server.close()
        for doorman in [*self._half_open, *self._refused]:
            doorman.refuse(Refusal.CLOSING)
        self._servers.clear()
        # uvloop closes listening sockets on its next pass.
        await asyncio.sleep(0)

    def statistics(self) -> dict[str, int]:
        """Counters for people: links made, connections refused unread, handshakes that failed."""
        return {
            "accepted": self.accepted,
            "refused": self.refusals.total,
            "failed": self.failed,
            "half_open": len(self._half_open),
        }

    def handshake(self, doorman: _Doorman) -> HandshakeProtocol:
        """The handshake for a new connection."""

        def on_link(link: Link) -> None:
            self.forget(doorman)
            self.accepted += 1
            self._on_link(link)

        return HandshakeProtocol(
            self._credentials,
            on_link,
            lambda error: self.dismiss(doorman, error),
            dialer=False,
        )

    def admit(self, doorman: _Doorman, descriptor: int) -> bool:
        """Whether a new connection may stay, to begin its handshake or to be refused in words."""
        loop = asyncio.get_running_loop()
        if self._closed:
            return False
        if is_scarce(descriptor):
            self.scarce_at = loop.time()
            self._note(Refusal.NO_DESCRIPTORS, doorman.host)
            if len(self._refused) >= MAX_REFUSED:
                return False
            self._refused.add(doorman)
            doorman.refusal = Refusal.NO_DESCRIPTORS
            doorman.deadline = loop.call_later(REFUSED_S, doorman.refuse, doorman.refusal)
            return True
        doorman.deadline = loop.call_later(self._deadline_s, self._time_out, doorman)
        victim = self._half_open.add(doorman, doorman.host)
        if victim is not None:
            self._note(Refusal.CROWDED, victim.host)
            victim.refuse(Refusal.CROWDED)
        return True

    def _time_out(self, doorman: _Doorman) -> None:
        self.failed += 1
        log.debug("no handshake from %s within %g s", doorman.host, self._deadline_s)
        doorman.refuse(Refusal.LATE)

    def _note(self, refusal: Refusal, host: str) -> None:
        now = asyncio.get_running_loop().time()
        told = self.refusals.add(refusal.text, host, now)
        if told is not None:
            log.warning("refused connections before they authenticated: %s", told)

    def spoke(self, doorman: _Doorman) -> None:
        """A connection began its handshake."""
        self._half_open.spoke(doorman)

    def dismiss(self, doorman: _Doorman, error: AitorrentError) -> None:
        """A connection failed before it authenticated."""
        if doorman in self._half_open:
            self.failed += 1
            log.debug("inbound handshake failed: %s", error.message)
        self.forget(doorman)

    def forget(self, doorman: _Doorman) -> None:
        """A connection authenticated, failed or was refused."""
        self._half_open.remove(doorman)
        self._refused.discard(doorman)
        if doorman.deadline is not None:
            doorman.deadline.cancel()
            doorman.deadline = None


class CannotListen(Unavailable):
    """An address cannot be listened on, now or at all."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        super().__init__(_why_not_listening(host, port, error))
        self.is_taken = error.errno == errno.EADDRINUSE
        self.lacks_address = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
        self.may_pass = error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL)
        "Whether it makes sense to try again."


def _why_not_listening(host: str, port: int, error: OSError) -> str:
    code = errno.errorcode.get(error.errno or 0, "")
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port}/tcp is taken (EADDRINUSE); set plugins.transport.port,"
            " or 0 for any free one"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"no permission to listen on port {port}/tcp ({code}); set plugins.transport.port"
            " to one above 1023"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine ({code}); set plugins.transport.listen"
    return f"cannot listen on {host} port {port}/tcp: {why(error)}"
