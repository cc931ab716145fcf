"""A fake Ollama that follows docs/api.md byte for byte, including error responses."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.servers.http_server import HttpServer, Reply, Request

CREATED_AT = "2023-08-04T08:52:19.385406455-07:00"
FIGURES = {
    "total_duration": 10706818083,
    "load_duration": 6338219291,
    "prompt_eval_count": 26,
    "prompt_eval_duration": 130079000,
    "eval_count": 3,
    "eval_duration": 4232710000,
}


def tag(name: str, digest: str = "9f438cb9cd58", size: int = 3825819519) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": "2023-11-04T14:56:49.277302595-07:00",
        "size": size,
        "digest": digest,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "8.0B",
            "quantization_level": "Q4_0",
        },
    }


@dataclass
class FakeOllama(HttpServer):
    """Answers every prompt with `words`. Tests set its faults as attributes."""

    handler: Any = None
    names: list[str] = field(default_factory=lambda: ["llama3.2:latest"])
    words: list[str] = field(default_factory=lambda: ["The", " sky", " is blue"])
    done_reason: str | None = "stop"
    breaks_after: int | None = None
    "Words after which the connection breaks off."
    ends_after: int | None = None
    "Words after which the stream ends cleanly, but without `done`."
    fails_after: int | None = None
    "Words after which an error line ends the stream."
    hangs_after: int | None = None
    "Words after which the stream hangs."
    is_busy: bool = False
    parameters: str = "num_keep                       24"
    "The model's Modelfile."
    capabilities: list[str] | None = field(default_factory=lambda: ["completion"])
    "None for servers before 0.6.4."
    loaded_context: int | None = None
    "The context of the models in memory; None if none is loaded."
    prompt_tokens: int = FIGURES["prompt_eval_count"]
    refuses: tuple[int, str] | None = None
    "The status and the error that every prompt gets; with the status 200, in the stream."
    thoughts: list[str] = field(default_factory=list)
    "The thinking text before the words."

    def __post_init__(self) -> None:
        super().__post_init__()
        self.handler = self._route

    async def _route(self, request: Request, reply: Reply) -> None:
        routes = {
            ("GET", "/api/version"): self._version,
            ("GET", "/api/tags"): self._tags,
            ("GET", "/api/ps"): self._ps,
            ("POST", "/api/show"): self._show,
            ("POST", "/api/generate"): self._generate,
            ("POST", "/api/chat"): self._generate,
            ("POST", "/api/embed"): self._embed,
        }
        route = routes.get((request.method, request.path))
        if route is None:
            await reply.send(404, b"404 page not found", "text/plain")
        else:
            await route(request, reply)

    async def _version(self, request: Request, reply: Reply) -> None:
        await reply.json({"version": "0.5.1"})

    async def _tags(self, request: Request, reply: Reply) -> None:
        await reply.json({"models": [tag(name) for name in self.names]})

    async def _ps(self, request: Request, reply: Reply) -> None:
        names = self.names if self.loaded_context is not None else []
        rows = [{**tag(name), "context_length": self.loaded_context} for name in names]
        await reply.json({"models": rows})

    def _has(self, model: str) -> str | None:
        full = model if ":" in model else f"{model}:latest"
        return full if full in self.names else None

    async def _body(self, request: Request, reply: Reply) -> dict[str, Any] | None:
        """The request's body; responds with an error if it is invalid or the model is unknown."""
        if not request.body:
            await reply.json({"error": "missing request body"}, 400)
            return None
        try:
            body = request.json()
        except ValueError:
            error = "invalid character 'x' looking for beginning of value"
            await reply.json({"error": error}, 400)
            return None
        model = body.get("model", "")
        if self._has(model) is None:
            await reply.json({"error": f"model '{model}' not found"}, 404)
            return None
        temperature = body.get("options", {}).get("temperature")
        if isinstance(temperature, str):
            await reply.json({"error": 'option "temperature" must be of type float32'}, 400)
            return None
        found: dict[str, Any] = body
        return found

    async def _show(self, request: Request, reply: Reply) -> None:
        if await self._body(request, reply) is None:
            return
        able = {} if self.capabilities is None else {"capabilities": self.capabilities}
        await reply.json(
            {
                **able,
                "modelfile": '# Modelfile generated by "ollama show"',
                "parameters": self.parameters,
                "template": "{{ .Prompt }}",
                "details": tag("x")["details"],
                "model_info": {
                    "general.architecture": "llama",
                    "general.parameter_count": 8030261248,
                    "llama.block_count": 32,
                    "llama.context_length": 8192,
                },
            }
        )

    async def _embed(self, request: Request, reply: Reply) -> None:
        """Vectors that tell the texts' lengths."""
        body = await self._body(request, reply)
        if body is None:
            return
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        vectors = [[len(text), 0.5] for text in texts]
        answer = {"model": body["model"], "embeddings": vectors, "prompt_eval_count": len(texts)}
        await reply.json(answer)

    async def _generate(self, request: Request, reply: Reply) -> None:
        body = await self._body(request, reply)
        if body is None:
            return
        if body.get("stream") is False and not body.get("prompt") and not body.get("messages"):
            reason = "unload" if body.get("keep_alive") == 0 else "load"
            answer = {"model": body["model"], "response": "", "done": True, "done_reason": reason}
            await reply.json(answer)
            return
        if self.is_busy:
            error = "server busy, please try again.  maximum pending requests exceeded"
            await reply.json({"error": error}, 503)
            return
        if self.refuses is not None:
            await reply.json({"error": self.refuses[1]}, self.refuses[0])
            return
        is_chat = request.path == "/api/chat"
        await reply.start("application/x-ndjson")
        for thought in self.thoughts:
            await self._line(reply, self._piece(body["model"], "", is_chat, thought))
        for i in range(len(self.words) + 1):
            if self.hangs_after == i:
                await asyncio.Event().wait()
            if self.breaks_after == i:
                reply.break_off()
                return
            if self.ends_after == i:
                await reply.end()
                return
            if self.fails_after == i:
                await self._line(reply, {"error": "an unknown error was encountered"})
                await reply.end()
                return
            if i < len(self.words):
                await self._line(reply, self._piece(body["model"], self.words[i], is_chat))
        await self._line(reply, self._last(body, is_chat))
        await reply.end()

    async def _line(self, reply: Reply, value: dict[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        # In two parts, as a network may split it.
        await reply.part(line[: len(line) // 2])
        await reply.part(line[len(line) // 2 :])

    def _piece(self, model: str, text: str, is_chat: bool, thought: str = "") -> dict[str, Any]:
        more = {"thinking": thought} if thought else {}
        said = (
            {"message": {"role": "assistant", "content": text, **more}}
            if is_chat
            else {"response": text, **more}
        )
        return {"model": model, "created_at": CREATED_AT, **said, "done": False}

    def _last(self, body: dict[str, Any], is_chat: bool) -> dict[str, Any]:
        value = self._piece(body["model"], "", is_chat)
        value["done"] = True
        if self.done_reason is not None:
            value["done_reason"] = self.done_reason
        if not is_chat:
            value["context"] = [*body.get("context", []), 1, 2, 3]
        return {**value, **FIGURES, "prompt_eval_count": self.prompt_tokens}
