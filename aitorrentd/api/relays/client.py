"""The HTTP client of relay backends, whose servers stream their answers.

Not exported by `aitorrentd.api`: httpx takes a few megabytes, which a node without such servers
should not pay. Import it where the first request is made, in a thread.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from aitorrentd.api.models.proxies import proxy_for, shown
from aitorrentd.api.relays.documents import values_in
from aitorrentd.api.relays.loops import HEADER, header_of, is_nearby
from aitorrentd.errors import AitorrentError, InvalidParams, ProtocolError, TimedOut, Unavailable

_START_BYTES: Final = 65_536
"How much of a refusal is read."
_CONNECTIONS: Final = 64
_IDLE_CONNECTIONS: Final = 4
_IDLE_S: Final = 3.0
"Shorter than servers keep an idle connection: uvicorn and Node.js 5 s."
_SHOWN_BYTES: Final = 200
"How much of an unparsable body an error shows."


@dataclass(frozen=True, slots=True)
class Body:
    """A server's answer."""

    content_type: str
    "In lower case, without parameters; may be empty."
    parts: AsyncIterator[bytes]
    "Bytes, split at arbitrary points."


class HttpServer:
    """Connections to one server; end them with `close`.

    `who` names the server in errors. `refused(status, answer, request)` builds the error for a
    refusal, and `absent(reason)` the error for a server that accepts no connection.
    """

    def __init__(
        self,
        who: str,
        url: str,
        *,
        refused: Callable[[int, bytes, Mapping[str, Any]], AitorrentError],
        absent: Callable[[str], AitorrentError],
        connect_timeout_s: float,
        read_timeout_s: float,
        headers: Mapping[str, str] | None = None,
        use_proxy: bool = True,
        node: str = "",
    ) -> None:
        """`use_proxy`: whether to use the proxies from the environment. `node`: this node's id,
        told to servers nearby so that requests in a loop are noticed.

        Raises:
            Unavailable: the environment names a proxy or certificates that cannot be used.
        """
        self.who = who
        self.url = url.rstrip("/")
        self._node = node if is_nearby(urlsplit(url).hostname or "") else ""
        self._refused = refused
        self._absent = absent
        self._proxy = proxy_for(url, os.environ) if use_proxy else None
        self._http = _client(
            who,
            url,
            self._proxy,
            headers=headers,
            timeout=httpx.Timeout(
                connect=connect_timeout_s, read=read_timeout_s, write=30.0, pool=10.0
            ),
            limits=httpx.Limits(
                max_connections=_CONNECTIONS,
                max_keepalive_connections=_IDLE_CONNECTIONS,
                keepalive_expiry=_IDLE_S,
            ),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    @asynccontextmanager
    async def opened(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[Body]:
        """The answer's body as it arrives. Leaving the block closes the connection and so stops the
        server's work.

        Raises:
            AitorrentError: `refused` or `absent`. TimedOut: the server did not accept a connection,
            or stopped sending. Unavailable: the connection broke.
        """
        try:
            response = await self._sent(method, path, body)
            try:
                if not response.is_success:
                    error = self._refused(
                        response.status_code, await _start_of(response), body or {}
                    )
                    raise type(error)(error.message + _advice(response), **error.data)
                sent_as = response.headers.get("content-type", "")
                yield Body(sent_as.partition(";")[0].strip().lower()[:64], response.aiter_bytes())
            finally:
                await response.aclose()
        except httpx.ConnectError as e:
            way = f"; through the proxy {shown(self._proxy)}" if self._proxy else ""
            raise self._absent(f"{_reason(e)}{way}") from None
        except httpx.ProxyError as e:
            way = shown(self._proxy) if self._proxy else ""
            raise Unavailable(f"{self.who}: the proxy {way} refused the connection: {e}") from None
        except httpx.TimeoutException as e:
            what = "accept a connection" if isinstance(e, httpx.ConnectTimeout) else "answer"
            raise TimedOut(f"{self.who} at {self.url} did not {what} in time") from None
        except httpx.DecodingError as e:
            raise ProtocolError(
                f"{self.who} sent a body that cannot be decompressed: {e}"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            # RemoteProtocolError (closed mid-answer), ReadError (reset) and the like.
            why = str(e) or type(e).__name__
            raise Unavailable(
                f"{self.who} at {self.url} closed the connection early: {why}"
            ) from None

    async def _sent(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """The response to a request, its body not yet read.

        A server may close an idle connection while a request is on its way there; uvicorn does so
        after 5 s. The request is sent again then, but not if the connection was new.
        """
        content = None if body is None else _encoded(body)
        kind = {} if body is None else {"Content-Type": "application/json"}
        if self._node:
            kind[HEADER] = header_of(self._node)
        connecting: list[str] = []

        async def trace(event: str, _: Mapping[str, Any]) -> None:
            if event.startswith("connection.connect_tcp"):
                connecting.append(event)

        while True:
            if self._http.is_closed:
                raise Unavailable(f"{self.who} is no longer asked: its plugin is stopping")
            request = self._http.build_request(
                method, self.url + path, content=content, headers=kind, extensions={"trace": trace}
            )
            try:
                return await self._http.send(request, stream=True)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                if connecting:
                    raise

    async def fetch(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, max_bytes: int
    ) -> Any:
        """The whole answer as a JSON value.

        Raises:
            AitorrentError: as `opened`. ProtocolError: not JSON, or longer than `max_bytes`.
        """
        whole = bytearray()
        async with self.opened(method, path, body) as answer:
            async for part in answer.parts:
                whole += part
                if len(whole) > max_bytes:
                    raise ProtocolError(f"{self.who}'s {path} sent over {max_bytes} bytes")
        return json_value(bytes(whole), self.who, answer.content_type)


def _client(who: str, url: str, proxy: str | None, **settings: Any) -> httpx.AsyncClient:
    # Without TLS, the certificates would only cost time and memory.
    is_plain = url.startswith("http:") and not (proxy or "").startswith("https:")
    try:
        verify = False if is_plain else httpx.create_ssl_context()
    except OSError as e:
        raise Unavailable(
            f"{who}: cannot read the certificates that SSL_CERT_FILE or SSL_CERT_DIR names: {e}"
        ) from None
    try:
        return httpx.AsyncClient(proxy=proxy, verify=verify, trust_env=False, **settings)
    except (ValueError, ImportError, httpx.InvalidURL) as e:
        raise Unavailable(
            f"{who}: cannot use the proxy {shown(proxy or '')} from the environment ({e}); correct "
            "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, or add the server's host to NO_PROXY"
        ) from None


def _advice(response: httpx.Response) -> str:
    """What the headers of a refusal say about what to do."""
    wait, place = (_header(response, name) for name in ("retry-after", "location"))
    if wait:
        return f"; retry in {wait} s" if wait.isdecimal() else f"; retry after {wait}"
    return f"; it redirects to {place}" if place and response.is_redirect else ""


def _header(response: httpx.Response, name: str) -> str:
    return "".join(c for c in response.headers.get(name, "") if c.isprintable())[:_SHOWN_BYTES]


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (ValueError, TypeError) as e:  # NaN, a lone surrogate, not JSON at all
        raise InvalidParams(f"the request cannot be sent as JSON: {e}") from None


def _reason(error: httpx.ConnectError) -> str:
    """Why no connection came about, in the words of the system if it said so."""
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        if isinstance(number, int) and number > 0 and not isinstance(cause, ssl.SSLError):
            return os.strerror(number)
        cause = cause.__cause__ or cause.__context__
    return str(error)


async def _start_of(response: httpx.Response) -> bytes:
    start = bytearray()
    async for part in response.aiter_bytes():
        start += part
        if len(start) >= _START_BYTES:
            break
    return bytes(start)


def json_value(raw: bytes, who: str, content_type: str = "") -> Any:
    """`raw` as a JSON value.

    Raises:
        ProtocolError: it is not JSON; the message shows how it begins and its content type.
    """
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        kind = f" ({content_type})" if content_type else ""
        raise ProtocolError(f"{who} sent invalid JSON{kind}{_start(raw)}") from None


def json_values(raw: bytes, who: str, between: Mapping[str, Any] | None = None) -> list[Any]:
    """The JSON values in `raw`, as `values_in` finds them.

    Raises:
        ProtocolError: it has none, or anything else.
    """
    try:
        return values_in(raw, between or {})
    except (ValueError, RecursionError):
        raise ProtocolError(f"{who} sent invalid JSON{_start(raw)}") from None


def json_object(raw: bytes, who: str) -> dict[str, Any]:
    """`raw` as a JSON object.

    Raises:
        ProtocolError: it is not a JSON object.
    """
    value = json_value(raw, who)
    if not isinstance(value, dict):
        raise ProtocolError(f"{who} did not send a JSON object{_start(raw)}")
    return value


def _start(raw: bytes) -> str:
    text = " ".join(raw[:_SHOWN_BYTES].decode("utf-8", "replace").split())
    return f": {text}" if text else ""
