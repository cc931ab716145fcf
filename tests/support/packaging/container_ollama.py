"""A fake Ollama that accepts pulls and creations; `python3 -m` runs it on port 11434."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from tests.support.servers.http_server import Reply, Request
from tests.support.servers.ollama_server import FakeOllama

MANIFEST_MISSING = "pull model manifest: file does not exist"
LAYERS = (("sha256:dde5aa3fc5ff", 2_000_000_000), ("sha256:966de95ca8a6", 1_400))


@dataclass
class PullOllama(FakeOllama):
    """Starts without models. Tests set its faults as attributes."""

    names: list[str] = field(default_factory=list)
    known: tuple[str, ...] = ("llama3.2:3b",)
    "Models that can be pulled."
    breaks: int = 0
    "This many pulls break off, each a quarter further than the one before."
    says: bytes | None = None
    "The only line of every pull."
    created: list[dict[str, Any]] = field(default_factory=list)
    create_error: str = ""
    pulls: int = 0

    async def _route(self, request: Request, reply: Reply) -> None:
        if (request.method, request.path) == ("POST", "/api/pull"):
            await self._pull(request.json(), reply)
        elif (request.method, request.path) == ("POST", "/api/create"):
            await self._create(request.json(), reply)
        else:
            await super()._route(request, reply)

    async def _pull(self, body: dict[str, Any], reply: Reply) -> None:
        self.pulls += 1
        await reply.start("application/x-ndjson")
        if self.says is not None:
            await reply.part(self.says)
            await reply.end()
            return
        await self._line(reply, {"status": "pulling manifest"})
        if body["model"] not in self.known:
            await self._line(reply, {"error": MANIFEST_MISSING})
            await reply.end()
            return
        for digest, total in LAYERS:
            named = {"status": f"pulling {digest[7:]}", "digest": digest, "total": total}
            await self._line(reply, named)
            for quarter in range(1, 5):
                await self._line(reply, {**named, "completed": total * quarter // 4})
                if self.pulls <= self.breaks and quarter == self.pulls:
                    reply.break_off()
                    return
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            await self._line(reply, {"status": status})
        self.names.append(body["model"])
        await reply.end()

    async def _create(self, body: dict[str, Any], reply: Reply) -> None:
        if self._has(body.get("from", "")) is None:
            await reply.json({"error": "neither 'from' or 'files' was specified"}, 400)
            return
        await reply.start("application/x-ndjson")
        if self.create_error:
            await self._line(reply, {"error": self.create_error})
        else:
            self.created.append(body)
            name = body["model"] if ":" in body["model"] else f"{body['model']}:latest"
            self.names = [*(n for n in self.names if n != name), name]
            for status in ("using existing layer", "writing manifest", "success"):
                await self._line(reply, {"status": status})
        await reply.end()


async def _serve() -> None:
    # Other containers reach it by name.
    fake = PullOllama()
    server = await asyncio.start_server(fake._connected, "0.0.0.0", 11434)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
