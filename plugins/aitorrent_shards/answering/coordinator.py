"""One answer: prefill, then decoding through the ring; every token is chosen here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from aitorrent_shards.answering.logprobs import Scorer
from aitorrent_shards.answering.output import Output
from aitorrent_shards.answering.sampler import choose
from aitorrent_shards.answering.transcript import Transcript
from aitorrent_shards.chats.pieces import Piece
from aitorrent_shards.node_services import Demand, NodeServices
from aitorrent_shards.protocol.messages import Candidates, Want
from aitorrent_shards.ring.repair import Waiting
from aitorrent_shards.ring.ring import THREAD_ABOVE, Ring
from aitorrent_shards.serving.local_model import LocalModel
from aitorrentd.api import Chunk, ProtocolError
from aitorrentd.api.models.inference import DoneReason
from aitorrentd.api.models.logprobs import TokenLogprob

T = TypeVar("T")

MORE_K: Final = (1024, 0)
"Candidate counts to request when the first ones are not enough; 0 = all."
_CUT: Final = "the answer ended inside a call of a tool, which is not complete; raise max_tokens"


class Coordinator:
    """Produces one answer: owns its transcript and the ring that computes it."""

    def __init__(
        self,
        node: NodeServices,
        model: LocalModel,
        transcript: Transcript,
        output: Output,
        scorer: Scorer | None = None,
        *,
        may_think: bool = False,
    ) -> None:
        """`scorer` gives the tokens' log-probabilities, if requested; `may_think`: reasoning may
        come before an answer that has a grammar.

        Raises:
            Unavailable: the model's files are still being read.
        """
        files, _ = model.ready()
        self._scorer = scorer
        self._scores: list[TokenLogprob] = []
        "Of tokens whose text has not been sent."
        self._node, self._transcript, self._output = node, transcript, output
        self._may_think = may_think
        demand = Demand(
            model=model.entry.name,
            layers=files.layers,
            vocab=files.vocab,
            max_positions=transcript.max_positions,
            prompt_positions=len(transcript.prompt),
            accepts=model.accepts,
        )
        self._ring = Ring(node, demand)

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The answer's chunks; closes the ring at the end, or when this iterator is closed.

        Raises:
            Busy, Unavailable: no stages, or layers were lost permanently.
        """
        ring, transcript, clock = self._ring, self._transcript, self._node.clock
        output = self._output
        began = clock.monotonic()
        first_s = 0.0
        prompt_tokens, has_begun = len(transcript.prompt), False
        pending: list[int] = []
        reason: DoneReason | None = None
        try:
            await ring.open()
            for message in transcript.prefill(chunk=self._node.config.prefill_chunk):
                ring.send(message)
            while not reason:
                transcript.is_free = output.is_thinking
                transcript.also = output.opening if self._may_think else frozenset()
                try:
                    token, score = await self._next()
                except Waiting as e:
                    yield Chunk("", notice=str(e))
                    continue
                first_s = first_s or clock.monotonic() - began
                reason = transcript.commit(token)
                if not reason:
                    ring.send(transcript.step())  # computed while the caller reads this token
                pending.append(token)
                is_end = token in transcript.stop_ids
                if score is not None and not is_end and not output.is_hidden:
                    self._scores.append(score)
                for piece in () if is_end else output.push(token):
                    chunk = self._chunk(piece, pending)
                    yield chunk if has_begun else replace(chunk, prompt_tokens=prompt_tokens)
                    has_begun = True
                if output.is_hidden:
                    self._scores.clear()
                if output.stopped:
                    reason = "stop"
            for piece in output.finish():
                yield self._chunk(piece, pending)
            yield self._last(pending, reason, first_s, clock.monotonic() - began)
        finally:
            await ring.close()

    async def _next(self) -> tuple[int, TokenLogprob | None]:
        """The next token, and its log-probability if requested; the choice is final.

        Raises:
            Waiting: as Ring.answer; call again.
        """
        ring, transcript = self._ring, self._transcript
        await _off_loop(transcript.constrain, transcript.vocab)  # while the stages compute
        length = len(transcript.prompt) + len(transcript.committed)
        candidates = await ring.answer(length)
        more = 0
        while True:
            try:
                token = transcript.forced()
                if token is None:
                    token = await _choose(candidates, transcript)
                    if token is not None and not transcript.takes(token):
                        token = transcript.forced()
                        token = await _choose(candidates, transcript) if token is None else token
                if token is not None:
                    score = await self._score(token, candidates, length)
                    ring.commit(length)
                    return token, score
            except ProtocolError as e:
                candidates = await ring.reject(length, e.message)
                continue
            want = Want(MORE_K[min(more, 1)], transcript.sampling.temperature)
            more += 1
            candidates = await ring.more(length, want)

    async def _score(self, token: int, candidates: Candidates, length: int) -> TokenLogprob | None:
        if self._scorer is None:
            return None
        want = self._scorer.lacks(token, candidates, self._transcript.vocab)
        plain = candidates if want is None else await self._ring.more(length, want)
        return self._scorer.score(token, candidates, plain)

    def _take_scores(self) -> tuple[TokenLogprob, ...]:
        taken = tuple(self._scores)
        self._scores.clear()
        return taken

    def _chunk(self, piece: Piece, pending: list[int]) -> Chunk:
        tokens = tuple(pending)
        pending.clear()
        return Chunk(
            piece.text,
            thinking=piece.thinking,
            tool_calls=() if piece.call is None else (piece.call,),
            call_parts=() if piece.part is None else (piece.part,),
            token_ids=tokens,
            logprobs=self._take_scores() if piece.text else (),
        )

    def _last(
        self, pending: list[int], reason: DoneReason, first_s: float, whole_s: float
    ) -> Chunk:
        ring, transcript, output = self._ring, self._transcript, self._output
        reason = "stop" if output.stopped else reason
        if reason == "stop" and output.calls:
            reason = "tool_calls"
        count = len(transcript.committed)
        decode_s = max(whole_s - first_s, 0.0)
        hidden = output.reasoning_tokens
        return Chunk(
            "",
            done=True,
            reason=reason,
            warning=_CUT if output.is_cut else "",
            prompt_tokens=len(transcript.prompt),
            completion_tokens=count,
            context=(*transcript.prompt, *transcript.committed),
            stages=ring.views(),
            token_ids=tuple(pending),
            logprobs=self._take_scores(),
            extra={
                "ttft_s": first_s,
                "decode_s": decode_s,
                "hop_us": ring.hop_us(),
                "stop_text": output.stop_text,
                "tokens_per_s": (count - 1) / decode_s if count > 1 and decode_s > 0 else 0.0,
                **({"reasoning_tokens": hidden} if hidden else {}),
            },
        )


async def _choose(candidates: Candidates, transcript: Transcript) -> int | None:
    pick = partial(
        choose, candidates, transcript.sampling, vocab=transcript.vocab, edits=transcript.edits
    )
    return await _off_loop(pick, len(candidates.ids))


async def _off_loop(work: Callable[[], T], tokens: int) -> T:
    """The result of `work`, done in a thread if so many tokens would block the event loop."""
    return work() if tokens <= THREAD_ABOVE else await asyncio.to_thread(work)
