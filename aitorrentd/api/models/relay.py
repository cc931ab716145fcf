"""An HTTP server that answers by streams, as a client of a plugin sees it.

Not part of `aitorrentd.api` itself, since httpx is a few megabytes that a node without such servers
should not pay: import it where the first request is made, in a thread.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import httpx

from aitorrentd.errors import AitorrentError, ProtocolError, TimedOut, Unavailable

_START_BYTES: Final = 65_536
"What is read of a refusal."


class HttpServer:
    """Connections to one server; close it with `close`.

    `who` is how its errors call it. `refused(status, answer, request)` makes the error of an answer
    whose status is not 200, and `absent(reason)` that of a server that takes no connection.
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
    ) -> None:
        """`use_proxy`: whether the proxies that the environment names may be used."""
        self.who = who
        self.url = url.rstrip("/")
        self._refused = refused
        self._absent = absent
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(
                connect=connect_timeout_s, read=read_timeout_s, write=30.0, pool=10.0
            ),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=4),
            trust_env=use_proxy,
        )

    async def close(self) -> None:
        """End all connections."""
        await self._http.aclose()

    async def stream(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The answer's body as it comes. Closing the iterator closes the connection, upon which the
        server stops its work.

        Raises:
            AitorrentError: `refused` or `absent`. TimedOut: the server did not accept a connection,
            or fell silent. Unavailable: it broke off.
        """
        try:
            async with self._http.stream(method, self.url + path, json=body) as response:
                if response.status_code != 200:
                    start = await _start_of(response)
                    raise self._refused(response.status_code, start, body or {})
                async for part in response.aiter_bytes():
                    yield part
        except httpx.ConnectError as e:
            raise self._absent(str(e)) from None
        except httpx.TimeoutException as e:
            kind = "accept a connection" if isinstance(e, httpx.ConnectTimeout) else "answer"
            raise TimedOut(f"{self.who} at {self.url} did not {kind} in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            # RemoteProtocolError (it closed in the middle), ReadError (reset) and the like.
            why = str(e) or type(e).__name__
            raise Unavailable(f"{self.who} at {self.url} broke off: {why}") from None

    async def fetch(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, max_bytes: int
    ) -> dict[str, Any]:
        """The whole answer, a JSON object.

        Raises:
            AitorrentError: as `stream`. ProtocolError: no JSON object, or longer than `max_bytes`.
        """
        whole = bytearray()
        async with aclosing(self.stream(method, path, body)) as parts:
            async for part in parts:
                whole += part
                if len(whole) > max_bytes:
                    raise ProtocolError(f"{self.who}'s {path} sent over {max_bytes} bytes")
        return json_object(bytes(whole), self.who)


async def _start_of(response: httpx.Response) -> bytes:
    start = bytearray()
    async for part in response.aiter_bytes():
        start += part
        if len(start) >= _START_BYTES:
            break
    return bytes(start)


def json_object(raw: bytes, who: str) -> dict[str, Any]:
    """`raw` as a JSON object.

    Raises:
        ProtocolError: it is none.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise ProtocolError(f"{who} sent something that is not JSON") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"{who} sent something that is not a JSON object")
    return value
