"""The router: an answer from the first candidate that can give one.

If a candidate fails before its first output, the next one is tried; after that its error ends the
answer. An incomplete answer never ends as if it were complete.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import replace
from functools import partial
from typing import TypeVar

from aitorrent_inference.catalogue import Candidate, Catalogue
from aitorrent_inference.metrics import PEER, GenerationMetrics
from aitorrent_inference.peers.backend import PeerBackend
from aitorrent_inference.routing.answer import Answer, whole
from aitorrent_inference.routing.embedders import Embedders
from aitorrent_inference.routing.measuring import (
    first,
    is_peer,
    summary,
    tokens_of,
    vectors_of,
    who,
)
from aitorrent_inference.routing.race import Race, speaks
from aitorrent_inference.routing.seats import Seats
from aitorrent_inference.routing.waiting import until_loaded
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Chunk,
    Clock,
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    GenerationEnded,
    InvalidParams,
    ModelView,
    PendingModel,
    Unavailable,
)

T = TypeVar("T")


class Router:
    """The `Inference` service."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        seats: Seats,
        clock: Clock,
        publish: Callable[[Event], None],
        log: logging.Logger,
        work: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`seats` limits the answers for this machine. `work` is entered for each answer; if it
        raises, the answer does not start."""
        self.catalogue = catalogue
        self.embedders = Embedders(catalogue)
        self.seats = seats
        self._clock = clock
        self._publish = publish
        self._log = log
        self._work = work
        self.metrics = GenerationMetrics()

    async def default_model(self) -> str:
        """The model that an empty name means; empty while none can answer."""
        return await self.catalogue.default_model()

    async def models(self) -> Sequence[ModelView]:
        """Models of all local backends, then those that peers offer."""
        return await self.catalogue.models()

    def generate(
        self,
        request: GenerateRequest,
        *,
        backend: str | None = None,
        discover: bool = False,
        parallel: int = 1,
        wait_s: float = 0,
        wait_incomplete: bool = False,
        answer: Answer | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Answer this machine from the best backend or peer, or from the named one.

        `discover` restricts candidates to peers in the directory. `parallel` queries that many at
        once and takes the first to produce output. Waits at most `wait_s` seconds for a loading
        model, or with `wait_incomplete` also for one that lacks layers, yielding a chunk with a
        `notice` several times per second. `answer` is filled while the iterator runs. Errors as in
        `Backend.generate`; Busy if too many wait for a seat; ShuttingDown while the node drains;
        TimedOut after `wait_s`.
        """
        meant = partial(
            self.catalogue.loading,
            request.model,
            backend,
            discover=discover,
            incomplete=wait_incomplete,
        )

        def find() -> Awaitable[list[Candidate]]:
            with_gone = not (wait_incomplete and meant())
            return self.catalogue.candidates(
                request.model, backend, discover=discover, with_gone=with_gone
            )

        return self._generate(
            request,
            find,
            answer if answer is not None else Answer(),
            parallel,
            self.seats,
            meant,
            wait_s,
        )

    def generate_for_peer(
        self, request: GenerateRequest, answer: Answer
    ) -> AsyncGenerator[Chunk, None]:
        """Answer a peer: only from local backends, so that a prompt never loops, and only with
        offered models. The caller enforces its slots."""
        return self._generate(
            request, lambda: self.catalogue.offered_candidates(request.model), answer, 1, None
        )

    async def count_tokens(self, request: GenerateRequest, *, backend: str | None = None) -> int:
        """Tokens of the prompt, as whoever would answer it counts them.

        Raises:
            InvalidParams: that one cannot count, or would refuse the request. Others as `generate`.
        """
        with self._work():
            found = await self.catalogue.candidates(request.model, backend)
            return await self._first(found, partial(tokens_of, request))

    async def count_tokens_for_peer(self, request: GenerateRequest) -> int:
        """As `count_tokens`, only by local backends and for offered models."""
        with self._work():
            found = await self.catalogue.offered_candidates(request.model)
            return await self._first(found, partial(tokens_of, request))

    async def embedding_models(self) -> Sequence[ModelView]:
        """Embedding models of local backends, then those that peers offer."""
        return await self.embedders.models()

    async def embed(self, request: EmbedRequest, *, backend: str | None = None) -> Embeddings:
        """The texts as vectors of the best or the named backend or peer; counts as an answer.

        Raises:
            NotFound, InvalidParams: as `Embedders.candidates`. Others as `generate`.
        """
        async with self._seated(self.seats):
            found = await self.embedders.candidates(request.model, backend)
            return await self._first(found, partial(vectors_of, request))

    async def embed_for_peer(self, request: EmbedRequest) -> Embeddings:
        """As `embed`, only by local backends and with offered models."""
        with self._work():
            found = await self.embedders.offered_candidates(request.model)
            return await self._first(found, partial(vectors_of, request))

    @asynccontextmanager
    async def _seated(self, seats: Seats | None) -> AsyncIterator[None]:
        """While the block runs, have a seat, if they are limited, and count as work."""
        with self._work():
            pass  # a node that drains refuses at once, and not after the queue
        async with AsyncExitStack() as held:
            if seats is not None:
                with self.metrics.waiting():
                    await held.enter_async_context(seats.taken())
            held.enter_context(self._work())
            yield

    async def _first(
        self, candidates: Sequence[Candidate], ask: Callable[[Candidate], Awaitable[T]]
    ) -> T:
        return await first(candidates, ask, catalogue=self.catalogue, log=self._log)

    async def _generate(
        self,
        request: GenerateRequest,
        find: Callable[[], Awaitable[list[Candidate]]],
        answer: Answer,
        parallel: int,
        seats: Seats | None,
        loading: Callable[[], Sequence[PendingModel]] = tuple,
        wait_s: float = 0,
    ) -> AsyncGenerator[Chunk, None]:
        monotonic = self._clock.monotonic
        answer.model = request.model
        answer.asked_s = answer.began_s = monotonic()
        reason = "error"
        candidates: list[Candidate] = []
        try:
            with self._work():
                pass  # refuse at once while draining; waiting for a model must not delay shutdown
            waiting = until_loaded(find, loading, wait_s, candidates)
            with self.metrics.waiting():
                async with aclosing(waiting) as notices:
                    async for notice in notices:
                        yield notice
                        answer.began_s = monotonic()
            async with self._seated(seats):
                answer.began_s = monotonic()
                attempts = self._attempts(request, candidates, answer, parallel)
                with self.metrics.answering():
                    async with aclosing(attempts) as it:
                        async for chunk in it:
                            answer.take(chunk, monotonic())
                            if chunk.done:
                                chunk = replace(chunk, extra={**chunk.extra, **answer.timings()})
                                answer.last = chunk
                                reason = chunk.reason or "stop"
                                if chunk.warning:
                                    self._log.warning(
                                        "answer by %s: %s", answer.backend, chunk.warning
                                    )
                            yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            if answer.last is None:
                reason = "cancelled"
            raise
        except Busy:
            if not answer.tokens:
                reason = "busy"
            raise
        finally:
            self._note_end(answer, reason)

    def _note_end(self, answer: Answer, reason: str) -> None:
        # Of an answer that was cut off, what came of it counts.
        last = answer.last or Chunk("", completion_tokens=answer.tokens)
        first_s = answer.first_token_s if answer.tokens else None
        ended = GenerationEnded(
            model=answer.model,
            backend=answer.backend,
            reason=reason,
            prompt_tokens=last.prompt_tokens,
            completion_tokens=last.completion_tokens,
            took_s=self._clock.monotonic() - answer.began_s,
            first_token_s=None if first_s is None else first_s - answer.began_s,
            queue_s=answer.began_s - answer.asked_s,
            cached_tokens=whole(last.extra.get("cached_tokens")),
            stages=last.stages,
        )
        self.metrics.ended(ended, answer.backend_label)
        self._publish(ended)

    async def _attempts(
        self,
        request: GenerateRequest,
        candidates: list[Candidate],
        answer: Answer,
        parallel: int,
    ) -> AsyncGenerator[Chunk, None]:
        errors: list[AitorrentError] = []
        count = min(max(parallel, 1), len(candidates))
        groups = [candidates[:count], *([c] for c in candidates[count:])]
        for group in groups:
            has_begun = spoke = False
            chunks: AsyncIterator[Chunk] | None = None
            try:
                chunks, race = self._ask(request, group)
                async for chunk in chunks:
                    if not has_begun:
                        has_begun = True
                        self._note_begin(answer, request, group[race.winner if race else 0])
                    spoke = spoke or speaks(chunk)
                    yield chunk
                    if chunk.done:
                        return
                raise Unavailable(f"{who(group[0])} ended its answer without a reason")
            except AitorrentError as e:
                self._note_failure(group, answer, e, spoke=spoke)
                if spoke or (isinstance(e, InvalidParams) and not is_peer(group[0])):
                    raise  # peers are exempt: another may accept what one calls invalid
                errors.append(e)
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
        raise self._explained(candidates, errors, answer.failures)

    def _explained(
        self,
        candidates: Sequence[Candidate],
        errors: Sequence[AitorrentError],
        failures: Sequence[str],
    ) -> AitorrentError:
        """The error of an answer that no candidate could give. If only peers were left to ask, it
        says first what this node lacks."""
        error = summary(errors, failures)
        if isinstance(error, Busy | InvalidParams) or not all(map(is_peer, candidates)):
            return error
        lacking = self.catalogue.lacking(candidates[0].model)
        return Unavailable(f"{lacking}; {error.message}", **error.data) if lacking else error

    def _ask(
        self, request: GenerateRequest, group: Sequence[Candidate]
    ) -> tuple[AsyncIterator[Chunk], Race | None]:
        streams = [c.backend.generate(request.model_copy(update={"model": c.model})) for c in group]
        if len(group) == 1:
            return streams[0], None
        race = Race([c.backend.name for c in group], streams)
        return race.chunks(), race

    def _note_begin(self, answer: Answer, request: GenerateRequest, candidate: Candidate) -> None:
        answer.backend = candidate.backend.name
        answer.backend_label = PEER if is_peer(candidate) else answer.backend
        answer.gaps = self.metrics.gaps(answer.backend_label)
        answer.model = candidate.model or request.model

    def _note_failure(
        self, group: list[Candidate], answer: Answer, error: AitorrentError, *, spoke: bool
    ) -> None:
        for candidate in group:
            if spoke and candidate.backend.name != answer.backend:
                continue
            name = who(candidate)
            text = error.message if error.message.startswith(name) else f"{name}: {error.message}"
            answer.failures.append(text)
            self._log.debug("failed: %s", text)
            if isinstance(candidate.backend, PeerBackend) and not isinstance(error, InvalidParams):
                self.catalogue.distrust(candidate.backend.peer)
