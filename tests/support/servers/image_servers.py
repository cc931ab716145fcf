"""Servers that draw, as their documentation describes them: Stable Diffusion web UI, ComfyUI and
OpenAI. Each draws one PNG, fails or takes its time when a test says so."""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from typing import Any

from tests.support.servers.http_server import Reply, Request


def png(width: int = 8, height: int = 8) -> bytes:
    """A PNG with a header that says this size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head
        + struct.pack(">I", zlib.crc32(head)) + end
    )  # fmt: skip


class ImageServer:
    """What the three have in common."""

    def __init__(self) -> None:
        self.content: bytes = png()
        self.refusal: tuple[int, Any] | None = None
        "A status and a JSON body, instead of a picture."
        self.drawing = 0
        "Pictures that are being drawn."
        self.most = 0
        "The most of them at a time."
        self.gate: asyncio.Event | None = None
        self.asked: list[Any] = []

    async def __call__(self, request: Request, reply: Reply) -> None:
        """Answer a request."""
        raise NotImplementedError

    async def drawn(self, request: Request) -> bytes:
        """The picture, once the gate is open."""
        self.asked.append(request.json())
        self.drawing += 1
        self.most = max(self.most, self.drawing)
        try:
            if self.gate is not None:
                await self.gate.wait()
            return self.content
        finally:
            self.drawing -= 1


class FakeStableDiffusion(ImageServer):
    """POST /sdapi/v1/txt2img."""

    async def __call__(self, request: Request, reply: Reply) -> None:
        if (request.method, request.path) != ("POST", "/sdapi/v1/txt2img"):
            await reply.json({"detail": "Not Found"}, 404)
            return
        if self.refusal is not None:
            await reply.json(self.refusal[1], self.refusal[0])
            return
        content = await self.drawn(request)
        images = [base64.b64encode(content).decode()]
        await reply.json({"images": images, "parameters": request.json(), "info": "{}"})


class FakeOpenAiImages(ImageServer):
    """POST /v1/images/generations."""

    as_url = False

    async def __call__(self, request: Request, reply: Reply) -> None:
        if (request.method, request.path) != ("POST", "/v1/images/generations"):
            await reply.json({"error": {"message": "Unknown request URL", "code": None}}, 404)
            return
        if self.refusal is not None:
            await reply.json(self.refusal[1], self.refusal[0])
            return
        content = await self.drawn(request)
        row = {"b64_json": base64.b64encode(content).decode()}
        if self.as_url:
            row = {"url": "http://169.254.169.254/latest/meta-data"}
        await reply.json({"created": 1, "data": [row]})


class FakeComfyUi(ImageServer):
    """POST /prompt, GET /history/{id}, GET /view, POST /queue and /interrupt."""

    def __init__(self) -> None:
        super().__init__()
        self.polls = 0
        self.failure = ""
        "The message of a node that fails."
        self.stopped: list[str] = []

    async def __call__(self, request: Request, reply: Reply) -> None:
        path, _, query = request.path.partition("?")
        if path == "/prompt":
            await self._queue(request, reply)
        elif path == "/history/id-1":
            self.polls += 1
            is_done = self.polls > 2 and (self.gate is None or self.gate.is_set())
            await reply.json({"id-1": self._entry()} if is_done else {})
        elif path == "/view":
            is_it = query == "filename=a+1.png&subfolder=&type=output"
            await reply.send(200 if is_it else 404, self.content if is_it else b"", "image/png")
        elif path in ("/queue", "/interrupt"):
            self.stopped.append(path)
            await reply.json({})
        else:
            await reply.send(404, b"404: Not Found", "text/plain")

    async def _queue(self, request: Request, reply: Reply) -> None:
        self.asked.append(request.json())
        if self.refusal is not None:
            await reply.json(self.refusal[1], self.refusal[0])
        else:
            await reply.json({"prompt_id": "id-1", "number": 1, "node_errors": {}})

    def _entry(self) -> dict[str, Any]:
        if self.failure:
            told = ["execution_error", {"node_id": "5", "exception_message": self.failure}]
            return {"outputs": {}, "status": {"status_str": "error", "messages": [told]}}
        image = {"filename": "a 1.png", "subfolder": "", "type": "output"}
        return {
            "outputs": {"7": {"images": [image]}},
            "status": {"status_str": "success", "completed": True, "messages": []},
        }
