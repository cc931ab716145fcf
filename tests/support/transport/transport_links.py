"""A pair of links in memory: records arrive in order, one loop pass later, without cryptography."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aitorrentd.api import PeerId, Route


class FakeLink:
    """Half of a pair. `hold` stops delivery to this half, like a peer that hangs."""

    def __init__(self, me: PeerId, peer: PeerId, *, outbound: bool, shaken: bytes = b"h") -> None:
        self.me = me
        self.peer = peer
        self.agent = "fake/1"
        self.outbound = outbound
        self.remote = ("127.0.0.1", 1)
        self.route = Route("direct", "/ip4/127.0.0.1/tcp/1", "127.0.0.1")
        self.observed: tuple[str, int] | None = None
        self.instance = peer.encode()
        self.handshake_hash = shaken
        self.can_move = False
        self.on_record: Callable[[memoryview], None] = lambda record: None
        self.on_lost: Callable[[str], None] = lambda reason: None
        self.on_writable: Callable[[], None] = lambda: None
        self.other: FakeLink | None = None
        self.bytes_in = self.bytes_out = self.records_in = self.records_out = 0
        self.hold = False
        self.high_water = 1024 * 1024
        self._queue: list[bytes] = []
        self._queued = 0
        self._blocked = False
        self._started = False
        self._lost = False
        self._scheduled = False

    @property
    def writable(self) -> bool:
        other = self.other
        if other is not None and other._queued >= self.high_water:
            self._blocked = True
            return False
        return True

    def start(self) -> None:
        self._started = True
        self._schedule()

    def send(self, *parts: bytes | memoryview) -> None:
        record = b"".join(parts)
        assert 0 < len(record) <= 65_536
        self.bytes_out += len(record)
        self.records_out += 1
        if self.other is not None and not self._lost:
            self.other._queue.append(record)
            self.other._queued += len(record)
            self.other._schedule()

    def pause_reading(self) -> None:
        self.hold = True

    def resume_reading(self) -> None:
        self.release()

    @property
    def local_host(self) -> str:
        return ""

    def is_stalled(self) -> bool:
        return False

    def is_unheard(self) -> bool:
        return False

    def flush(self) -> None:
        return None

    def release(self) -> None:
        self.hold = False
        self._schedule()

    def _schedule(self) -> None:
        if self._started and not self._scheduled and not self.hold and self._queue:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self.hold or self._lost:
            return
        queue, self._queue = self._queue, []
        self._queued = 0
        for record in queue:
            self.bytes_in += len(record)
            self.records_in += 1
            self.on_record(memoryview(record))
        other = self.other
        if other is not None and other._blocked and not other._lost:
            other._blocked = False
            other.on_writable()

    def close(self, reason: str = "") -> None:
        self._end("aborted", f"closed by the peer: {reason}")

    def abort(self) -> None:
        self._end("aborted", "the connection was lost")

    def _end(self, mine: str, theirs: str) -> None:
        if self._lost:
            return
        loop = asyncio.get_running_loop()
        self._lost = True
        other = self.other
        loop.call_soon(self.on_lost, mine)
        if other is not None and not other._lost:
            loop.call_soon(other._lose, theirs)

    def _lose(self, reason: str) -> None:
        if not self._lost:
            self.release()
            self._deliver()
            self._lost = True
            self.on_lost(reason)


def link_pair(a: PeerId, b: PeerId, **options: Any) -> tuple[FakeLink, FakeLink]:
    """(dialer's link, listener's link)."""
    left = FakeLink(a, b, outbound=True, **options)
    right = FakeLink(b, a, outbound=False, **options)
    left.other, right.other = right, left
    return left, right
