"""A connection of another protocol on the peer port, half open until the protocol accepts it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aitorrent_transport.secure.hello import HostPort
from aitorrentd.api import Preface


class PrefacedConnection(asyncio.Protocol):
    """Passes everything to the protocol of a preface, and steps aside once it accepts.

    `on_accepted()` is called then; `on_lost()` if the connection ends before that.
    """

    def __init__(
        self,
        preface: Preface,
        remote: HostPort,
        on_accepted: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._on_accepted = on_accepted
        self._on_lost = on_lost
        self._transport: asyncio.BaseTransport | None = None
        self._inner = preface.serve(remote, self._accept)

    def _accept(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.set_protocol(self._inner)
            self._on_accepted()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open (asyncio.BaseProtocol)."""
        self._transport = transport
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes arrived (asyncio.Protocol)."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """The other side sends no more (asyncio.Protocol)."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """The write buffer is full (asyncio.BaseProtocol)."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The write buffer has room again (asyncio.BaseProtocol)."""
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended (asyncio.BaseProtocol)."""
        self._on_lost()
        self._inner.connection_lost(exc)
        self._transport = None
