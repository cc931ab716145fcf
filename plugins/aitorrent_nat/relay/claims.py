"""The preface of a leg: `AITC` and a token, on the peer port of a relay.

The relay says on the control streams when both ends of a circuit have connected. Until then a leg
sends nothing after its token, so what does is not a leg.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final, cast

from aitorrent_nat.relay.messages import TOKEN_BYTES

MAGIC: Final = b"AITC"
_PREFACE_BYTES: Final = len(MAGIC) + TOKEN_BYTES


class Leg(asyncio.Protocol):
    """A new connection to the peer port; `on_lost()` is called if it ends before `detach`."""

    def __init__(self, claim: Callable[[bytes, Leg], bool], accept: Callable[[], None]) -> None:
        self.on_lost: Callable[[], None] = _nobody
        self._claim = claim
        self._accept = accept
        self._first = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open (asyncio.BaseProtocol)."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        """Bytes of the preface arrived (asyncio.Protocol)."""
        self._first += data
        if len(self._first) < _PREFACE_BYTES:
            return
        # With more bytes than those of the preface, it is no token.
        if self._claim(self._first[len(MAGIC) :], self):
            self._accept()
        else:
            self.abort()

    def eof_received(self) -> None:
        """The other side ended (asyncio.Protocol)."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended (asyncio.BaseProtocol)."""
        self._transport = None
        on_lost, self.on_lost, self._claim = self.on_lost, _nobody, _refuse
        on_lost()

    def detach(self) -> socket.socket:
        """The connection as a socket of its own; this object no longer has it.

        Raises:
            OSError: the connection ended, or the process has no file descriptors left.
        """
        transport = self._transport
        sock = transport.get_extra_info("socket") if transport is not None else None
        if transport is None or transport.is_closing() or sock is None:
            raise ConnectionAbortedError("the connection ended")
        transport.pause_reading()
        # The loop owns the descriptor and closes it; a duplicate keeps the connection open.
        detached = socket.socket(fileno=os.dup(sock.fileno()))
        detached.setblocking(False)
        self.on_lost = _nobody
        transport.abort()
        return detached

    def abort(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()


class LegPreface:
    """Implements `aitorrentd.api.network.peer_port.Preface`.

    `claim(token, leg)` returns whether the token was valid.
    """

    magic = MAGIC

    def __init__(self, claim: Callable[[bytes, Leg], bool]) -> None:
        self._claim = claim

    def serve(self, remote: tuple[str, int], accept: Callable[[], None]) -> asyncio.Protocol:
        """The protocol of a new connection; see `Preface`."""
        return Leg(self._claim, accept)


def _nobody() -> None:
    """Default of a callback."""


def _refuse(token: bytes, leg: Leg) -> bool:
    """No token is valid on a connection that ended."""
    return False
