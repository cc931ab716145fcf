"""Requests and stream events of the OpenAI API, to and from ours. No I/O."""

from __future__ import annotations

from typing import Any

from aitorrentd.api import (
    Chunk,
    GenerateRequest,
    Message,
    ModelView,
    ProtocolError,
    SamplingParams,
    Unavailable,
)
from aitorrentd.api.fields import whole_or
from aitorrentd.api.models.inference import DoneReason

CHAT = "/chat/completions"
COMPLETIONS = "/completions"


def _sampling(params: SamplingParams) -> dict[str, Any]:
    named = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        # Not OpenAI's own; vLLM, llama.cpp and others take it.
        "top_k": params.top_k,
        "seed": params.seed,
        "max_tokens": params.max_tokens,
        "stop": list(params.stop) or None,
    }
    return {name: value for name, value in named.items() if value is not None}


def chat_body(request: GenerateRequest) -> dict[str, Any]:
    """The body for `/chat/completions`; a bare prompt becomes the user's message."""
    messages = request.messages or (Message(role="user", content=request.prompt or ""),)
    return {
        "model": request.model,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(request.params),
    }


def completion_body(request: GenerateRequest) -> dict[str, Any]:
    """The body for `/completions`, which goes on from a bare prompt."""
    return {
        "model": request.model,
        "prompt": request.prompt or "",
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(request.params),
    }


def without(body: dict[str, Any], param: str, message: str) -> dict[str, Any] | None:
    """The body for a server that refused `param`, or None when that cannot be helped.

    Older servers do not know `stream_options`; OpenAI's newer models want `max_completion_tokens`.
    """
    if "stream_options" in body and "stream_options" in f"{param} {message}":
        return {k: v for k, v in body.items() if k != "stream_options"}
    if "max_tokens" in body and (param == "max_tokens" or "max_completion_tokens" in message):
        rest = {k: v for k, v in body.items() if k != "max_tokens"}
        return {**rest, "max_completion_tokens": body["max_tokens"]}
    return None


class AnswerReader:
    """Turns a stream's events into chunks; the last chunk comes from `finish`."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._reason: DoneReason | None = None
        self._prompt_tokens = 0
        self._completion_tokens = 0

    def read(self, event: dict[str, Any]) -> str:
        """The text that an event adds.

        Raises:
            ProtocolError: not such an event. Unavailable: the server ended the answer for another
            reason than its end or its limit.
        """
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._prompt_tokens = whole_or(usage, "prompt_tokens", 0)
            self._completion_tokens = whole_or(usage, "completion_tokens", 0)
        choices = event.get("choices", [])
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise ProtocolError(f"{self._server} sent choices that are no list of objects")
        if not choices:
            return ""
        self._note(choices[0].get("finish_reason"))
        delta = choices[0].get("delta")
        source = delta.get("content") if isinstance(delta, dict) else choices[0].get("text")
        if source is not None and not isinstance(source, str):
            raise ProtocolError(f"{self._server} sent a text that is not a string")
        # JSON may escape half of a surrogate pair, which is no text that can be sent on.
        return (source or "").encode("utf-8", "replace").decode()

    def _note(self, reason: object) -> None:
        if reason is None or reason == "":
            return
        if reason not in ("stop", "length", "eos", "stop_sequence"):
            raise Unavailable(f"{self._server} cut the answer short: {str(reason)[:64]}")
        self._reason = "length" if reason == "length" else "stop"

    def finish(self, *, said_done: bool) -> Chunk:
        """The last chunk; `said_done` is whether the stream ended with `[DONE]`.

        Raises:
            Unavailable: nothing said that the answer is complete.
        """
        if self._reason is None and not said_done:
            raise Unavailable(f"{self._server} closed the stream before its answer ended")
        return Chunk(
            "",
            done=True,
            reason=self._reason or "stop",
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
        )


def view(row: dict[str, Any], backend: str) -> ModelView:
    """A model of `/models`; `max_model_len` is vLLM's, `meta` llama.cpp's."""
    meta = row.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    length = row.get("max_model_len") or row.get("context_length") or meta.get("n_ctx_train")
    size = meta.get("size")
    owner = row.get("owned_by")
    return ModelView(
        name=row["id"],
        backend=backend,
        size_bytes=size if isinstance(size, int) else None,
        context_length=length if isinstance(length, int) and length > 0 else None,
        detail=f"by {owner}" if isinstance(owner, str) and owner else "",
    )
