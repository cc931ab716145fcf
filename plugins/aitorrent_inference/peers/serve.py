"""Answers peers: the handlers of `/ai-torrent/1/generate`, `count-tokens` and `embed`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from aitorrent_inference.peers.calls import PeerCalls, write
from aitorrent_inference.peers.generate_protocol import Timing, decode_request, last_line, text_line
from aitorrent_inference.peers.measure_protocol import (
    count_line,
    decode_embed_request,
    embed_last_line,
    vector_line,
)
from aitorrent_inference.routing.answer import Answer
from aitorrent_inference.routing.router import Router
from aitorrentd.api import Clock, Protection, Stream
from aitorrentd.api.limits import Slots
from aitorrentd.api.models.call_parts import CallSteps

_NS: Final = 1_000_000_000


class GenerateHandler(PeerCalls):
    """Answers prompts; at most `max_concurrent` calls of peers run at once."""

    def __init__(
        self,
        router: Router,
        *,
        max_concurrent: int,
        clock: Clock,
        log: logging.Logger,
        protection: Callable[[], Protection | None],
    ) -> None:
        super().__init__(Slots(max_concurrent), log=log, protection=protection)
        self._router = router
        self._clock = clock
        self.counting = CountHandler(router, self.slots, log=log, protection=protection)
        self.embedding = EmbedHandler(router, self.slots, log=log, protection=protection)

    async def answer(self, stream: Stream, asked: bytes) -> None:
        """Stream an answer."""
        request = decode_request(asked)
        answer, calls = Answer(), CallSteps()
        async with aclosing(self._router.generate_for_peer(request, answer)) as chunks:
            async for chunk in chunks:
                model = request.model or answer.model
                steps = [step for each in calls.around(chunk) for step in each]
                if chunk.text or chunk.thinking or chunk.logprobs or steps:
                    await write(stream, text_line(model, self._clock.time(), chunk, steps))
                if chunk.done:
                    timing = self._timing(answer)
                    # The last line has all calls, for peers that know no parts.
                    last = replace(chunk, tool_calls=answer.calls)
                    await write(stream, last_line(model, self._clock.time(), last, timing))

    def _timing(self, answer: Answer) -> Timing:
        now = self._clock.monotonic()
        first = answer.first_token_s or now
        return Timing(
            total=round((now - answer.began_s) * _NS),
            prompt_eval=round((first - answer.began_s) * _NS),
            evaluation=round((now - first) * _NS),
        )


class _Measuring(PeerCalls):
    def __init__(
        self,
        router: Router,
        slots: Slots,
        *,
        log: logging.Logger,
        protection: Callable[[], Protection | None],
    ) -> None:
        super().__init__(slots, log=log, protection=protection)
        self._router = router


class CountHandler(_Measuring):
    """Counts the tokens of prompts."""

    async def answer(self, stream: Stream, asked: bytes) -> None:
        """One line with the count."""
        tokens = await self._router.count_tokens_for_peer(decode_request(asked))
        await write(stream, count_line(tokens))


class EmbedHandler(_Measuring):
    """Turns texts into vectors."""

    async def answer(self, stream: Stream, asked: bytes) -> None:
        """A line for each vector, and a last one."""
        found = await self._router.embed_for_peer(decode_embed_request(asked))
        for vector in found.vectors:
            await write(stream, vector_line(vector))
        await write(stream, embed_last_line(found.tokens))
