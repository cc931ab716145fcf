"""Runs an ASGI application on listening sockets, inside a plugin's lifespan.

    sockets = listen(["127.0.0.1"], 8042, setting="plugins.hub.port")
    async with serving(app, sockets, log=ctx.log) as server:
        yield

HTTP/1.1 by uvicorn and httptools on the loop that already runs: no signal handlers, no second loop,
no access log. Both are imported in a thread when the first server starts. An application that
raises is logged and answers 500; it cannot end the daemon.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aitorrentd.api.faces.asgi import Aborted, App, WebLimits
from aitorrentd.api.network.addresses import host_port
from aitorrentd.api.tasks import beside
from aitorrentd.errors import Unavailable

if TYPE_CHECKING:
    from aitorrentd.api.faces.connections import Connections

__all__ = ["Aborted", "App", "WebLimits", "WebServer", "listen", "serve_when_asked", "serving"]

BACKLOG: Final = 1024
"Connections that wait to be accepted."
SWEEP_S: Final = 1.0
"How often stalled clients are looked for."


class WebServer:
    """A running server."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __len__(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def counts(self) -> Counter[str]:
        """Events since the start, by name: requests, turned_away, too_large, timeouts, malformed,
        stalled."""
        return self._connections.counts

    def adopt(self, transport: asyncio.Transport, received: bytes) -> None:
        """Serve a connection that another protocol accepted, and of which it read `received`."""
        protocol = self._connections.new()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(received)


def listen(hosts: Sequence[str], port: int, *, setting: str) -> list[socket.socket]:
    """Listening TCP sockets on one port number of each host (IP addresses); port 0 = any free one.

    `setting` is what the user changes to choose another port; the error names it.

    Raises:
        Unavailable: the port is taken, or an address is not of this machine.
    """
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sockets.append(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            port = sock.getsockname()[1]
            sock.listen(BACKLOG)
    except OSError as e:
        for sock in sockets:
            sock.close()
        place, reason = host_port(host, port), (e.strerror or str(e)).lower()
        raise Unavailable(
            f"cannot listen on {place}/tcp: {reason}; free the port, or set {setting}"
        ) from None
    return sockets


@asynccontextmanager
async def serving(
    app: App,
    sockets: Sequence[socket.socket] = (),
    *,
    log: logging.Logger,
    limits: WebLimits | None = None,
    tls: ssl.SSLContext | None = None,
    refused: Callable[[int], None] | None = None,
) -> AsyncIterator[WebServer]:
    """Serve `app` while the block runs, on listening `sockets`, which are closed at its end, and on
    connections that are given to `WebServer.adopt`. `tls` applies to TCP sockets, not to Unix ones.
    `refused` hears the status of each request that is refused before `app` sees it.

    At the end of the block, no new connection is accepted, idle ones are closed, and answers that
    take longer than `limits.drain_s` are cut off.
    """
    try:
        # The import takes longer than the event loop may block.
        module = await asyncio.to_thread(
            importlib.import_module, "aitorrentd.api.faces.connections"
        )
        connections: Connections = module.Connections(app, log, limits or WebLimits(), refused)
        servers: list[asyncio.Server] = []
        loop = asyncio.get_running_loop()
        try:
            for sock in sockets:
                if sock.family == socket.AF_UNIX:
                    server = await loop.create_unix_server(
                        connections.new, sock=sock, backlog=BACKLOG
                    )
                else:
                    server = await loop.create_server(
                        connections.new, sock=sock, backlog=BACKLOG, ssl=tls
                    )
                servers.append(server)
            async with beside(_sweep(connections), "web: sweep"):
                yield WebServer(connections)
        finally:
            for server in servers:
                server.close()
            await connections.close()
            for server in servers:
                await server.wait_closed()
    finally:
        for sock in sockets:
            sock.close()


async def serve_when_asked(
    app: Callable[[], App],
    sockets: Sequence[socket.socket],
    *,
    log: logging.Logger,
    limits: WebLimits | None = None,
    tls: ssl.SSLContext | None = None,
    refused: Callable[[int], None] | None = None,
) -> None:
    """Serve until cancelled, from the first connection on: most nodes have none, and save the
    server's memory. `app` is called in a thread, and imports what the application needs.
    """
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for sock in sockets:
        loop.add_reader(sock, asked.set)
    try:
        await asked.wait()
    finally:
        for sock in sockets:
            loop.remove_reader(sock)
    made = await asyncio.to_thread(app)
    async with serving(made, sockets, log=log, limits=limits, tls=tls, refused=refused):
        await asyncio.Event().wait()


async def _sweep(connections: Connections) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        connections.sweep()
