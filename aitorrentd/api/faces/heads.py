"""The head of an answer leaves with what follows it: one packet less, and the client wakes once."""

from __future__ import annotations

import asyncio
from typing import Any


class HeadJoining:
    """A transport that can hold what is written back for the rest of the loop's iteration; all else
    is the transport's."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._write = transport.write
        self._head: bytes | None = None
        "Held; None if writes are not held."

    def hold(self) -> None:
        """Hold the next write until another one follows, or the iteration ends."""
        if self._head is None:
            self._head = b""
            self._loop.call_soon(self.flush)

    def write(self, data: bytes) -> None:
        """Write, after what is held."""
        head = self._head
        if head is None:
            self._write(data)
        elif not head:
            self._head = data
        else:
            self._head = None
            self._write(head + data)

    def flush(self) -> None:
        """Write what is held."""
        head, self._head = self._head, None
        if head and not self._transport.is_closing():
            self._write(head)

    def close(self) -> None:
        """Close after what is held."""
        self.flush()
        self._transport.close()

    def write_eof(self) -> None:
        """End the stream after what is held."""
        self.flush()
        self._transport.write_eof()

    def get_write_buffer_size(self) -> int:
        """Bytes that wait."""
        return self._transport.get_write_buffer_size() + len(self._head or b"")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
