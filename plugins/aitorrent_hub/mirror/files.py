"""`/org/name/resolve/REVISION/PATH`: files, as the Hub describes them, from wherever they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial

from aitorrent_hub.files.describing import Describing, Refused
from aitorrent_hub.files.sources import Sources
from aitorrent_hub.mirror import replies
from aitorrent_hub.mirror.ranges import NoSuchPart, Part, part_of
from aitorrent_hub.mirror.requests import Request
from aitorrent_hub.upstream.asking import Hub
from aitorrent_hub.upstream.described import Described, Place, head_of, size_of, target_of
from aitorrent_hub.upstream.headers import Pairs
from aitorrentd.api import AitorrentError
from aitorrentd.api.faces.asgi import Receive, Send


class FileAnswers:
    """Answers to requests for files."""

    def __init__(self, hub: Hub, describing: Describing, sources: Sources) -> None:
        self._hub = hub
        self._describing = describing
        self._sources = sources

    async def answer(self, request: Request, place: Place, send: Send, receive: Receive) -> None:
        """Answer a GET or HEAD.

        Raises:
            Aborted: the answer cannot be completed.
        """
        try:
            is_head = request.method == "HEAD"
            file, is_public = await self._describing.describe(
                place, request.headers, is_head=is_head
            )
            place = replace(place, revision=file.commit)  # a branch may move while it is sent
            if is_head:
                await self._head(file, send)
            elif not file.digest:
                await self._unverified(request, place, file, send, receive)
            else:
                await self._get(request, place, file, is_public, send, receive)
        except Refused as e:
            message = dict(e.headers).get("X-Error-Message") or f"the Hub answers {e.status}"
            await replies.explain(send, e.status, message, e.headers)
        except AitorrentError as e:  # raised before the answer has begun
            await replies.fail(send, e)

    async def _head(self, file: Described, send: Send) -> None:
        await replies.start(send, 200, [*head_of(file), *size_of(file)])
        await replies.end(send)

    async def _get(
        self,
        request: Request,
        place: Place,
        file: Described,
        is_public: bool,
        send: Send,
        receive: Receive,
    ) -> None:
        opened = partial(self._hub.file, target_of(place), request.headers)
        size = await self._sources.size(file, opened)
        try:
            part = self._part(request, file, size)
        except NoSuchPart:
            told = [*head_of(file), ("Content-Range", f"bytes */{size}")]
            await replies.reply(send, 416, told)
            return
        headers = _headers(file, part, size)
        if part.stop < size and await self._sources.here(file) is None:
            # It cannot be verified, and waiting for all before it would take too long.
            parts = self._passed(request, place, part)
        else:
            public = place if is_public else None
            parts = self._sources.read(file, public, opened, part.start, part.stop)
        status = 200 if part.is_whole else 206
        first = await anext(parts, b"")
        await replies.stream(send, receive, status, headers, first, parts)

    def _part(self, request: Request, file: Described, size: int) -> Part:
        wanted = request.range
        condition = request.asks.get("if-range", "")
        if condition and condition.strip('"') != file.etag:
            wanted = ""
        part = part_of(size, wanted)
        if part.start and part.stop == size and self._sources.store.may_be_wrong(file.digest):
            return Part(0, size, True)  # who continues may hold wrong bytes: it gets everything
        return part

    async def _passed(
        self, request: Request, place: Place, part: Part
    ) -> AsyncGenerator[bytes, None]:
        target = target_of(place)
        async with self._hub.file(target, request.headers, part.start, part.stop) as body:
            at = body.start
            async for piece in body.parts():
                kept = piece[max(0, part.start - at) : max(0, part.stop - at)]
                at += len(piece)
                if kept:
                    self._sources.sent["hub"] += len(kept)
                    yield kept
                if at >= part.stop:
                    return

    async def _unverified(
        self, request: Request, place: Place, file: Described, send: Send, receive: Receive
    ) -> None:
        """A file of which the Hub names no digest."""

        async def parts() -> AsyncGenerator[bytes, None]:
            async with self._hub.file(target_of(place), request.headers, 0) as body:
                async for piece in body.parts():
                    yield piece

        whole = parts()
        first = await anext(whole, b"")
        await replies.stream(send, receive, 200, head_of(file), first, whole)


def _headers(file: Described, part: Part, size: int) -> Pairs:
    headers = [*head_of(file), ("Content-Length", str(part.stop - part.start))]
    if not part.is_whole:
        headers.append(("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}"))
    return headers
