"""The HTTP client for the Hub: redirects are followed by hand, as they decide who gets a token.

Import it where the first request is made, in a thread: aiohttp takes a few megabytes.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import aiohttp
import certifi
import yarl

from aitorrent_hub.upstream.headers import Pairs, without_token
from aitorrentd.api import TimedOut, Unavailable
from aitorrentd.api.models.proxies import proxy_for, shown

_CONNECTIONS: Final = 64
_CONNECT_S: Final = 5.0
SILENCE_S: Final = 8.0
"Longest silence: clients of the mirror give up after 10 s."
_PART_BYTES: Final = 1 << 20
_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = (301, 302, 303, 307, 308)


def tls_context() -> ssl.SSLContext:
    """The system's certificates, or those that SSL_CERT_FILE or SSL_CERT_DIR names; Mozilla's on a
    system without any. Reads files: call it in a thread."""
    context = ssl.create_default_context()
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    if not named and not context.cert_store_stats()["x509_ca"]:
        context.load_verify_locations(certifi.where())
    return context


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body has not been read."""

    status: int
    headers: Pairs
    chain: list[Mapping[str, str]]
    "The headers of every answer on the way here, this one last."
    is_here: bool
    "Whether it comes from the Hub itself, not from a host to which it redirects."
    _response: aiohttp.ClientResponse

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, as it was encoded."""
        async for part in self._response.content.iter_chunked(_PART_BYTES):
            yield part

    async def body(self, most: int) -> bytes | None:
        """The whole body, or None if it has over `most` bytes."""
        whole = bytearray()
        async for part in self._response.content.iter_chunked(_PART_BYTES):
            whole += part
            if len(whole) > most:
                return None
        return bytes(whole)


class HubClient:
    """Connections to the Hub and to the hosts to which it redirects; end them with `close`."""

    def __init__(self, origin: str, tls: ssl.SSLContext | None) -> None:
        """`tls`: from `tls_context`; None for an origin without TLS, which is for tests."""
        self.origin = origin
        self._silence_s = SILENCE_S
        self._host = urlsplit(origin).netloc
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_CONNECTIONS, keepalive_timeout=3.0, ssl=True if tls is None else tls
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_S, sock_read=SILENCE_S, connect=None
            ),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    @asynccontextmanager
    async def opened(
        self,
        method: str,
        target: str,
        headers: Pairs,
        *,
        body: AsyncIterator[bytes] | None = None,
        follow: str = "",
    ) -> AsyncIterator[Answer]:
        """The answer to a request for `target`, a path with its query.

        `follow`: "" follows no redirect, "here" those that stay at the Hub, "all" also those that
        lead elsewhere, to which the token does not go.

        Raises:
            Unavailable: no connection, or it broke. TimedOut: silence.
        """
        url, chain = self.origin + target, list[Mapping[str, str]]()
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                is_here = self._is_here(url)
                sent = headers if is_here else without_token(headers)
                async with self._request(method, url, sent, body) as response:
                    chain.append(response.headers)
                    place = response.headers.get("Location", "")
                    there = _joined(url, place)
                    if response.status in _REDIRECTS and self._follows(there, follow):
                        url = there
                        continue
                    pairs = list(response.headers.items())
                    yield Answer(response.status, pairs, chain, is_here, response)
                    return
            raise Unavailable(f"{self._host} redirects without end")
        except TimeoutError:
            raise TimedOut(f"{self._host} did not answer within {self._silence_s:g} s") from None
        except aiohttp.ClientProxyConnectionError as e:
            proxy = shown(proxy_for(self.origin, os.environ) or "")
            raise Unavailable(f"the proxy {proxy} cannot be reached: {_reason(e)}") from None
        except (aiohttp.ClientError, ConnectionError) as e:
            raise Unavailable(f"{self._host} cannot be reached: {_reason(e)}") from None

    def _request(
        self, method: str, url: str, headers: Pairs, body: AsyncIterator[bytes] | None
    ) -> Any:
        return self._session.request(
            method,
            yarl.URL(url, encoded=True),
            headers=headers,
            data=body,
            allow_redirects=False,
            proxy=proxy_for(url, os.environ),
        )

    def _is_here(self, url: str) -> bool:
        return f"{url}/".startswith(f"{self.origin}/")

    def _follows(self, url: str, follow: str) -> bool:
        if not url or not follow:
            return False
        # A Hub over TLS never leads to a host without it.
        is_safe = urlsplit(url).scheme in ("https", urlsplit(self.origin).scheme)
        return is_safe and (follow == "all" or self._is_here(url))


def _reason(error: Exception) -> str:
    """Why a connection failed, in the words of the system.

    Other texts of these errors may hold a URL with a signature, or a tuple of Python's.
    """
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is refused, {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed, {cause.reason}"
    if isinstance(cause, socket.gaierror):
        return str(cause.strerror)
    number = getattr(cause, "errno", None)
    return os.strerror(number) if type(number) is int and number > 0 else type(error).__name__


def _joined(url: str, place: str) -> str:
    """The URL to which a Location leads; empty if it is none."""
    try:
        there = urljoin(url, place) if place else ""
        return there if urlsplit(there).hostname else ""
    except ValueError:
        return ""
