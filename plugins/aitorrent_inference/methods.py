"""The control methods `inference.*`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from aitorrent_inference.routing.answer import Answer
from aitorrent_inference.routing.router import Router
from aitorrent_inference.schemas import (
    Backends,
    Count,
    CountParams,
    EmbeddingModels,
    EmbedParams,
    GenerateParams,
    Models,
    Piece,
    Vector,
)
from aitorrentd.api import (
    CallContext,
    Chunk,
    Clock,
    EmbedRequest,
    End,
    Method,
    ModelView,
    NoParams,
    PendingModel,
    Role,
    Unavailable,
)
from aitorrentd.api.models.features import KnowsFeatures
from aitorrentd.api.models.logprobs import logprob_map
from aitorrentd.api.models.tools import call_map


def _nobody(_ids: Iterable[str]) -> Mapping[str, str]:
    return {}


def summary(
    answer: Answer,
    *,
    ended_s: float,
    node: str,
    names: Callable[[Iterable[str]], Mapping[str, str]] = _nobody,
) -> dict[str, Any]:
    """The summary in the End of an answer; `ended_s` is on the clock of `answer`, and `names` maps
    nodes to their names, if they have one."""
    last = answer.last
    if last is None:
        raise Unavailable("the answer ended without a finish reason")
    first_s = answer.first_token_s if answer.first_token_s is not None else ended_s
    decode_s = ended_s - first_s
    # The first token counts as prompt time; the rest give the rate.
    paced = last.completion_tokens - 1
    rate = last.extra.get("tokens_per_s")
    if not isinstance(rate, int | float):
        rate = paced / decode_s if paced > 0 and decode_s > 0 else None
    return {
        "reason": last.reason,
        "prompt_tokens": last.prompt_tokens,
        "completion_tokens": last.completion_tokens,
        "stages": [{"peer": s.peer, "start": s.start, "end": s.end} for s in last.stages],
        "took_s": ended_s - answer.began_s,
        "ttft_s": first_s - answer.began_s,
        "tokens_per_s": rate,
        "hop_us": last.extra.get("hop_us"),
        "context": list(last.context) if last.context is not None else None,
        "model": answer.model,
        "backend": answer.backend,
        "node": node,
        "names": names([answer.backend.removeprefix("peer:"), *(s.peer for s in last.stages)]),
        "thinking_chars": answer.thinking_chars,
        "note": answer.note,
        "warning": last.warning,
        "failures": answer.failures,
    }


def _piece(chunk: Chunk, *, thinking: bool) -> dict[str, Any]:
    """The chunk as a stream item; empty if it has nothing for this caller."""
    piece: dict[str, Any] = {"text": chunk.text}
    if thinking and chunk.thinking:
        piece["thinking"] = chunk.thinking
    if chunk.token_ids:
        piece["token_ids"] = list(chunk.token_ids)
    if chunk.tool_calls:
        piece["tool_calls"] = [call_map(call) for call in chunk.tool_calls]
    if chunk.logprobs:
        piece["logprobs"] = [logprob_map(each) for each in chunk.logprobs]
    return piece if chunk.text or len(piece) > 1 else {}


def inference_methods(
    router: Router, *, clock: Clock, node: str, node_name: str = ""
) -> list[Method]:
    """The plugin's methods; `node` and `node_name` are this node's, for summaries."""

    def names(ids: Iterable[str]) -> dict[str, str]:
        found = {i: node_name if i == node else router.catalogue.name_of(i) for i in ids}
        return {ident: name for ident, name in found.items() if name}

    async def models(call: CallContext, params: NoParams) -> dict[str, Any]:
        views, pending = await router.models(), router.catalogue.pending()
        shown: list[ModelView | PendingModel] = [*views, *pending]
        ids = [view.backend.removeprefix("peer:") for view in shown]
        ids += [held.peer for view in shown for held in view.layers]
        return {
            "models": [asdict(view) for view in views],
            "pending": [asdict(model) for model in pending],
            "names": names(ids),
        }

    async def backends(call: CallContext, params: NoParams) -> dict[str, Any]:
        states = await router.catalogue.ask_backends()
        local = router.catalogue.backends
        can = {b.name: sorted(b.features()) for b in local if isinstance(b, KnowsFeatures)}
        return {
            "backends": [
                {"name": s.name, "ok": s.ok, "detail": s.detail, "features": can.get(s.name, [])}
                for s in states
            ]
        }

    async def embedding_models(call: CallContext, params: NoParams) -> dict[str, Any]:
        views = await router.embedding_models()
        ids = [view.backend.removeprefix("peer:") for view in views]
        return {"models": [asdict(view) for view in views], "names": names(ids)}

    async def count_tokens(call: CallContext, params: CountParams) -> dict[str, Any]:
        return {"tokens": await router.count_tokens(params.request(), backend=params.backend)}

    async def embed(
        call: CallContext, params: EmbedParams
    ) -> AsyncGenerator[dict[str, Any] | End, None]:
        request = EmbedRequest.model_validate(params.model_dump(exclude={"backend"}))
        found = await router.embed(request, backend=params.backend)
        for each in found.vectors:
            yield {"vector": each.tolist()}
        yield End({"tokens": found.tokens})

    async def generate(
        call: CallContext, params: GenerateParams
    ) -> AsyncGenerator[dict[str, Any] | End, None]:
        answer = Answer()
        stream = router.generate(
            params.request(),
            backend=params.backend,
            discover=params.discover,
            parallel=params.parallel,
            wait_s=params.wait_s,
            wait_incomplete=params.wait_incomplete,
            answer=answer,
        )
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                if piece := _piece(chunk, thinking=params.thinking):
                    yield piece
                if chunk.notice and "total_bytes" in chunk.extra:
                    total = chunk.extra["total_bytes"] or None
                    done = chunk.extra["done_bytes"] if total else None
                    call.progress(chunk.notice, done=done, total=total, unit="B")
                elif chunk.notice:
                    call.progress(chunk.notice)
        yield End(summary(answer, ended_s=clock.monotonic(), node=node, names=names))

    return [
        Method(
            "inference.models",
            models,
            "Models that can answer now, here or on connected peers, and those that are loading or"
            " lack layers.",
            result=Models,
        ),
        Method(
            "inference.backends",
            backends,
            "Backends on this machine and their health.",
            result=Backends,
        ),
        Method(
            "inference.embedding_models",
            embedding_models,
            "Models made to turn texts into vectors, here or on connected peers.",
            result=EmbeddingModels,
        ),
        Method(
            "inference.count_tokens",
            count_tokens,
            "Count the tokens of a prompt as whoever would answer it counts them, without an"
            " answer.",
            params=CountParams,
            result=Count,
            role=Role.OPERATE,
        ),
        Method(
            "inference.embed",
            embed,
            "Turn texts into vectors, as a stream that ends with the number of tokens.",
            params=EmbedParams,
            result=Vector,
            role=Role.OPERATE,
            stream=True,
        ),
        Method(
            "inference.generate",
            generate,
            "Answer a prompt as a stream.",
            params=GenerateParams,
            result=Piece,
            role=Role.OPERATE,
            stream=True,
        ),
    ]
