"""MCP's streamable HTTP, without sessions: a message in, an answer out.

The answer is JSON, or a stream of events if the client takes one and wants to hear of progress. A
client that leaves cancels its request, which a message of its own cannot: ids are its client's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response

from aitorrent_gateway.core.answers import KEEP_ALIVE, ahead
from aitorrent_gateway.mcp.eras import VERSION_KEY, Headers, is_modern
from aitorrent_gateway.mcp.messages import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    Message,
    RpcError,
    error_of,
    read,
)
from aitorrent_gateway.mcp.reach import Reach
from aitorrent_gateway.mcp.server import McpServer
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.streaming import Stream

_ALWAYS = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    HEADER_MISMATCH: 400,
    UNSUPPORTED_VERSION: 400,
}
_MODERN = {**_ALWAYS, INVALID_PARAMS: 400, METHOD_NOT_FOUND: 404}
"What the second era wants as a status, by the error's code; the first has 200 for its own."


async def post(request: Request, server: McpServer, reach: Reach) -> App:
    """POST /mcp."""
    headers = Headers(request.headers.items())
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return _refused(RpcError(INVALID_REQUEST, "send Content-Type: application/json"), 415)
    message: Message | None = None
    try:
        message = read(await request.body())
        if message is None or message.is_notification:
            if message is not None:
                is_modern(message, headers)  # raises what is wrong with its headers
            return Response(status_code=202)
        if _wants_events(request, message):
            is_modern(message, headers)  # an error in them has its own status
            return Stream(_events(server, message, reach, headers))
        return _json(await server.answer(message, reach, headers))
    except RpcError as e:
        is_new = message is not None and (headers.is_modern or VERSION_KEY in message.meta)
        return _refused(e, (_MODERN if is_new else _ALWAYS).get(e.code, 200))


def _wants_events(request: Request, message: Message) -> bool:
    takes = "text/event-stream" in request.headers.get("accept", "")
    return takes and message.method == "tools/call" and "progressToken" in message.meta


async def _events(
    server: McpServer, message: Message, reach: Reach, headers: Headers
) -> AsyncGenerator[bytes]:
    async with ahead(server.replies(message, reach, headers)) as pieces:
        while True:
            batch = await pieces.batch()
            yield b"".join(b"event: message\ndata: %s\n\n" % line for line in batch) or KEEP_ALIVE
            # The answer is the only line with an id, and the last one.
            if batch and batch[-1].startswith(b'{"jsonrpc":"2.0","id":'):
                return


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _refused(error: RpcError, status: int) -> Response:
    return _json(error_of(error), status)
