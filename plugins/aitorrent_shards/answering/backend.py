"""The `shards` backend: answers prompts with models spread across peers."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aitorrent_shards.answering import keeping
from aitorrent_shards.answering.availability import (
    BACKEND,
    LastHeld,
    covering,
    elsewhere,
    held,
    held_text,
    last_held_by_nobody,
    pending,
)
from aitorrent_shards.answering.coordinator import Coordinator
from aitorrent_shards.answering.limits import free_positions, room_for
from aitorrent_shards.answering.logprobs import Scorer
from aitorrent_shards.answering.output import Output
from aitorrent_shards.answering.prompting import Prompting, lacking
from aitorrent_shards.answering.sampler import Sampling
from aitorrent_shards.answering.transcript import Transcript
from aitorrent_shards.models.generation_config import LogitRules
from aitorrent_shards.node_services import NodeServices
from aitorrent_shards.protocol.loading import Loading
from aitorrent_shards.protocol.messages import MIN_TEMPERATURE
from aitorrent_shards.protocol.spans import Span
from aitorrent_shards.serving.local_model import LocalModel
from aitorrentd.api import (
    Busy,
    Chunk,
    GenerateRequest,
    InvalidParams,
    ModelView,
    NotFound,
    PeerId,
    PendingModel,
    SamplingParams,
    Unavailable,
    called,
)
from aitorrentd.api.models.features import Feature

if TYPE_CHECKING:  # at run time it comes with the first model: it takes 6 MiB
    from aitorrent_shards.models.tokenizer import ModelTokenizer

_FEATURES: Final[tuple[Feature, ...]] = (
    "context",
    "continues",
    "count_tokens",
    "format",
    "logit_bias",
    "logprobs",
    "repeat_last_n",
    "think",
    "tool_choice",
    "parallel_tool_calls",
    "tools",
)


class ShardsBackend:
    """Answers with any configured model whose layers all have a holder."""

    def __init__(
        self,
        models: Mapping[str, LocalModel],
        node: NodeServices,
        rng: random.Random,
        *,
        spans: Callable[[], list[Span]],
        loading: Callable[[], list[Loading]] = list,
        name_of: Callable[[PeerId], str] = lambda peer: "",
        other_versions: Callable[[], list[Span]] = list,
        last_holders: LastHeld = last_held_by_nobody,
    ) -> None:
        self.answering = 0
        "Answers in progress."
        self._models, self._node, self._rng, self._spans = models, node, rng, spans
        self._node_id = node.transport.node_id
        self._loading, self._name_of = loading, name_of
        self._other_versions = other_versions
        self._last_holders = last_holders

    @property
    def name(self) -> str:
        """`shards`."""
        return BACKEND

    def features(self) -> frozenset[Feature]:
        """What a split model can do: what follows from choosing its tokens here. Tools and think
        also need a chat template that has them."""
        return frozenset(_FEATURES)

    async def models(self) -> Sequence[ModelView]:
        """The configured models whose layers are all held by reachable nodes.

        Raises:
            Unavailable: models are configured but none can answer; gives the reason for each.
        """
        spans = self._spans_and_resting()
        views = []
        for model in self._models.values():
            spread = self.covering(model, spans)
            if spread is None or model.files is None:
                continue
            resting = model.holder.resting_span if model.holder is not None else None
            there = [span for span in spread if span is not resting]
            detail = f"{spread[0].dtype}; " + held_text(there, self.who)
            if resting is not None:
                detail += "; " * bool(there) + "not in memory here until a request needs it"
            views.append(
                ModelView(
                    name=model.entry.name,
                    backend=self.name,
                    size_bytes=model.files.size_bytes or None,
                    family=model.files.family,
                    context_length=model.files.context,
                    detail=detail,
                    layers=held(there, self._memory),
                    lacks=lacking(model.tokenizer),
                    is_resting=resting is not None,
                    leaves_s=model.holder.rest.left_s() if model.holder is not None else None,
                )
            )
        if self._models and not views:
            raise Unavailable("; ".join(p.detail for p in self.pending() if p.backend == BACKEND))
        return views

    def _spans_and_resting(self) -> list[Span]:
        """The known spans, and those that this node loads again once a request needs them."""
        holders = [model.holder for model in self._models.values()]
        resting = [h.resting_span for h in holders if h is not None and h.resting_span is not None]
        return [*self._spans(), *resting]

    async def load(self, model: str) -> None:
        """As KeepsModels."""
        await keeping.load(self._pick(model))

    async def unload(self, model: str) -> None:
        """As KeepsModels."""
        await keeping.unload(self._pick(model))

    async def keep(self, model: str, idle_s: float | None) -> None:
        """As KeepsModels."""
        keeping.keep(self._pick(model), idle_s)

    def covering(self, model: LocalModel, spans: Sequence[Span]) -> list[Span] | None:
        """The known spans with which a model can answer now, or None."""

        def reaches(sender: PeerId, receiver: PeerId) -> bool:
            return self._node.links.last(sender, receiver) is None

        return covering(model, spans, home=self._node_id, reaches=reaches)

    def pending(self) -> Sequence[PendingModel]:
        """Configured models that lack layers, and models that only peers load."""
        spans, loading = self._spans_and_resting(), self._loading()
        others = self._other_versions()
        found = [
            pending(
                model,
                spans,
                [c for c in loading if c.model == name and c.peer != self._node_id],
                node_id=self._node_id,
                who=self.who,
                links=self._node.links,
                now=self._node.clock.monotonic(),
                memory=self._memory,
                other_versions=others,
                last_holders=self._last_holders,
            )
            for name, model in self._models.items()
        ]
        own = [each for each in found if each is not None]
        return [*own, *elsewhere(loading, self._models, self.who, self._node_id)]

    def who(self, peer: PeerId) -> str:
        """The display name of a node."""
        return "this node" if peer == self._node_id else called(peer, self._name_of(peer))

    def _memory(self, span: Span) -> tuple[int | None, int | None]:
        model = self._models.get(span.model)
        holder = None if model is None or span.peer != self._node_id else model.holder
        return (None, None) if holder is None else (holder.rss_bytes, holder.vram_bytes)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """The answer; closing the iterator frees every stage.

        Raises:
            NotFound: no such model here. InvalidParams: the prompt does not fit, or a parameter is
            not supported. Busy: too many answers in progress, or a stage has no room. Unavailable:
            layers without a holder.
        """
        model = self._pick(request.model)
        prompting = Prompting(request, _tokenizer(model), model=model.entry.name)
        if self.answering >= self._node.config.max_answers:
            raise Busy(f"{self.answering} answers are running on this node; try again later")
        self.answering += 1
        clock, extra = self._node.clock, {}
        asked_s = clock.monotonic()
        try:
            async with keeping.used(model) as notices, aclosing(notices):
                async for notice in notices:
                    yield notice
                    extra["load_duration"] = 0
                if extra:
                    extra["load_duration"] = round((clock.monotonic() - asked_s) * 1e9)
                async with aclosing(self._answer(request, model, prompting)) as chunks:
                    async for chunk in chunks:
                        yield replace(chunk, extra=chunk.extra | extra) if chunk.done else chunk
        finally:
            self.answering -= 1

    async def _answer(
        self, request: GenerateRequest, model: LocalModel, prompting: Prompting
    ) -> AsyncGenerator[Chunk, None]:
        files, _ = model.ready()
        tokenizer = _tokenizer(model)
        prompt = await prompting.encode()
        params, grammar = request.params, await prompting.grammar()
        transcript = Transcript(
            prompt=prompt,
            sampling=self._sampling(params, tokenizer),
            max_tokens=room_for(
                len(prompt),
                params.max_tokens,
                files.context,
                model=model.entry.name,
                settings=tokenizer.generation,
                free=free_positions(self.covering(model, self._spans()) or ()),
            ),
            rules=_rules(params, tokenizer.generation.rules, files.vocab),
            stop_ids=tokenizer.end_ids,
            vocab=files.vocab,
            top_logprobs=params.top_logprobs or 0,
            grammar=grammar,
        )
        scorer = None
        if params.logprobs:
            scorer = Scorer(
                transcript.top_logprobs, transcript.sampling.temperature, tokenizer.texts().raw
            )
        stops = (*params.stop, *tokenizer.generation.stop_texts)
        output = Output(tokenizer.detokenizer(prompt), stops, prompting.reader(prompt))
        may_think = prompting.wants_thinking or (grammar is not None and grammar.is_lazy)
        answer = Coordinator(self._node, model, transcript, output, scorer, may_think=may_think)
        async with aclosing(answer.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def count_tokens(self, request: GenerateRequest) -> int:
        """Tokens of the prompt, exactly as `generate` sends it to the first stage; needs no layers.

        Raises:
            NotFound, InvalidParams, Unavailable: as `generate`.
        """
        model = self._pick(request.model)
        prompting = Prompting(request, _tokenizer(model), model=model.entry.name)
        return len(await prompting.encode())

    def _pick(self, name: str) -> LocalModel:
        if not self._models:
            raise NotFound("no models are configured; add one to plugins.shards.models")
        if not name:
            return next(iter(self._models.values()))
        if name not in self._models:
            known = ", ".join(self._models)
            raise NotFound(f"no model {name!r} here; configured models: {known}")
        return self._models[name]

    def _sampling(self, params: SamplingParams, tokenizer: ModelTokenizer) -> Sampling:
        """The request's sampling parameters, with the model's recommendations as defaults.

        Raises:
            InvalidParams: a temperature that no stage accepts.
        """
        if params.temperature and params.temperature < MIN_TEMPERATURE:
            raise InvalidParams(
                f"temperature is {params.temperature:g}; use 0 for the likeliest token, or at"
                f" least {MIN_TEMPERATURE}"
            )
        usual = tokenizer.generation
        return Sampling(
            temperature=usual.temperature if params.temperature is None else params.temperature,
            top_k=usual.top_k if params.top_k is None else params.top_k,
            top_p=usual.top_p if params.top_p is None else params.top_p,
            min_p=usual.min_p if params.min_p is None else params.min_p,
            seed=self._rng.getrandbits(63) if params.seed is None else params.seed,
        )


def _rules(params: SamplingParams, usual: LogitRules, vocab: int) -> LogitRules:
    """The model's rules, with the penalties and biases of the request.

    Raises:
        InvalidParams: a bias for an id outside the vocabulary.
    """
    bias = params.logit_bias or {}
    if unknown := [token for token in bias if token >= vocab]:
        raise InvalidParams(
            f"logit_bias names the token {unknown[0]}; the model has the ids 0 to {vocab - 1}",
            params=["logit_bias"],
        )
    reach = params.repeat_last_n
    return replace(
        usual,
        repetition_penalty=(
            usual.repetition_penalty if params.repeat_penalty is None else params.repeat_penalty
        ),
        repeat_last_n=None if reach is None or reach < 0 else reach,
        presence_penalty=params.presence_penalty or 0.0,
        frequency_penalty=params.frequency_penalty or 0.0,
        bias=tuple((token, value) for token, value in bias.items() if value),
    )


def _tokenizer(model: LocalModel) -> ModelTokenizer:
    model.ready()
    if model.tokenizer is None:  # `ready` implies a loaded tokenizer
        raise NotFound(f"model {model.entry.name} has no tokenizer")
    return model.tokenizer
