"""The HTTP service: its sockets, its server, and when they run."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aitorrent_http.access import PROXIED, Access
from aitorrent_http.certificate import UnusableCertificate, load_certificate
from aitorrent_http.config import PORT, HttpConfig
from aitorrent_http.metrics import HttpMetrics
from aitorrent_http.tokens import Tokens
from aitorrentd.api import ConfigError, PluginContext, Role, Unavailable
from aitorrentd.api.faces import unix_socket
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.hosts import is_loopback
from aitorrentd.api.faces.routes import HttpRoute, Scope
from aitorrentd.api.faces.serving import WebLimits, listen, serve_when_asked
from aitorrentd.api.network.addresses import host_port
from aitorrentd.api.tasks import Tasks

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

LIMITS: Final = WebLimits(
    connections=256,
    per_address=64,
    body_bytes=64 * 2**20,
    header_s=10.0,
    body_s=60.0,
    idle_s=75.0,
    one_host=True,
    cancels=True,
    drain_s=5.0,
)
CERT_S: Final = 60.0
"How often a new certificate is looked for."


class HttpService:
    """A running server."""

    def __init__(self, ctx: PluginContext) -> None:
        self.config: HttpConfig = ctx.config
        self.tokens = Tokens(ctx)
        self.listening: list[str] = []
        "Where: `127.0.0.1:8000`, or the path of a Unix socket."
        self.problem = ""
        "Why the default port is not served; empty if it is."
        self.counts: Counter[str] = Counter()
        "Requests since the start, by plugin."
        self.metrics = HttpMetrics()
        self._ctx = ctx
        self._app: App | None = None
        self._encryption: ssl.SSLContext | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the block runs.

        Raises:
            ConfigError: strangers could reach a server without token and TLS, or the certificate
            cannot be read. Unavailable: the port is taken, or an address is not of this machine.
        """
        ctx, config = self._ctx, self.config
        await self.tokens.load()
        async with AsyncExitStack() as stack:
            tls = self._encryption = self._tls()
            sockets = [*self._tcp(), *self._given(stack)]
            if config.unix_socket is not None:
                bound = await asyncio.to_thread(_bind, config.unix_socket)
                stack.callback(bound.remove_file)
                sockets.append(bound.sock)
            for sock in sockets:
                stack.callback(sock.close)
            self._check_exposure(sockets, tls)
            self.listening = [_place(sock) for sock in sockets]
            tasks = Tasks(ctx.tasks)
            if sockets:
                ctx.log.info("HTTP on %s", ", ".join(self.listening))
                tasks.spawn(self._serving(sockets, tls), "http: server")
            if tls is not None:
                tasks.spawn(self._renew(tls), "http: certificate")
            try:
                yield
            finally:
                await tasks.close(LIMITS.drain_s * 2)

    @asynccontextmanager
    async def also_on(self, port: int, *, setting: str) -> AsyncIterator[None]:
        """See `HttpDoor.also_on`."""
        sockets = listen(self.config.listen, port, setting=setting)
        places = [_place(sock) for sock in sockets]
        async with AsyncExitStack() as stack:
            for sock in sockets:
                stack.callback(sock.close)
            self._check_exposure(sockets, self._encryption)
            self._ctx.log.info("HTTP on %s", ", ".join(places))
            tasks = Tasks(self._ctx.tasks)
            tasks.spawn(self._serving(sockets, self._encryption), f"http: port {port}")
            self.listening += places
            try:
                yield
            finally:
                self.listening = [place for place in self.listening if place not in places]
                await tasks.close(LIMITS.drain_s * 2)

    def _make(self) -> App:
        """The application; called in a thread, because the import takes a while."""
        if self._app is None:
            self._app = self._made()
        return self._app

    def _made(self) -> App:
        server: Any = importlib.import_module("aitorrent_http.server")
        importlib.import_module("aitorrent_http.page")
        names = frozenset({socket.gethostname().lower(), *self.config.hosts})
        access = Access(self.config, self.tokens, names)
        role_of = self._ctx.control.role_of
        ctx = self._ctx
        made: App = server.Server(access, ctx.routes, role_of, self.counts, self.metrics, ctx.log)
        return made

    async def _serving(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None) -> None:
        await serve_when_asked(
            self._make,
            sockets,
            log=self._ctx.log,
            limits=LIMITS,
            tls=tls,
            refused=self.metrics.refused,
        )

    def _tcp(self) -> list[socket.socket]:
        port = PORT if self.config.port is None else self.config.port
        try:
            return listen(self.config.listen, port, setting="plugins.http.port")
        except Unavailable as e:
            if self.config.port is not None:
                raise
            self.problem = e.message
            return []

    def _given(self, stack: AsyncExitStack) -> list[socket.socket]:
        """Sockets from the service manager."""
        given = self._ctx.sockets()
        for sock in given:
            stack.callback(sock.close)
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ConfigError("the service manager passed an http socket that does not listen")
            sock.setblocking(False)
        return given

    def _check_exposure(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        for sock in sockets:
            if sock.family == socket.AF_UNIX or is_loopback(sock.getsockname()[0]):
                continue
            if tls is None and not len(self.tokens):
                raise ConfigError(
                    f"{_place(sock)} can be reached from other machines, and there is neither a"
                    " token nor TLS; create one while listening on 127.0.0.1 (aitorrentctl token"
                    " new NAME --role generate), or set plugins.http.tls_cert and tls_key"
                )

    def _tls(self) -> ssl.SSLContext | None:
        config = self.config
        if config.tls_cert is None or config.tls_key is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            load_certificate(context, config.tls_cert, config.tls_key)
        except UnusableCertificate as e:
            raise ConfigError(
                f"cannot use the certificate {config.tls_cert} with the key {config.tls_key}:"
                f" {e}; set plugins.http.tls_cert and tls_key"
            ) from None
        return context

    async def _renew(self, context: ssl.SSLContext) -> None:
        """Use a new certificate for connections that come after it."""
        seen = self._certificate_times()
        while True:
            await asyncio.sleep(CERT_S)
            now = self._certificate_times()
            if now == seen or self.config.tls_cert is None or self.config.tls_key is None:
                continue
            try:
                load_certificate(context, self.config.tls_cert, self.config.tls_key)
            except UnusableCertificate as e:
                self._ctx.log.warning("the new certificate cannot be used yet: %s", e)
            else:
                seen = now
                self._ctx.log.info("using the new certificate %s", self.config.tls_cert)

    def _certificate_times(self) -> tuple[int, ...]:
        files = (self.config.tls_cert, self.config.tls_key)
        try:
            return tuple(file.stat().st_mtime_ns for file in files if file is not None)
        except OSError:
            return ()

    def routes(self) -> list[HttpRoute]:
        """The plugin's own."""
        get, public = frozenset({"GET"}), Scope.PUBLIC
        page = "What runs here, and what can be called."
        document = "The paths that the caller may use, as OpenAPI 3.1."
        return [
            HttpRoute("/", get, self._page, public, page),
            HttpRoute("/openapi.json", get, self._document, public, document),
        ]

    async def _page(self, request: Request) -> Response:
        from aitorrent_http import page

        caller = partial(self._ctx.control.caller, Role.READ)
        return await page.answer(request, self._ctx.routes, caller)

    async def _document(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        from aitorrent_http.openapi import document

        scopes: frozenset[Scope] = request.scope["aitorrent.scopes"]
        mine = [(plugin, route) for plugin, route in self._ctx.routes() if route.scope in scopes]
        told = await self._ctx.control.caller(Role.READ).call("node.version")
        # Behind a proxy, or on a Unix socket, only the client knows its way here.
        is_near = request.client is not None and not any(h in request.headers for h in PROXIED)
        url = str(request.base_url).rstrip("/") if is_near else "/"
        return JSONResponse(document(mine, told["version"], url))


def _bind(path: Path) -> unix_socket.BoundSocket:
    """A Unix socket that every user may connect to: what they may do depends on who they are."""
    return unix_socket.bind(
        path, mode=0o666, gid=os.getegid(), group="", setting="plugins.http.unix_socket"
    )


def _place(sock: socket.socket) -> str:
    name = sock.getsockname()
    return str(name) if sock.family == socket.AF_UNIX else host_port(*name[:2])
