"""Listening for peers.

A listener accepts plain and masked connections, and those of protocols that plugins add, on the
same port and distinguishes them by their first four bytes. Unauthenticated connections are limited
in number (see `half_open`) and each has a deadline. A dialer that began a valid handshake is told
why it is rejected.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from aitorrent_transport.links.half_open import HalfOpen
from aitorrent_transport.links.handshaking import HandshakeProtocol, remote_of, why
from aitorrent_transport.links.link import Link
from aitorrent_transport.links.masking import GET, MaskedListener
from aitorrent_transport.links.path import StalledPaths
from aitorrent_transport.links.prefaced import PrefacedConnection
from aitorrent_transport.protection.limits import Limits
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.secure.handshake import HANDSHAKE_S, MAGIC, Refusal
from aitorrent_transport.secure.hello import HostPort
from aitorrentd.api import (
    AitorrentError,
    Conflict,
    Preface,
    ProtocolError,
    Registry,
    Unavailable,
)
from aitorrentd.api.descriptors import is_scarce
from aitorrentd.api.tally import Tally

BACKLOG: Final = 256
MAX_REFUSED: Final = 8
"Connections awaiting refusal whose protocol is not known yet."
REFUSED_S: Final = 1.0

_DEFAULTS: Final = Limits()

log = logging.getLogger("aitorrentd.transport")


class _Doorman(asyncio.Protocol):
    """Holds a new connection until its first four bytes identify the protocol."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._first = b""
        self._shake = listener.handshake(self)
        self._inner: HandshakeProtocol | MaskedListener | PrefacedConnection | None = None
        self.remote: HostPort = ("", 0)
        self.deadline: asyncio.TimerHandle | None = None
        self.refusal: Refusal | None = None
        "Reason to refuse the connection once its protocol is known."

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self.remote = remote_of(self._transport)
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
        elif (preface := self._listener.preface(start)) is not None:
            forget = partial(self._listener.forget, self)
            self._hand_over(PrefacedConnection(preface, self.remote, forget, self._inner_lost))
        elif not self._listener.may_become_known(start):
            self.end(ProtocolError("the connection does not speak this protocol"))

    def _inner_lost(self) -> None:
        self._listener.dismiss(self, Unavailable("the connection was closed"))

    def _hand_over(self, protocol: HandshakeProtocol | MaskedListener | PrefacedConnection) -> None:
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

    @property
    def host(self) -> str:
        """IP address of the other end; empty for unnamed sockets."""
        return self.remote[0]

    def refuse(self, refusal: Refusal) -> None:
        """Close the connection; a dialer that began a handshake is told why."""
        self._listener.forget(self)
        if isinstance(self._inner, MaskedListener) and not self._inner.is_open:
            self._inner.refuse()
        elif isinstance(self._inner, PrefacedConnection) and self._transport is not None:
            self._transport.abort()
        elif self._inner is not None:
            self._shake.refuse(refusal)
        elif self._transport is not None:
            self._transport.abort()

    def end(self, error: AitorrentError) -> None:
        """Abort the connection, which has not authenticated."""
        self._listener.dismiss(self, error)
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.dismiss(self, Unavailable("the connection was closed"))


class Listener:
    """Accepts peers. `on_link` receives each link after its handshake, unstarted.

    Accepts masked and plain connections. Each has `deadline_s` to authenticate, and `limits`
    says how many may be authenticating. When file descriptors run short, new connections are
    refused while a reserve remains for everything else.
    """

    def __init__(
        self,
        credentials: Credentials,
        on_link: Callable[[Link], None],
        paths: StalledPaths | None = None,
        *,
        limits: Limits = _DEFAULTS,
        deadline_s: float = HANDSHAKE_S,
        is_scarce: Callable[[int], bool] = is_scarce,
    ) -> None:
        self._is_scarce = is_scarce
        self._credentials = credentials
        self._on_link = on_link
        self.prefaces: Registry[Preface] = Registry("preface")
        "Other protocols on the port."
        self.is_banned: Callable[[str], bool] = lambda host: False
        "Whether connections from a host are refused unread."
        self.on_offence: Callable[[str, str], None] = lambda host, detail: None
        "Called when a connection from a host spoke another protocol or failed to authenticate."
        self._paths = paths or StalledPaths()
        self._deadline_s = deadline_s
        self._servers: list[asyncio.Server] = []
        self._half_open: HalfOpen[_Doorman] = HalfOpen(limits)
        self._refused: set[_Doorman] = set()
        self._closed = False
        self.refusals = Tally()
        "Connections refused or closed for lack of capacity, by host."
        self.scarce_at: float | None = None
        "Loop time of the last refusal for lack of file descriptors."
        self.on_own_key: Callable[[HostPort], None] = lambda where: None
        "Another node with this node's own key dialled from there."
        self.accepted = 0
        self.failed = 0

    async def listen(self, host: str, port: int) -> HostPort:
        """Listen on one more address; return it with its actual port.

        Raises:
            CannotListen: the address cannot be bound, for now or permanently.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: _Doorman(self), host, port, backlog=BACKLOG)
        except OSError as e:
            raise CannotListen(host, port, e) from None
        if not server.sockets:
            # asyncio skips a family that the kernel does not have, as with ipv6.disable=1.
            raise CannotListen(host, port, OSError(errno.EAFNOSUPPORT, ""))
        self._servers.append(server)
        name = server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def close(self) -> None:
        """Stop accepting and abort unfinished handshakes; established links stay open."""
        self._closed = True
        await self.unlisten()

    async def unlisten(self) -> None:
        """Release all addresses and abort their unfinished handshakes; `listen` may follow."""
        for server in self._servers:
            server.close()
        for doorman in [*self._half_open, *self._refused]:
            doorman.refuse(Refusal.CLOSING)
        self._servers.clear()
        # uvloop closes listening sockets in its next iteration.
        await asyncio.sleep(0)

    def statistics(self) -> dict[str, int]:
        """Counters: links established, connections refused unread, failed handshakes."""
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
            wanted_segment=self._wanted_segment,
        )

    def preface(self, start: bytes) -> Preface | None:
        """The other protocol that begins with `start`, or None."""
        return next((each for each in self.prefaces if each.magic == start), None)

    def may_become_known(self, start: bytes) -> bool:
        """Whether `start` is the beginning of some protocol's first four bytes."""
        known = (MAGIC, GET, *(each.magic for each in self.prefaces))
        return any(len(start) < len(each) and each.startswith(start) for each in known)

    def _wanted_segment(self, host: str) -> int:
        return self._paths.wanted(host, asyncio.get_running_loop().time())

    def admit(self, doorman: _Doorman, descriptor: int) -> bool:
        """Whether a new connection may stay, to handshake or to be refused with a reason."""
        loop = asyncio.get_running_loop()
        if self._closed:
            return False
        if self._is_scarce(descriptor):
            self.scarce_at = loop.time()
            return self._refuse_later(doorman, Refusal.NO_DESCRIPTORS)
        if self.is_banned(doorman.host):
            return self._refuse_later(doorman, Refusal.BANNED)
        doorman.deadline = loop.call_later(self._deadline_s, self._time_out, doorman)
        victim = self._half_open.add(doorman, doorman.host)
        if victim is not None:
            self._note(Refusal.CROWDED, victim.host)
            victim.refuse(Refusal.CROWDED)
        return True

    def _refuse_later(self, doorman: _Doorman, refusal: Refusal) -> bool:
        """Refuse a connection once its protocol is known; if too many wait for that, abort it."""
        self._note(refusal, doorman.host)
        if len(self._refused) >= MAX_REFUSED:
            return False
        self._refused.add(doorman)
        doorman.refusal = refusal
        loop = asyncio.get_running_loop()
        doorman.deadline = loop.call_later(REFUSED_S, doorman.refuse, refusal)
        return True

    def _time_out(self, doorman: _Doorman) -> None:
        self.failed += 1
        log.debug("no handshake from %s within %g s", doorman.host, self._deadline_s)
        doorman.refuse(Refusal.LATE)

    def _note(self, refusal: Refusal, host: str) -> None:
        now = asyncio.get_running_loop().time()
        told = self.refusals.add(refusal.text, host, now)
        if told is not None:
            log.warning("refused connections before authentication: %s", told)

    def spoke(self, doorman: _Doorman) -> None:
        """A connection began its handshake."""
        self._half_open.spoke(doorman)

    def dismiss(self, doorman: _Doorman, error: AitorrentError) -> None:
        """A connection failed before it authenticated."""
        if doorman in self._half_open:
            self.failed += 1
            log.debug("inbound handshake failed: %s", error.message)
            if isinstance(error, ProtocolError):
                self.on_offence(doorman.host, error.message)
            if isinstance(error, Conflict) and doorman.host:
                self.on_own_key(doorman.remote)
        self.forget(doorman)

    def forget(self, doorman: _Doorman) -> None:
        """A connection authenticated, failed or was refused."""
        self._half_open.remove(doorman)
        self._refused.discard(doorman)
        if doorman.deadline is not None:
            doorman.deadline.cancel()
            doorman.deadline = None


class CannotListen(Unavailable):
    """An address cannot be bound, for now or permanently."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        super().__init__(_why_not_listening(host, port, error))
        self.is_taken = error.errno == errno.EADDRINUSE
        self.lacks_address = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
        self.may_pass = error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL)
        "Whether a retry may succeed."


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
