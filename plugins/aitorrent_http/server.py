"""The HTTP server's application: each request is checked, then answered by its plugin.

The order is Host, Origin, token, role, size, slots. Import it in a thread: Starlette takes a
moment.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from starlette.requests import ClientDisconnect, Request

from aitorrent_http.access import Access, Client, Refused
from aitorrent_http.metrics import NO_ROUTE, HttpMetrics
from aitorrent_http.table import Found, Table
from aitorrentd.api import AitorrentError, Busy, MethodNotFound, PluginError, Role, TooLarge
from aitorrentd.api.context import PeerSocket
from aitorrentd.api.faces.asgi import REFUSED, Aborted, Message, Receive, Send
from aitorrentd.api.faces.errors import JSON, Headers, HttpFault, fault_of
from aitorrentd.api.faces.routes import HttpRoute

_UCRED: Final = struct.Struct("3i")
"Process, user and group of the other end of a Unix socket (unix(7))."
_EVERY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_CORS_HEADERS: Final = (
    b"authorization, content-type, x-api-key, anthropic-version, anthropic-beta,"
    b" x-stainless-arch, x-stainless-lang, x-stainless-os, x-stainless-package-version,"
    b" x-stainless-retry-count, x-stainless-runtime, x-stainless-runtime-version,"
    b" x-stainless-timeout"
)
_LEFT: Final = 499
"In metrics: the client left before its answer began (a code of nginx)."
_FAILED: Final = 500
_EXPOSED: Final = b"x-request-id, request-id, retry-after"


class Server:
    """The ASGI application."""

    def __init__(
        self,
        access: Access,
        routes: Callable[[], tuple[tuple[str, HttpRoute], ...]],
        role_of: Callable[[PeerSocket], Role],
        counts: Counter[str],
        metrics: HttpMetrics,
        log: logging.Logger,
    ) -> None:
        """`routes` gives the same tuple until they change; `role_of` says who is at the other end
        of a Unix socket; requests are counted by plugin in `counts`."""
        self._access = access
        self._routes = routes
        self._role_of = role_of
        self._counts = counts
        self._metrics = metrics
        self._log = log
        self._table = Table(())
        self._busy: Counter[tuple[str, frozenset[str]]] = Counter()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        exchange, began = _Exchange(send), time.perf_counter()
        try:
            await self._answer(scope, receive, exchange)
        except ClientDisconnect:
            exchange.has_left = True
            raise Aborted from None
        except (Aborted, asyncio.CancelledError):
            exchange.has_left = True
            raise
        except Refused as e:
            await exchange.refuse(e.fault)
        except AitorrentError as e:
            await exchange.refuse(fault_of(e))
        except Exception as e:  # a plugin's endpoint: its client gets an error that it can read
            bug = PluginError.of_bug(exchange.plugin)
            error_id = bug.data["error_id"]
            self._log.error("%s failed (error id %s)", exchange.route, error_id, exc_info=e)
            if exchange.has_begun:
                raise Aborted from None
            await exchange.refuse(fault_of(bug))
        finally:
            cut = _LEFT if exchange.has_left else _FAILED
            status = exchange.status or scope.get(REFUSED, cut)
            self._metrics.answered(exchange.route, status, time.perf_counter() - began)

    async def _answer(self, scope: Message, receive: Receive, exchange: _Exchange) -> None:
        method: str = scope["method"]
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        client = self._client(scope)
        self._access.check_host(headers, client)
        path = scope["raw_path"].decode("latin-1")
        found = self._find(method, path)
        route = found.route
        exchange.error_body = found.error_body or self._table.error_body(headers)
        if route is not None:
            exchange.route, exchange.plugin = route.template, found.plugin
        origin = self._access.allowed_origin(headers)
        if method == "OPTIONS" and origin:
            await self._preflight(headers, scope, origin, exchange)
            return
        browser = route is not None and route.browser
        if origin and browser:
            exchange.allow(origin)
        self._access.check_origin(method, headers, browser=browser)
        rights = self._access.rights(headers, client)
        if route is None:
            raise Refused(self._no_route(found, method, path))
        self._access.check_scope(rights, route.scope)
        scope["path_params"] = found.parts
        scope["aitorrent.scopes"] = rights.scopes
        scope["aitorrent.caller"] = rights.caller
        scope["aitorrent.request_id"] = exchange.ident
        body = _Body(receive, route.max_body)
        body.check(headers)
        key = (route.path, route.methods)
        if route.slots is not None and self._busy[key] >= route.slots:
            raise Busy(
                f"the limit of {route.slots} concurrent requests on {route.template} is reached;"
                " try again later"
            )
        self._busy[key] += 1
        self._counts[found.plugin] += 1
        try:
            response = await route.endpoint(Request(scope, body.receive))
            await response(scope, body.receive, exchange.send)
        finally:
            self._busy.subtract((key,))

    def _find(self, method: str, path: str) -> Found:
        routes = self._routes()
        if routes is not self._table.routes:
            self._table = Table(routes)
        return self._table.find(method, path)

    def _no_route(self, found: Found, method: str, path: str) -> HttpFault:
        if found.allowed:
            listed = sorted(found.allowed)
            return HttpFault(
                405,
                "invalid_request_error",
                "method_not_allowed",
                f"this path takes {' or '.join(listed)}, not {method[:20]}",
                headers=((b"allow", ", ".join(listed).encode()),),
            )
        return fault_of(MethodNotFound(f"no such path; {self._table.hint(method, path)}"))

    def _client(self, scope: Message) -> Client:
        peer = scope["client"]
        if peer:
            return Client(peer[0], None)
        sock: PeerSocket = scope["aitorrent.socket"]
        uid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
        return Client(None, self._role_of(sock), uid)

    async def _preflight(
        self, headers: dict[str, str], scope: Message, origin: str, exchange: _Exchange
    ) -> None:
        asked = headers.get("access-control-request-method", "")
        path = scope["raw_path"].decode("latin-1")
        found = self._find(asked, path)
        if found.route is None or not found.route.browser:
            raise Refused(self._no_route(found, asked, path))
        exchange.allow(origin)
        await exchange.plain(
            204,
            [
                (b"access-control-allow-methods", asked.encode("latin-1")),
                (b"access-control-allow-headers", _CORS_HEADERS),
                (b"access-control-max-age", b"600"),
            ],
        )


class _Exchange:
    """The sending half of one exchange; it adds the headers that every answer has."""

    def __init__(self, send: Send) -> None:
        self.ident = f"req_{secrets.token_hex(12)}"
        self.error_body: Callable[[HttpFault, str], bytes] | None = None
        "As in HttpRoute."
        self._send = send
        ident = self.ident.encode()
        # The first is what OpenAI's clients show, the second Anthropic's.
        self._headers: Headers = [(b"x-request-id", ident), (b"request-id", ident)]
        self.has_begun = False
        self.route = NO_ROUTE
        "The template of the path, once it is known."
        self.plugin = ""
        self.status = 0
        "Of the answer, once it began."
        self.has_left = False

    def allow(self, origin: str) -> None:
        """Let a page of `origin` read the answer."""
        self._headers += [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        ]

    async def send(self, message: Message) -> None:
        """Send an event."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            self.status = message["status"]
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            added = [*self._headers, *((n, v) for n, v in _EVERY if n not in names)]
            message = {**message, "headers": [*given, *added]}
        await self._send(message)

    async def plain(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a whole answer."""
        if body or status != 204:
            headers = [*headers, (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def refuse(self, fault: HttpFault) -> None:
        """Answer with an error, unless an answer has begun: then cut it off."""
        if self.has_begun:
            raise RuntimeError(f"failed after its answer had begun: {fault.message}")
        body = fault.body() if self.error_body is None else self.error_body(fault, self.ident)
        await self.plain(fault.status, [JSON, *fault.headers], body)


class _Body:
    """A request's body, of limited size."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._size = 0

    def check(self, headers: dict[str, str]) -> None:
        """Refuse a body that says that it is too large, or is compressed."""
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._most:
            raise self._too_large()
        if headers.get("content-encoding", "identity") != "identity":
            raise Refused(
                HttpFault(
                    415,
                    "invalid_request_error",
                    "unsupported_encoding",
                    "compressed requests are not accepted; leave out Content-Encoding",
                )
            )

    async def receive(self) -> Message:
        """The next event."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._most:
                raise self._too_large()
        return message

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request's body is larger than {self._most} bytes")
