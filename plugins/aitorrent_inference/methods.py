"""The control methods `inference.*`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aitorrent_inference.router import Answer, Router
from aitorrentd.api import (
    CallContext,
    Clock,
    End,
    GenerateRequest,
    Message,
    Method,
    NoParams,
    Role,
    SamplingParams,
    Unavailable,
)


class ModelRow(BaseModel):
    """A model that can be answered now."""

    name: str
    backend: str
    size_bytes: int | None = None
    family: str = ""
    context_length: int | None = None
    detail: str = ""


class Models(BaseModel):
    """What can be answered now, here and by peers."""

    models: list[ModelRow]


class BackendRow(BaseModel):
    """A backend on this machine."""

    name: str
    ok: bool
    detail: str


class Backends(BaseModel):
    """The backends on this machine."""

    backends: list[BackendRow]


class GenerateParams(BaseModel):
    """A prompt or a conversation, and how to answer it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("", max_length=256, description="empty = the node's default")
    prompt: str | None = Field(None, description="what a user says; or give messages")
    raw: bool = Field(False, description="the prompt as it is, without the chat template")
    messages: tuple[Message, ...] | None = Field(None, max_length=4096)
    params: SamplingParams = SamplingParams()
    backend: str | None = Field(
        None, max_length=256, description="only this backend, or peer:<peer id>"
    )
    discover: bool = Field(
        False,
        description="only peers found through the directory: neither this machine's backends nor "
        "the configured plugins.inference.nodes",
    )
    parallel: int = Field(
        1, ge=1, le=16, description="ask so many at once; whoever speaks first answers"
    )

    @model_validator(mode="after")
    def _one_of(self) -> GenerateParams:
        if (self.prompt is None) == (not self.messages):
            raise ValueError('give either "prompt" or a non-empty "messages"')
        if self.discover and self.backend is not None:
            raise ValueError('"discover" and "backend" exclude each other')
        return self


class Piece(BaseModel):
    """A piece of the answer, in order."""

    text: str
    token_ids: list[int] = Field([], description="ids behind the text, where they are known")


def summary(answer: Answer, *, ended_s: float, node: str) -> dict[str, Any]:
    """What the End of an answer says; `ended_s` is on the clock of `answer`."""
    last = answer.last
    if last is None:
        raise Unavailable("the answer ended without a reason")
    first_s = answer.first_token_s if answer.first_token_s is not None else ended_s
    decode_s = ended_s - first_s
    # The first token belongs to the prompt's time; what follows shows the pace.
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
        "failures": answer.failures,
    }


def inference_methods(router: Router, *, clock: Clock, node: str) -> list[Method]:
    """The plugin's methods; `node` is this node's id, for summaries."""

    async def models(call: CallContext, params: NoParams) -> dict[str, Any]:
        rows = [
            ModelRow(
                name=view.name,
                backend=view.backend,
                size_bytes=view.size_bytes,
                family=view.family,
                context_length=view.context_length,
                detail=view.detail,
            ).model_dump()
            for view in await router.models()
        ]
        return {"models": rows}

    async def backends(call: CallContext, params: NoParams) -> dict[str, Any]:
        states = await router.catalogue.ask_backends()
        return {"backends": [{"name": s.name, "ok": s.ok, "detail": s.detail} for s in states]}

    async def generate(
        call: CallContext, params: GenerateParams
    ) -> AsyncGenerator[dict[str, Any] | End, None]:
        request = GenerateRequest(
            model=params.model,
            prompt=params.prompt,
            messages=params.messages,
            raw=params.raw,
            params=params.params,
        )
        answer = Answer()
        stream = router.generate(
            request,
            backend=params.backend,
            discover=params.discover,
            parallel=params.parallel,
            answer=answer,
        )
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                if chunk.token_ids:
                    yield {"text": chunk.text, "token_ids": list(chunk.token_ids)}
                elif chunk.text:
                    yield {"text": chunk.text}
                if chunk.notice:
                    call.progress(chunk.notice)
        yield End(summary(answer, ended_s=clock.monotonic(), node=node))

    return [
        Method(
            "inference.models",
            models,
            "Models that can be answered now, by this node and by connected peers.",
            result=Models,
        ),
        Method(
            "inference.backends",
            backends,
            "Backends on this machine, and whether each works.",
            result=Backends,
        ),
        Method(
            "inference.generate",
            generate,
            "Answer a prompt, piece by piece.",
            params=GenerateParams,
            result=Piece,
            role=Role.OPERATE,
            stream=True,
        ),
    ]
