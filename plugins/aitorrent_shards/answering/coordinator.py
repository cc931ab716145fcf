"""One answer: prefill, then token by token through the ring, each chosen here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

from aitorrent_shards.answering.journal import AnswerJournal
from aitorrent_shards.answering.sampler import choose
from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.models.detokenizer import Detokenizer, StopTexts
from aitorrent_shards.protocol.messages import Candidates, Want
from aitorrent_shards.ring.repair import Waiting
from aitorrent_shards.ring.ring import THREAD_ABOVE, Ring
from aitorrent_shards.serving.local_model import LocalModel
from aitorrent_shards.serving.stage_server import StageServer
from aitorrentd.api import Chunk, Clock, Directory, Event, ProtocolError, Transport

MORE_K: Final = (1024, 0)
"Candidates asked for when the first ones do not decide; 0 = all."


class Coordinator:
    """Makes answers; what they share."""

    def __init__(
        self,
        *,
        transport: Transport,
        directory: Directory,
        stage_server: StageServer,
        config: ShardsConfig,
        clock: Clock,
        log: logging.Logger,
        publish: Callable[[Event], None],
    ) -> None:
        self._transport, self._directory, self._stage_server = transport, directory, stage_server
        self._config, self._clock, self._log, self._publish = config, clock, log, publish

    def ring(self, model: LocalModel, max_positions: int) -> Ring:
        """A ring for one answer of `model`, not opened yet."""
        files, _ = model.ready()
        return Ring(
            transport=self._transport,
            directory=self._directory,
            stage_server=self._stage_server,
            config=self._config,
            clock=self._clock,
            log=self._log,
            publish=self._publish,
            model=model.entry.name,
            layers=files.layers,
            vocab=files.vocab,
            max_positions=max_positions,
            accepts=model.accepts,
        )

    async def answer(
        self, ring: Ring, journal: AnswerJournal, detokenizer: Detokenizer, stops: Sequence[str]
    ) -> AsyncGenerator[Chunk, None]:
        """The answer's chunks; closes the ring at its end, or when it is closed itself.

        Raises:
            Busy, Unavailable: no stages, or layers were lost for good.
        """
        clock, texts = self._clock, StopTexts(stops)
        began = clock.monotonic()
        first_s = 0.0
        pending: list[int] = []
        reason = ""
        try:
            await ring.open()
            for frame in journal.prefill(chunk=self._config.prefill_chunk):
                ring.send(frame)
            while not reason:
                try:
                    token = await self._next(ring, journal)
                except Waiting as e:
                    yield Chunk("", notice=str(e))
                    continue
                first_s = first_s or clock.monotonic() - began
                reason = journal.commit(token)
                if not reason:
                    ring.send(journal.step())  # computed while the caller reads this token
                pending.append(token)
                text = "" if token in journal.stop_ids else texts.push(detokenizer.push(token))
                if texts.stopped:
                    reason = "stop"
                if text:
                    yield Chunk(text, token_ids=tuple(pending))
                    pending.clear()
            text = texts.push(detokenizer.flush()) + texts.flush()
            whole_s = clock.monotonic() - began
            yield _last(ring, journal, text, pending, texts.stopped, first_s, whole_s)
        finally:
            await ring.close()

    async def _next(self, ring: Ring, journal: AnswerJournal) -> int:
        """The next token, decided for good.

        Raises:
            Waiting: as Ring.answer; ask again.
        """
        length = len(journal.prompt) + len(journal.committed)
        candidates = await ring.answer(length)
        more = 0
        while True:
            try:
                token = await _choose(candidates, journal)
            except ProtocolError as e:
                candidates = await ring.reject(length, e.message)
                continue
            if token is not None:
                ring.commit(length)
                return token
            want = Want(MORE_K[min(more, 1)], journal.sampling.temperature)
            more += 1
            candidates = await ring.more(length, want)


async def _choose(candidates: Candidates, journal: AnswerJournal) -> int | None:
    if len(candidates.ids) <= THREAD_ABOVE:
        return choose(candidates, journal.sampling, vocab=journal.vocab)
    return await asyncio.to_thread(choose, candidates, journal.sampling, vocab=journal.vocab)


def _last(
    ring: Ring,
    journal: AnswerJournal,
    text: str,
    pending: list[int],
    stopped: bool,
    first_s: float,
    whole_s: float,
) -> Chunk:
    count = len(journal.committed)
    decode_s = max(whole_s - first_s, 0.0)
    ended = stopped or journal.committed[-1] in journal.stop_ids
    return Chunk(
        text,
        done=True,
        reason="stop" if ended else "length",
        prompt_tokens=len(journal.prompt),
        completion_tokens=count,
        context=(*journal.prompt, *journal.committed),
        stages=ring.views(),
        token_ids=tuple(pending),
        extra={
            "ttft_s": first_s,
            "decode_s": decode_s,
            "hop_us": ring.hop_us(),
            "tokens_per_s": (count - 1) / decode_s if count > 1 and decode_s > 0 else 0.0,
        },
    )
