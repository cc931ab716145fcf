"""The control methods `inference.*`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aitorrent_inference.router import Answer, Router
from aitorrentd.api import (
    CallContext,
    Chunk,
    Clock,
    End,
    GenerateRequest,
    Message,
    Method,
    ModelView,
    NoParams,
    PendingModel,
    Role,
    SamplingParams,
    Unavailable,
)
from aitorrentd.api.models.features import KnowsFeatures
from aitorrentd.api.models.logprobs import logprob_map
from aitorrentd.api.models.tools import MAX_TOOLS, Tool, ToolChoice, call_map, check_tools


class LayersRow(BaseModel):
    """Layers of a model that a node has in memory."""

    peer: str = Field(description="peer id of the node")
    start: int = Field(description="first layer")
    end: int = Field(description="exclusive end: one past the last layer")
    rss_bytes: int | None = Field(
        None, description="resident memory of the process that holds them; only known for this node"
    )


class ModelRow(BaseModel):
    """A model that can answer now."""

    name: str = Field(description="as the backend calls it")
    backend: str = Field(
        description="ollama, openai, shards or the like; `peer:<peer id>` for a peer"
    )
    size_bytes: int | None = Field(None, description="size of the weights; null if unknown")
    family: str = Field("", description="architecture, such as llama; empty if unknown")
    context_length: int | None = Field(
        None, description="longest context in tokens; null if unknown"
    )
    detail: str = Field(
        "", description="for display: the quantisation, the owner, or who holds which layers"
    )
    layers: list[LayersRow] = Field(
        [], description="which nodes hold which layers of a split model; empty for others"
    )


class PendingRow(BaseModel):
    """A model that cannot answer now."""

    name: str = Field(description="as the backend calls it")
    backend: str = Field(description="as in models; peers if only they are loading it")
    state: Literal["loading", "incomplete", "failed"] = Field(
        description="loading needs no action; incomplete needs nodes that offer the missing "
        "layers; failed is explained in detail"
    )
    detail: str = Field(description="what is missing, and why")
    done_bytes: int = Field(description="bytes read so far, here and on peers")
    total_bytes: int = Field(description="bytes to read; 0 while unknown")
    layers: list[LayersRow] = Field(description="which nodes already hold which layers")
    missing: list[tuple[int, int]] = Field(
        description="start and exclusive end of each range of layers that no node holds"
    )
    shortage: str = Field(
        "", description="which layers nobody holds or loads, and who last held them"
    )


Names = Annotated[
    dict[str, str],
    Field(description="self-chosen names by peer id; only ids are proven"),
]


class Models(BaseModel):
    """Models that can answer now, here and on peers, and those that cannot yet."""

    models: list[ModelRow] = Field(description="those of local backends first, then those of peers")
    pending: list[PendingRow] = Field(
        [], description="models known to this node that cannot answer yet"
    )
    names: Names = {}


class BackendRow(BaseModel):
    """A backend on this machine."""

    name: str = Field(description="such as ollama, openai or shards")
    ok: bool = Field(description="whether it listed its models")
    detail: str = Field(description="number of models, or why it cannot be used")
    features: list[str] = Field(
        [], description="what requests to it may use beyond text and sampling parameters"
    )


class Backends(BaseModel):
    """The backends on this machine."""

    backends: list[BackendRow] = Field(
        description="in order of registration; empty if none is configured"
    )


class GenerateParams(BaseModel):
    """A prompt or a conversation, and how to answer it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("", max_length=256, description="empty = the node's default")
    prompt: str | None = Field(None, description="the prompt; alternatively, pass messages")
    raw: bool = Field(False, description="send the prompt verbatim, without the chat template")
    messages: tuple[Message, ...] | None = Field(
        None, max_length=4096, description="a conversation, oldest turn first, in place of a prompt"
    )
    tools: tuple[Tool, ...] = Field(
        (), max_length=MAX_TOOLS, description="functions that the model may call; need messages"
    )
    tool_choice: ToolChoice | None = Field(
        None, description="auto (the default), none, required, or the name of one tool"
    )
    parallel_tool_calls: bool | None = Field(
        None, description="whether one answer may call several tools"
    )
    params: SamplingParams = Field(
        SamplingParams(),
        description="sampling and output options; those left out are up to the backend or model",
    )
    backend: str | None = Field(
        None, max_length=256, description="use only this backend, or `peer:<peer id>`"
    )
    discover: bool = Field(
        False,
        description="only peers found through the directory: neither this machine's backends nor "
        "the configured plugins.inference.nodes",
    )
    parallel: int = Field(
        1, ge=1, le=16, description="ask this many backends at once; the first to respond answers"
    )
    thinking: bool = Field(False, description="also stream what the model thinks before it answers")
    wait_s: float = Field(
        0,
        ge=0,
        le=86_400,
        description="how long to wait for a model that is loading, here or on a peer; the call "
        "reports progress meanwhile",
    )
    wait_incomplete: bool = Field(
        False, description="wait also for a model that lacks layers, until other nodes offer them"
    )

    @model_validator(mode="after")
    def _one_of(self) -> GenerateParams:
        if (self.prompt is None) == (not self.messages):
            raise ValueError('give either "prompt" or a non-empty "messages"')
        if self.raw and self.messages:
            raise ValueError('"raw" requires "prompt", not "messages"')
        check_tools(self.tools, self.tool_choice, has_messages=bool(self.messages))
        if self.discover and self.backend is not None:
            raise ValueError('"discover" and "backend" are mutually exclusive')
        return self


class Piece(BaseModel):
    """A piece of the answer, in order."""

    text: str = Field(description="what follows the previous piece; may be empty")
    thinking: str = Field("", description="what the model thinks before it answers, if requested")
    token_ids: list[int] = Field([], description="token ids of the text, where known")
    tool_calls: list[dict[str, Any]] = Field(
        [], description="the model's calls of tools, as in the OpenAI API"
    )
    logprobs: list[dict[str, Any]] = Field(
        [],
        description="if requested, for each token of the answer: token, logprob, bytes,"
        " top_logprobs and, where known, id, as in the OpenAI API",
    )


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

    async def generate(
        call: CallContext, params: GenerateParams
    ) -> AsyncGenerator[dict[str, Any] | End, None]:
        request = GenerateRequest(
            model=params.model,
            prompt=params.prompt,
            messages=params.messages,
            raw=params.raw,
            tools=params.tools,
            tool_choice=params.tool_choice,
            parallel_tool_calls=params.parallel_tool_calls,
            params=params.params,
        )
        answer = Answer()
        stream = router.generate(
            request,
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
            "inference.generate",
            generate,
            "Answer a prompt as a stream.",
            params=GenerateParams,
            result=Piece,
            role=Role.OPERATE,
            stream=True,
        ),
    ]
