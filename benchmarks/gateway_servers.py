"""The servers that `gateway.py` measures, each a process of its own that prints its address.

    python -m benchmarks.gateway_servers node|starlette TOKENS

A node whose backend makes tokens without a model, and the same stream by Starlette and uvicorn
alone, which is the least that it can cost.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncGenerator
from typing import Any, Final

import uvloop

from aitorrentd.api import Chunk, GenerateRequest, ModelView

TEXT: Final = "tok "


async def paces(tokens: int, asked: int | None) -> AsyncGenerator[int]:
    """Numbers of tokens: as fast as the loop takes them, or `asked` ones 20 ms apart, which
    leave the server idle in between."""
    for n in range(asked or tokens):
        if n:
            await asyncio.sleep(0.02 if asked else 0)
        yield n


class Tokens:
    """A backend that needs no time."""

    name = "tokens"

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    async def models(self) -> list[ModelView]:
        """The model `m`."""
        return [ModelView("m", self.name)]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        """The tokens."""
        count = 0
        async for _ in paces(self._tokens, request.params.max_tokens):
            count += 1
            yield Chunk(TEXT)
        yield Chunk("", done=True, reason="stop", prompt_tokens=1, completion_tokens=count)


async def node(tokens: int) -> None:
    """A node with the faces, until it is ended."""
    from aitorrent_gateway.plugin import GatewayPlugin
    from aitorrent_inference.plugin import InferencePlugin
    from aitorrent_monitor.plugin import MonitorPlugin
    from aitorrentd.system.memory import keep_what_is_there
    from tests.support.gateway_nodes import BackendPlugin
    from tests.support.http_nodes import http_node
    from tests.support.nodes import NodeFactory

    _, address = await http_node(
        NodeFactory(),
        ("inference", InferencePlugin()),
        ("gateway", GatewayPlugin()),
        ("monitor", MonitorPlugin()),
        ("fake", BackendPlugin(Tokens(tokens))),
    )
    keep_what_is_there()  # as the daemon does
    print(address, flush=True)
    await asyncio.Event().wait()


async def bare(tokens: int) -> None:
    """Starlette and uvicorn, until they are ended."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    shape: dict[str, Any] = {"id": "chatcmpl-0123456789", "created": 1_700_000_000, "model": "m"}
    chunk = shape | {"object": "chat.completion.chunk", "system_fingerprint": "bare"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}

    def event(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        text = json.dumps(chunk | {"choices": [choice]}, separators=(",", ":"))
        return f"data: {text}\n\n".encode()

    async def stream(asked: int | None) -> AsyncGenerator[bytes]:
        yield event({"role": "assistant", "content": ""})
        piece = event({"content": TEXT})
        async for _ in paces(tokens, asked):
            yield piece
        yield event({}, "stop") + b"data: [DONE]\n\n"

    async def chat(request: Request) -> Response:
        body = json.loads(await request.body())
        asked = body.get("max_tokens")
        if body.get("stream"):
            return StreamingResponse(stream(asked), media_type="text/event-stream")
        message = {"role": "assistant", "content": TEXT * (asked or tokens)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = shape | {"object": "chat.completion", "choices": [choice], "usage": usage}
        return JSONResponse(whole)

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(app, loop="none", http="httptools", log_level="error", lifespan="off")
    print("{}:{}".format(*sock.getsockname()), flush=True)
    await uvicorn.Server(config).serve([sock])


if __name__ == "__main__":
    uvloop.run({"node": node, "starlette": bare}[sys.argv[1]](int(sys.argv[2])))
