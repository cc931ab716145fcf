"""Bytes that arrived and were not read yet, handed over as asyncio's transports do."""

from __future__ import annotations

import asyncio
from collections import deque


class Inbox:
    """Delivers to a protocol of either kind while it wants to read."""

    def __init__(self) -> None:
        self.taken = 0
        "Bytes delivered or discarded so far."
        self.paused = False
        self.is_deaf = False
        "Whether nobody reads any more: what arrives is discarded."
        self._chunks: deque[memoryview] = deque()
        self._delivering = False

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def add(self, data: bytes) -> None:
        """More bytes arrived."""
        if data:
            self._chunks.append(memoryview(data))

    def deliver(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand over until the protocol pauses; a call from within a delivery does nothing."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._chunks and not self.paused and not self.is_deaf:
                if isinstance(protocol, asyncio.BufferedProtocol):
                    self._fill(protocol)
                elif isinstance(protocol, asyncio.Protocol):
                    data = b"".join(self._chunks)
                    self._chunks.clear()
                    self.taken += len(data)
                    protocol.data_received(data)
        finally:
            self._delivering = False
        if self.is_deaf:
            self.taken += sum(map(len, self._chunks))
            self._chunks.clear()

    def _fill(self, protocol: asyncio.BufferedProtocol) -> None:
        space = memoryview(protocol.get_buffer(-1))
        filled = 0
        while self._chunks and filled < len(space):
            chunk = self._chunks.popleft()
            fits = min(len(chunk), len(space) - filled)
            space[filled : filled + fits] = chunk[:fits]
            filled += fits
            if fits < len(chunk):
                self._chunks.appendleft(chunk[fits:])
        self.taken += filled
        protocol.buffer_updated(filled)
