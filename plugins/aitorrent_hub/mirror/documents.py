"""`/api/models/org/name/…`: what the Hub says about a repository, without what would lead clients
away from the mirror, and kept for the time when the Hub is down.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aitorrent_hub.files.memory import Memory
from aitorrent_hub.mirror import replies
from aitorrent_hub.mirror.passing import mirror_of, passed_body
from aitorrent_hub.mirror.requests import Asked, Request
from aitorrent_hub.upstream.asking import Hub
from aitorrent_hub.upstream.headers import Pairs, for_client, token_of
from aitorrentd.api import TimedOut, Unavailable
from aitorrentd.api.faces.asgi import Receive, Send

MAX_DOCUMENT_BYTES: Final = 32 * 2**20
_MAX_KEPT_BYTES: Final = 8 * 2**20
_KEPT: Final = ("content-type", "link", "x-repo-commit", "x-linked-size")
_XET: Final = ("xetHash", "xetEnabled")


class DocumentAnswers:
    """Answers to requests for documents."""

    def __init__(self, hub: Hub, memory: Memory) -> None:
        self._hub = hub
        self._memory = memory

    async def answer(self, request: Request, asked: Asked, send: Send, receive: Receive) -> None:
        """Answer a request."""
        try:
            status, headers, body = await self._ask(request, receive)
        except (Unavailable, TimedOut) as e:
            kept = await self._kept(request, asked)
            if kept is None:
                await replies.fail(send, e)
                return
            status, headers, body = kept
        else:
            if status == 429 and (kept := await self._kept(request, asked)) is not None:
                status, headers, body = kept
            elif 200 <= status < 300:
                body = await self._read(request, asked, status, headers, body)
        told = for_client(headers, upstream=self._hub.origin, mirror=mirror_of(request))
        await replies.reply(send, status, told, b"" if request.method == "HEAD" else body)

    async def _ask(self, request: Request, receive: Receive) -> tuple[int, Pairs, bytes]:
        client = await self._hub.client()
        sent = [(n, v) for n, v in request.headers if n != "accept-encoding"]
        sent.append(("accept-encoding", "identity"))
        body = passed_body(request, receive)
        async with client.opened(request.method, request.target, sent, body=body) as answer:
            if answer.status >= 500:
                raise Unavailable(f"the Hub answers with status {answer.status}")
            read = await answer.body(MAX_DOCUMENT_BYTES)
            if read is None:
                raise Unavailable(f"the Hub's answer has over {MAX_DOCUMENT_BYTES} bytes")
            return answer.status, answer.headers, read

    async def _read(
        self, request: Request, asked: Asked, status: int, headers: Pairs, body: bytes
    ) -> bytes:
        """The body without Xet; the document is kept if it is public."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return body
        if _without_xet(value):
            body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        if request.method != "GET":
            return body
        is_public = await self._memory.visible_at(asked.repo) is not None
        if asked.what == "revision" and isinstance(value, dict):
            told = value.get("private"), value.get("gated")
            is_public = told == (False, False)
            if is_public:
                await self._memory.keep_visible(asked.repo)
            elif None not in told:
                await self._memory.forget(asked.repo)
        if (is_public or not token_of(request.headers)) and len(body) <= _MAX_KEPT_BYTES:
            kept = [pair for pair in headers if pair[0].lower() in _KEPT]
            await self._memory.keep_document(request.target, asked.repo, status, kept, body)
        return body

    async def _kept(self, request: Request, asked: Asked) -> tuple[int, Pairs, bytes] | None:
        if request.method != "GET" or await self._memory.visible_at(asked.repo) is None:
            return None
        return await self._memory.document(request.target)


def _without_xet(value: Any) -> bool:
    """Remove what leads to the Xet storage from entries; whether anything was there."""
    found = False
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, dict):
            for name in _XET:
                found |= entry.pop(name, None) is not None
            siblings = entry.get("siblings")
            if isinstance(siblings, list):
                found |= _without_xet(siblings)
    return found
