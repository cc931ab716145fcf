"""Refuses requests that this node sent itself, through a backend whose server is a node's API."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.faces.routes import HttpRoute
from aitorrentd.api.relays.loops import HEADER, nodes_in, note, returns

if TYPE_CHECKING:
    from starlette.requests import Request

LOOP: Final = (
    "the request came back to the node that sent it; point plugins.ollama.url and"
    " plugins.openai.servers at model servers, and other nodes' APIs only if those do not lead back"
)


def guarded(route: HttpRoute, node: str) -> HttpRoute:
    """The route, which `node` does not answer to itself."""
    return replace(route, endpoint=partial(_answer, route, node))


async def _answer(route: HttpRoute, node: str, request: Request) -> App:
    header = request.headers.get(HEADER)
    if header is None:
        return await route.endpoint(request)
    nodes = nodes_in(header)
    if returns(nodes, node):
        from starlette.responses import Response

        fault = HttpFault(508, "invalid_request_error", "loop_detected", LOOP)
        body = fault.body()
        if route.error_body is not None:
            body = route.error_body(fault, request.scope["aitorrent.request_id"])
        return Response(body, 508, media_type="application/json")
    note(nodes)  # each request has a task of its own
    return await route.endpoint(request)
