"""The `shards` backend: answers prompts with models that are spread over peers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.coordinator import Coordinator
from aitorrent_shards.local import LocalModel
from aitorrent_shards.sampler import Sampling
from aitorrent_shards.session import AnswerJournal, room_for
from aitorrent_shards.spans import Span, alike, gaps
from aitorrent_shards.tokenize import THREAD_ABOVE_CHARS, ModelTokenizer
from aitorrentd.api import (
    Busy,
    Chunk,
    GenerateRequest,
    ModelView,
    NotFound,
    PeerId,
    SamplingParams,
    Unavailable,
    short,
)


class ShardsBackend:
    """Answers with any configured model whose layers are all held somewhere."""

    def __init__(
        self,
        models: Mapping[str, LocalModel],
        coordinator: Coordinator,
        config: ShardsConfig,
        rng: random.Random,
        *,
        node_id: PeerId,
        spans: Callable[[], list[Span]],
    ) -> None:
        self.answering = 0
        "Answers under way."
        self._models, self._coordinator, self._config = models, coordinator, config
        self._rng, self._node_id, self._spans = rng, node_id, spans

    @property
    def name(self) -> str:
        """`shards`."""
        return "shards"

    async def models(self) -> Sequence[ModelView]:
        """The configured models whose layers are all held by reachable nodes.

        Raises:
            Unavailable: models are configured and none can answer; says for each of them why.
        """
        spans = self._spans()
        views = []
        for model in self._models.values():
            held = self.covered(model, spans)
            if held is None or model.files is None:
                continue
            views.append(
                ModelView(
                    name=model.entry.name,
                    backend=self.name,
                    size_bytes=model.files.size_bytes or None,
                    family=model.files.family,
                    context_length=model.files.context,
                    detail=self._detail(held),
                )
            )
        if self._models and not views:
            raise Unavailable("; ".join(self._lacks(m, spans) for m in self._models.values()))
        return views

    def _lacks(self, model: LocalModel, spans: Sequence[Span]) -> str:
        """Why a model without all of its layers cannot answer."""
        name, holder = model.entry.name, model.holder
        try:
            files, _ = model.ready()
        except Unavailable as e:
            return e.message
        usable = (s for s in spans if model.accepts(s) and s.layers == files.layers)
        missing = min((gaps(g, 0, files.layers) for g in alike(usable)), key=_total, default=[])
        missing = missing or [(0, files.layers)]
        reasons = []
        if holder is not None and holder.span is None:
            own = f"layers {holder.start}-{holder.end} of {name}"
            if holder.state in ("starting", "loading"):
                reasons.append(f"{own} are being loaded here; try again soon")
            else:
                reasons.append(f"{own} cannot be loaded here: {holder.problem}")
            missing = [
                part
                for start, end in missing
                for part in ((start, min(end, holder.start)), (max(start, holder.end), end))
                if part[0] < part[1]
            ]
        if missing:
            ranges = ", ".join(f"{start}-{end}" for start, end in missing)
            reasons.append(f"nobody reachable holds layers {ranges} of {name}")
        return "; ".join(reasons)

    def covered(self, model: LocalModel, spans: Sequence[Span]) -> list[Span] | None:
        """The spans that together hold every layer of a model, or None."""
        if model.files is None:
            return None
        layers = model.files.layers
        for group in alike(s for s in spans if model.accepts(s) and s.layers == layers):
            if not gaps(group, 0, layers):
                return sorted(group, key=lambda s: (s.start, s.end, s.peer))
        return None

    def _detail(self, spans: Sequence[Span]) -> str:
        def who(span: Span) -> str:
            return "this node" if span.peer == self._node_id else short(span.peer)

        return f"{spans[0].dtype}; " + ", ".join(f"{s.start}-{s.end} {who(s)}" for s in spans)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """The answer; closing the iterator frees every stage.

        Raises:
            NotFound: no such model here. InvalidParams: the prompt does not fit. Busy: too many
            answers, or no room at a stage. Unavailable: layers without a holder.
        """
        model = self._pick(request.model)
        files, _ = model.ready()
        tokenizer = model.tokenizer
        if tokenizer is None:  # `ready` means that it was loaded
            raise NotFound(f"model {model.entry.name} has no tokenizer")
        if self.answering >= self._config.max_answers:
            raise Busy(f"{self.answering} answers are under way on this node; try again later")
        self.answering += 1
        try:
            prompt = await _encode(tokenizer, request)
            params = request.params
            journal = AnswerJournal(
                prompt=prompt,
                sampling=self._sampling(params, tokenizer),
                max_tokens=room_for(
                    len(prompt), params.max_tokens, files.context, model=model.entry.name
                ),
                stop_ids=tokenizer.end_ids,
                vocab=files.vocab,
            )
            ring = self._coordinator.ring(model, journal.max_positions)
            chunks = self._coordinator.answer(
                ring, journal, tokenizer.detokenizer(prompt), params.stop
            )
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        finally:
            self.answering -= 1

    def _pick(self, name: str) -> LocalModel:
        if not self._models:
            raise NotFound("no models are configured; add one to plugins.shards.models")
        if not name:
            return next(iter(self._models.values()))
        if name not in self._models:
            known = ", ".join(self._models)
            raise NotFound(f"no model {name!r} here; there are: {known}")
        return self._models[name]

    def _sampling(self, params: SamplingParams, tokenizer: ModelTokenizer) -> Sampling:
        """The request's wishes over the model's recommendations."""
        usual = tokenizer.defaults
        return Sampling(
            temperature=usual.temperature if params.temperature is None else params.temperature,
            top_k=usual.top_k if params.top_k is None else params.top_k,
            top_p=usual.top_p if params.top_p is None else params.top_p,
            seed=self._rng.getrandbits(63) if params.seed is None else params.seed,
        )


def _total(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in ranges)


async def _encode(tokenizer: ModelTokenizer, request: GenerateRequest) -> tuple[int, ...]:
    messages = [{"role": m.role, "content": m.content} for m in request.messages or ()]
    size = len(request.prompt or "") + sum(len(m["content"]) for m in messages)
    context = request.params.context or ()
    encode = partial(tokenizer.encode, request.prompt, messages, context, raw=request.raw)
    return (
        encode() if size + len(context) <= THREAD_ABOVE_CHARS else await asyncio.to_thread(encode)
    )
