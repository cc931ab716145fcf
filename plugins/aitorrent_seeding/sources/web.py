"""A file on the web: ranges of it, from whichever of its addresses answers.

An address that sent wrong bytes is never asked again. One that fails is asked again later.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from aitorrentd.api import Clock, NotFound, Unavailable
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.models.weights import WebSource

CHUNK: Final = 2**20
STALL_S: Final = 10.0
CONNECT_S: Final = 10.0
MAX_REDIRECTS: Final = 5
_MOST_FAILURES: Final = 6
_LASTING: Final = 16
"Addresses of a file that outlive a restart."
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)


def http_session() -> aiohttp.ClientSession:
    """A client for web sources: bounded waits, no decoding, no cookies."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=STALL_S),
        connector=aiohttp.TCPConnector(limit=64, limit_per_host=16),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "aitorrentd", "Accept-Encoding": "identity"},
        auto_decompress=False,
        read_bufsize=CHUNK,
    )


class _Address:
    """One address, and how it fared."""

    def __init__(self, source: WebSource) -> None:
        self.source = source
        self.problem = ""
        self.failures = 0
        self.not_before = 0.0
        self.is_banned = False
        self.banned_by = ""

    @property
    def host(self) -> str:
        """What may be logged of the address."""
        return urlsplit(self.source.url).hostname or "?"


class WebFile:
    """A file of `size` bytes (0 = unknown) at several addresses."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        sources: Sequence[WebSource],
        size: int,
        clock: Clock,
        draw: float = 0.5,
    ) -> None:
        self.size = size
        self.received = 0
        "Bytes that came from the web."
        self._http = http
        self._addresses = [_Address(source) for source in sources]
        self._clock = clock
        self._draw = draw

    def add(self, sources: Sequence[WebSource]) -> None:
        """Use more addresses, or fresh headers for those that are known."""
        by_url = {address.source.url: address for address in self._addresses}
        for source in sources:
            if known := by_url.get(source.url):
                known.source = source
                known.failures = 0
            else:
                self._addresses.append(_Address(source))

    @property
    def is_usable(self) -> bool:
        """Whether there is an address left to ask, now or later."""
        return any(self._is_usable(address) for address in self._addresses)

    @property
    def lasting(self) -> tuple[str, ...]:
        """URLs that serve the file without a token in a header."""
        usable = (a.source for a in self._addresses if not a.is_banned)
        return tuple(source.url for source in usable if not source.headers)[:_LASTING]

    @property
    def problem(self) -> str:
        """What went wrong last; empty if nothing did."""
        wrong = [f"{a.host}: {a.problem}" for a in self._addresses if a.problem]
        return "; ".join(dict.fromkeys(wrong))[:500]

    @staticmethod
    def _is_usable(address: _Address) -> bool:
        return not address.is_banned and address.failures < _MOST_FAILURES

    def ban(self, url: str, *, by: str = "") -> str:
        """Never ask this address again: it sent wrong bytes, says the torrent `by` or the digest.

        Returns its host.
        """
        for address in self._addresses:
            if address.source.url == url:
                address.is_banned, address.banned_by = True, by
                address.problem = "sent bytes that do not match the file's hashes"
                return address.host
        return ""

    def forgive(self, info_hash: str) -> None:
        """Ask those again that were banned by this torrent: it is another file."""
        for address in self._addresses:
            if address.is_banned and address.banned_by == info_hash:
                address.is_banned, address.problem = False, ""

    async def _pick(self) -> _Address:
        usable = [address for address in self._addresses if self._is_usable(address)]
        if not usable:
            raise NotFound(self.problem or "no address on the web serves the file")
        best = min(usable, key=lambda address: (address.not_before, address.failures))
        wait_s = best.not_before - self._clock.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        return best

    async def range(self, start: int, stop: int) -> tuple[bytes, str]:
        """The bytes of [start, stop), and the URL that they came from; not verified.

        Raises:
            NotFound: no address is left.
        """
        while True:
            address = await self._pick()
            try:
                content = bytearray()
                async with self._get(address, start, stop) as response:
                    async for chunk in response.content.iter_chunked(CHUNK):
                        content += chunk
                        if len(content) > stop - start:
                            raise Unavailable("sent more bytes than asked for")
                if len(content) < stop - start:
                    raise Unavailable(f"sent {len(content)} of {stop - start} bytes")
            except (aiohttp.ClientError, TimeoutError, OSError, Unavailable) as e:
                self._failed(address, e)
                continue
            address.failures = 0
            self.received += len(content)
            return bytes(content), address.source.url

    async def stream(self, start: int) -> AsyncIterator[tuple[bytes, str]]:
        """The bytes from `start` to the end, in order, each with its URL; not verified.

        Another address goes on where one fails.

        Raises:
            NotFound: no address is left.
        """
        at = start
        while not self.size or at < self.size:
            address = await self._pick()
            try:
                async with self._get(address, at, self.size) as response:
                    async for chunk in response.content.iter_chunked(CHUNK):
                        at += len(chunk)
                        if at > self.size:
                            raise Unavailable("sent more bytes than asked for")
                        self.received += len(chunk)
                        address.failures = 0
                        yield chunk, address.source.url
                if at < self.size:
                    raise Unavailable(f"closed the connection after {at} of {self.size} bytes")
            except (aiohttp.ClientError, TimeoutError, OSError, Unavailable) as e:
                self._failed(address, e)

    @asynccontextmanager
    async def _get(
        self, address: _Address, start: int, stop: int
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = dict(address.source.headers)
        if start or stop:
            headers["Range"] = f"bytes={start}-{stop - 1 if stop else ''}"
        async with self._http.get(
            address.source.url, headers=headers, max_redirects=MAX_REDIRECTS
        ) as response:
            self._check(response, address, start)
            yield response

    def _check(self, response: aiohttp.ClientResponse, address: _Address, start: int) -> None:
        """That the answer is the range that was asked for.

        Raises:
            Unavailable: it is not.
        """
        if response.status in (401, 403, 404, 410):
            address.failures = _MOST_FAILURES  # asking again does not help
        if response.status == 200 and start == 0:
            self._learn(response.content_length)
            return
        if response.status != 206:
            raise Unavailable(f"answered {response.status} {response.reason}")
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            raise Unavailable("answered with another range")
        self._learn(int(match[3]) if match[3] != "*" else None)

    def _learn(self, size: int | None) -> None:
        if size is not None and self.size and size != self.size:
            raise Unavailable(f"has a file of {size} bytes, not {self.size}")
        if not self.size:
            if size is None:
                raise Unavailable("does not tell the size of the file")
            self.size = size

    def _failed(self, address: _Address, error: Exception) -> None:
        text = error.message if isinstance(error, Unavailable) else str(error)
        address.problem = text or f"no bytes for {STALL_S:g} s"
        wait_s = equal_jitter_s(address.failures, base_s=0.5, cap_s=30.0, draw=self._draw)
        address.failures += 1
        address.not_before = self._clock.monotonic() + wait_s
