"""The largest datagram that a path carries, found by sending some (RFC 8899, section 5).

Each end probes its own direction and answers the other's probes, also while QUIC already runs.
Probes are authenticated, and an answer is smaller than its probe. They are told from QUIC and STUN
by their first byte (RFC 9443).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from aitorrent_nat.punch.paths.datagrams import HostPort, Path

LEAST_BYTES: Final = 1200
"Every path of QUIC carries this (RFC 9000, section 14)."
SIZES: Final = (1372, 1452, 1472, 8972)
"""Of datagrams: what a WireGuard tunnel leaves, Ethernet with IPv6 and with IPv4, and jumbo
frames."""
AGAIN_S: Final = 0.15
PATIENCE_S: Final = 0.4
GRACE_S: Final = 0.02
"After the first answer: the others were sent at the same time."
_MAGIC: Final = b"\x3fAIM"
_HEAD: Final = struct.Struct(">4sBH16s")
_PROBE, _ANSWER = 0, 1
_MAX_EARLY: Final = 64


class ProbedPath:
    """A path that answers probes, and passes everything else on."""

    def __init__(self, path: Path, key: bytes, *, is_client: bool) -> None:
        self._path = path
        self._key = key
        self._is_client = is_client
        self._answered: set[int] = set()
        self._news = asyncio.Event()
        # Until somebody listens, the other end may already begin.
        self._early: deque[bytes] = deque(maxlen=_MAX_EARLY)
        self._lost_early: str | None = None
        self._on_datagram: Callable[[bytes], None] = self._early.append
        self._on_lost: Callable[[str], None] = self._keep_lost
        path.listen(self._receive, lambda reason: self._on_lost(reason))

    def _keep_lost(self, reason: str) -> None:
        self._lost_early = reason

    @property
    def local(self) -> HostPort:
        """See Path."""
        return self._path.local

    @property
    def remote(self) -> HostPort:
        """See Path."""
        return self._path.remote

    @property
    def is_sized(self) -> bool:
        """See Path."""
        return self._path.is_sized

    def listen(self, on_datagram: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        """See Path; what arrived earlier is delivered first."""
        self._on_datagram, self._on_lost = on_datagram, on_lost
        if self._lost_early is not None:
            on_lost(self._lost_early)
        while self._early:
            on_datagram(self._early.popleft())

    def send(self, datagram: bytes) -> None:
        """See Path."""
        self._path.send(datagram)

    def close(self) -> None:
        """See Path."""
        self._path.close()

    async def measure(self, sizes: Sequence[int] = SIZES) -> tuple[int, float | None]:
        """The largest of `sizes` that arrives, and the round trip in seconds if any did."""
        if not self._path.is_sized:
            return LEAST_BYTES, None
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._send_probes(sizes)
        try:
            async with asyncio.timeout(AGAIN_S):
                await self._news.wait()
        except TimeoutError:
            began = loop.time()
            self._send_probes(sizes)
            try:
                async with asyncio.timeout(PATIENCE_S - AGAIN_S):
                    await self._news.wait()
            except TimeoutError:
                return LEAST_BYTES, None
        rtt_s = loop.time() - began
        if not set(sizes) <= self._answered:
            await asyncio.sleep(GRACE_S)
        return max(self._answered, default=LEAST_BYTES), rtt_s

    def _send_probes(self, sizes: Sequence[int]) -> None:
        for size in sizes:
            head = self._head(_PROBE, size, self._is_client)
            self._path.send(head + bytes(size - len(head)))

    def _receive(self, datagram: bytes) -> None:
        if not datagram.startswith(_MAGIC):
            self._on_datagram(datagram)
            return
        if len(datagram) < _HEAD.size:
            return
        _, kind, size, _ = _HEAD.unpack_from(datagram)
        if kind not in (_PROBE, _ANSWER) or (kind == _PROBE and size != len(datagram)):
            return
        prober_is_client = self._is_client if kind == _ANSWER else not self._is_client
        expected = self._head(kind, size, prober_is_client)
        if not hmac.compare_digest(datagram[: _HEAD.size], expected):
            return
        if kind == _PROBE:
            self._path.send(self._head(_ANSWER, size, prober_is_client))
        else:
            self._answered.add(size)
            self._news.set()

    def _head(self, kind: int, size: int, prober_is_client: bool) -> bytes:
        text = struct.pack(">BH?", kind, size, prober_is_client)
        tag = hmac.digest(self._key, b"probe" + text, hashlib.sha256)[:16]
        return _HEAD.pack(_MAGIC, kind, size, tag)
