"""Nodes with an HTTP server, and a plugin whose routes show what the server lets through."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from aitorrent_http.plugin import HttpPlugin
from aitorrentd.api import Busy, InvalidParams, PluginContext, PluginInfo, Role, hookimpl
from aitorrentd.api.faces.routes import HttpRoute, Scope
from aitorrentd.api.faces.streaming import Stream
from aitorrentd.kernel.found import PluginSource
from aitorrentd.node import Node
from tests.support.nodes import NodeFactory

GET: Final = frozenset({"GET"})
POST: Final = frozenset({"POST"})


class Probe:
    """Routes of every scope, and handlers that take their time."""

    def __init__(self) -> None:
        self.running = 0
        "Handlers that have not ended."
        self.cancelled = 0

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("probe", "routes for tests")

    @hookimpl
    def aitorrent_routes(self, ctx: PluginContext) -> Iterable[HttpRoute]:
        for scope in Scope:
            yield HttpRoute(f"/scope/{scope.value}", GET, self._ok, scope, "answers")
            yield HttpRoute(f"/scope/{scope.value}", POST, self._ok, scope, "answers")
        public = Scope.PUBLIC
        yield HttpRoute("/echo", POST, self._echo, public, "echoes", max_body=1000)
        yield HttpRoute("/page", POST, self._ok, public, "for pages", browser=True)
        yield HttpRoute("/named/{name}", GET, self._named, public, "its name")
        yield HttpRoute("/rest/{rest:path}", GET, self._named, public, "its rest")
        yield HttpRoute("/hang", GET, self._hang, public, "never answers", slots=2)
        yield HttpRoute("/stream", GET, self._stream, public, "never ends")
        yield HttpRoute("/count", GET, self._count, public, "ends after 30 events")
        yield HttpRoute("/flood", GET, self._flood, public, "never ends")
        yield HttpRoute("/busy", GET, self._busy, public, "refuses")
        yield HttpRoute("/wrong", GET, self._wrong, public, "refuses")
        yield HttpRoute(
            "/dialect",
            frozenset({"GET", "POST"}),
            self._busy,
            Scope.GENERATE,
            "refuses",
            max_body=1000,
            error_body=lambda fault, ident: f"{fault.status} {ident}".encode(),
            error_header="x-dialect",
        )
        yield HttpRoute("/v1/refuses", GET, self._busy, public, "nothing", listed=False)
        yield HttpRoute("/bug", GET, self._bug, public, "raises")

    async def _ok(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    async def _echo(self, request: Request) -> Response:
        return Response(await request.body())

    async def _named(self, request: Request) -> Response:
        return JSONResponse(request.path_params)

    async def _hang(self, request: Request) -> Response:
        self.running += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        raise AssertionError

    async def _stream(self, request: Request) -> Stream:
        return Stream(self._items(0.01))

    async def _count(self, request: Request) -> Stream:
        return Stream(self._items(0.02, 30))

    async def _flood(self, request: Request) -> Stream:
        return Stream(self._items(0.0))

    async def _items(self, pause_s: float, most: int = sys.maxsize) -> AsyncGenerator[bytes]:
        self.running += 1
        try:
            for _ in range(most):
                yield b"data: 1\n\n" * (1 if pause_s else 10_000)
                await asyncio.sleep(pause_s)
        finally:
            self.running -= 1

    async def _busy(self, request: Request) -> Response:
        raise Busy("all seats are taken")

    async def _wrong(self, request: Request) -> Response:
        raise InvalidParams("n is 3", param="n")

    async def _bug(self, request: Request) -> Response:
        raise ZeroDivisionError


def _itself(made: Any) -> Any:
    return made


async def http_node(
    factory: NodeFactory,
    *plugins: tuple[str, Any],
    control: Path | None = None,
    **settings: Any,
) -> tuple[Node, str]:
    """A node with an HTTP server and these plugins (name and object), and its first address;
    `control` is where its control socket shall be."""
    sources = [PluginSource.of(HttpPlugin, name="http")]
    sources += [PluginSource.of(partial(_itself, made), name=name) for name, made in plugins]
    config: dict[str, Any] = {"plugins": {"http": {"port": 0, **settings}}}
    if control is not None:
        config["control"] = {"socket": str(control)}
    node = await factory(config, sources=sources)
    assert [row.detail for row in node.kernel.rows() if row.state != "running"] == []
    return node, (await called(node, "http.status"))["listening"][0]


async def served(node: Node) -> str:
    """The address of the HTTP server of a node, which has one from now on."""
    node.kernel.configure("http", {"enabled": True, "port": 0})
    await node.kernel.enable("http")
    address: str = (await called(node, "http.status"))["listening"][0]
    return address


async def called(node: Node, method: str, **params: Any) -> dict[str, Any]:
    """The result of a control method, called by an administrator."""
    from aitorrentd.methods.inside import InsideDoor

    return await InsideDoor(node).caller(Role.ADMIN).call(method, params)


async def new_token(node: Node, role: str, **params: Any) -> str:
    """The secret of a new token with this role."""
    reply = await called(node, "http.tokens.new", name=f"t-{role}", role=role, **params)
    secret: str = reply["token"]
    return secret
