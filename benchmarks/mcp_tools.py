"""`tools/list` over ASGI: our MCP server against the official SDK's, in alternating rounds.

    python -m benchmarks.mcp_tools [--rounds 15] [--out FILE]

Both list tools of the same names, texts and schemas, those of a node with all plugins, as JSON and
without sessions, to a client of 2025-11-25. What HTTP itself costs is left out. CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from mcp.server.lowlevel import Server
from mcp_types import ListToolsResult, Tool
from starlette.requests import Request

from aitorrent_gateway.mcp.posting import post
from aitorrent_gateway.mcp.reach import Reach
from aitorrent_gateway.mcp.server import McpServer
from aitorrentd.api import Role
from aitorrentd.methods.inside import InsideDoor
from aitorrentd.node import Node
from benchmarks.report import finish, spread

BODY: Final = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
SCOPE: Final[dict[str, Any]] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/mcp",
    "raw_path": b"/mcp",
    "query_string": b"",
    "headers": [
        (b"host", b"127.0.0.1:8000"),
        (b"content-type", b"application/json"),
        (b"accept", b"application/json, text/event-stream"),
        (b"mcp-protocol-version", b"2025-11-25"),
    ],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 8000),
}
App = Callable[[Any, Any, Any], Awaitable[None]]


async def asked(app: App) -> bytes:
    """The body of one answer."""
    found: list[bytes] = []
    is_sent = False

    async def receive() -> dict[str, Any]:
        nonlocal is_sent
        if is_sent:
            await asyncio.Event().wait()
        is_sent = True
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        found.append(event.get("body", b""))

    await app(dict(SCOPE), receive, send)
    return b"".join(found)


async def cpu_us(app: App, times: int) -> float:
    """CPU time of one answer in microseconds, averaged over `times`."""
    began = time.process_time()
    for _ in range(times):
        await asked(app)
    return (time.process_time() - began) * 1e6 / times


def ours(node: Node) -> App:
    """Our server, as the route calls it."""
    caller = InsideDoor(node).caller(Role.ADMIN)
    server, reach = (
        McpServer("1", time.monotonic, logging.getLogger("bench")),
        Reach(caller, caller),
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answer = await post(Request(scope, receive), server, reach)
        await answer(scope, receive, send)

    return app


def theirs(tools: list[dict[str, Any]]) -> Any:
    """The SDK's server with these tools, ready made."""
    made = [Tool.model_validate(tool) for tool in tools]

    async def listed(*_: Any) -> ListToolsResult:
        return ListToolsResult(tools=made)

    server: Any = Server("peer", on_list_tools=listed)
    return server.streamable_http_app(json_response=True, stateless_http=True)


async def measured(rounds: int) -> dict[str, Any]:
    """The figures."""
    async with Node.temporary() as node:
        app = ours(node)
        body = await asked(app)
        tools = json.loads(body)["result"]["tools"]
        peer = theirs(tools)
        async with peer.router.lifespan_context(peer):
            other = json.loads(await asked(peer))["result"]["tools"]
            if [tool["name"] for tool in other] != [tool["name"] for tool in tools]:
                raise RuntimeError("the two list other tools")
            took: dict[str, list[float]] = {"ours": [], "sdk": []}
            for _ in range(rounds):
                took["ours"].append(await cpu_us(app, 200))
                took["sdk"].append(await cpu_us(peer, 10))
    ratios = [b / a for a, b in zip(*took.values(), strict=True)]
    return {
        "tools": len(tools),
        "bytes": len(body),
        "tools_list_cpu_us": {name: spread(values) for name, values in took.items()},
        "ratio": round(statistics.median(ratios), 1),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    finish(asyncio.run(measured(args.rounds)), args.out)


if __name__ == "__main__":
    main()
