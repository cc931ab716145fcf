"""A fake OpenAI-compatible server that follows the API reference, including errors."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.servers.http_server import HttpServer, Reply, Request

KEY = "sk-test-secret"


def error(message: str, kind: str, param: str | None = None, code: str | None = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass
class FakeOpenai(HttpServer):
    """Answers every prompt with `words`. Tests set its faults as attributes."""

    handler: Any = None
    ids: list[str] = field(default_factory=lambda: ["gpt-4o-mini", "text-model"])
    words: list[str] = field(default_factory=lambda: ["Hel", "lo", "!"])
    finish_reason: str | None = "stop"
    says_done: bool = True
    has_usage: bool = True
    needs_key: bool = False
    has_models: bool = True
    completions: str = "yes"
    "yes, no (404 from the router), or chat-only (404 for the model, as OpenAI responds)."
    refuses: tuple[str, ...] = ()
    "Parameters rejected with 400."
    breaks_after: int | None = None
    fails_after: int | None = None
    hangs_after: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.handler = self._route

    async def _route(self, request: Request, reply: Reply) -> None:
        if self.needs_key and request.headers.get("authorization") != f"Bearer {KEY}":
            body = error(
                "Incorrect API key provided.", "invalid_request_error", None, "invalid_api_key"
            )
            await reply.json(body, 401)
        elif (request.method, request.path) == ("GET", "/v1/models") and self.has_models:
            rows = [
                {"id": i, "object": "model", "created": 1686935002, "owned_by": "openai"}
                for i in self.ids
            ]
            await reply.json({"object": "list", "data": rows})
        elif request.path == "/v1/chat/completions":
            await self._complete(request, reply, is_chat=True)
        elif request.path == "/v1/completions" and self.completions != "no":
            await self._complete(request, reply, is_chat=False)
        else:
            await reply.json({"detail": "Not Found"}, 404)

    async def _complete(self, request: Request, reply: Reply, *, is_chat: bool) -> None:
        body = request.json()
        if body["model"] not in self.ids:
            text = f"The model `{body['model']}` does not exist"
            await reply.json(error(text, "invalid_request_error", None, "model_not_found"), 404)
            return
        if not is_chat and self.completions == "chat-only":
            text = "This is a chat model and not supported in the v1/completions endpoint."
            await reply.json(error(text, "invalid_request_error", "model"), 404)
            return
        for param in self.refuses:
            if param in body:
                text = f"Unsupported parameter: '{param}' is not supported with this model."
                if param == "max_tokens":
                    text += " Use 'max_completion_tokens' instead."
                await reply.json(
                    error(text, "invalid_request_error", param, "unsupported_parameter"), 400
                )
                return
        await reply.start("text/event-stream; charset=utf-8")
        for i in range(len(self.words) + 1):
            if self.hangs_after == i:
                await asyncio.Event().wait()
            if self.breaks_after == i:
                reply.break_off()
                return
            if self.fails_after == i:
                await self._event(reply, error("The server had an error", "server_error"))
                await reply.end()
                return
            if i < len(self.words):
                await self._event(reply, self._chunk(body, self.words[i], None, is_chat))
                await reply.part(b": keep-alive\n\n")
        if self.finish_reason is not None:
            await self._event(reply, self._chunk(body, None, self.finish_reason, is_chat))
        if self.has_usage and "stream_options" in body:
            usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
            last = self._chunk(body, None, None, is_chat)
            await self._event(reply, {**last, "choices": [], "usage": usage})
        if self.says_done:
            await reply.part(b"data: [DONE]\n\n")
        await reply.end()

    async def _event(self, reply: Reply, value: Any) -> None:
        text = b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\r\n\r\n"
        await reply.part(text[:20])
        await reply.part(text[20:])

    def _chunk(
        self, body: dict[str, Any], text: str | None, reason: str | None, is_chat: bool
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
        if is_chat:
            choice["delta"] = {} if text is None else {"content": text}
        else:
            choice["text"] = text or ""
        return {
            "id": "chatcmpl-123",
            "object": "chat.completion.chunk" if is_chat else "text_completion",
            "created": 1694268190,
            "model": body["model"],
            "choices": [choice],
            "usage": None,
        }
