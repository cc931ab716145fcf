"""Answers in OpenAI's shapes: chunks of a stream, and whole ones. No I/O.

Clients depend on details: the id and time are the same in all chunks; `finish_reason` is null
until the last, which has an empty delta; a chunk with the usage has no choices; `[DONE]` follows
only an answer that is whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_gateway.core.answers import KEEP_ALIVE
from aitorrentd.api import AitorrentError, Chunk
from aitorrentd.api.faces.errors import fault_of

DONE: Final = b"data: [DONE]\n\n"
_FINGERPRINT: Final = "aitorrentd"


def usage_of(last: Chunk) -> dict[str, Any]:
    """The usage of an answer that ended with this chunk."""
    usage: dict[str, Any] = {
        "prompt_tokens": last.prompt_tokens,
        "completion_tokens": last.completion_tokens,
        "total_tokens": last.prompt_tokens + last.completion_tokens,
    }
    hidden = last.extra.get("reasoning_tokens")
    if isinstance(hidden, int):
        usage["completion_tokens_details"] = {"reasoning_tokens": hidden}
    return usage


def node_part(last: Chunk) -> dict[str, Any]:
    """What only this server says; clients keep keys that they do not know. It names no peer."""
    part: dict[str, Any] = {"stages": [[stage.start, stage.end] for stage in last.stages]}
    if last.warning:
        part["warning"] = last.warning
    return part


def failure(error: AitorrentError) -> bytes:
    """The event that ends a stream that failed; no `[DONE]` follows."""
    return b"data: " + fault_of(error).body() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Identity:
    """What all parts of one answer have in common."""

    ident: str
    created: int
    "Seconds since the epoch."
    model: str


class ChatShape:
    """Answers of /v1/chat/completions."""

    prefix: Final = "chatcmpl-"

    def __init__(self, identity: Identity, *, with_usage: bool) -> None:
        self._identity = identity
        self._head = _head("chat.completion.chunk", identity)
        null = b',"usage":null' if with_usage else b""
        # The parts around a text that is encoded for each token.
        self._text = self._head + b'[{"index":0,"delta":{"content":'
        self._thinking = self._head + b'[{"index":0,"delta":{"reasoning_content":'
        self._tail = b'},"logprobs":null,"finish_reason":null}]' + null + b"}\n\n"
        self._null = null

    def first(self) -> bytes:
        """The event before any text."""
        role = b'[{"index":0,"delta":{"role":"assistant","content":""'
        return self._head + role + self._tail

    def piece(self, chunk: Chunk) -> bytes:
        """The events of a piece; none if it has no text."""
        events = b""
        if chunk.thinking:
            events = self._thinking + _quoted(chunk.thinking) + self._tail
        if chunk.text:
            events += self._text + _quoted(chunk.text) + self._tail
        return events

    def last(self, chunk: Chunk) -> bytes:
        """The event with the reason of the end."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": chunk.reason}
        part = b',"x_aitorrent":' + _encoded(node_part(chunk))
        return self._head + _encoded([choice]) + self._null + part + b"}\n\n"

    def usage(self, chunk: Chunk) -> bytes:
        """The event with the usage."""
        return self._head + b'[],"usage":' + _encoded(usage_of(chunk)) + b"}\n\n"

    def whole(self, text: str, thinking: str, last: Chunk) -> dict[str, Any]:
        """An answer that is not streamed."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if thinking:
            message["reasoning_content"] = thinking
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.reason}
        return _whole("chat.completion", self._identity, choice, last)


class TextShape:
    """Answers of /v1/completions; thinking is left out."""

    prefix: Final = "cmpl-"

    def __init__(self, identity: Identity, *, with_usage: bool) -> None:
        self._identity = identity
        self._head = _head("text_completion", identity)
        null = b',"usage":null' if with_usage else b""
        self._text = self._head + b'[{"index":0,"text":'
        self._tail = b',"logprobs":null,"finish_reason":null}]' + null + b"}\n\n"
        self._null = null

    def first(self) -> bytes:
        """The event before any text: a comment, because there is nothing to say yet."""
        return KEEP_ALIVE

    def piece(self, chunk: Chunk) -> bytes:
        """The event of a piece; none if it has no text."""
        return self._text + _quoted(chunk.text) + self._tail if chunk.text else b""

    def last(self, chunk: Chunk) -> bytes:
        """The event with the reason of the end."""
        choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": chunk.reason}
        part = b',"x_aitorrent":' + _encoded(node_part(chunk))
        return self._head + _encoded([choice]) + self._null + part + b"}\n\n"

    def usage(self, chunk: Chunk) -> bytes:
        """The event with the usage."""
        return self._head + b'[],"usage":' + _encoded(usage_of(chunk)) + b"}\n\n"

    def whole(self, text: str, thinking: str, last: Chunk) -> dict[str, Any]:
        """An answer that is not streamed."""
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": last.reason}
        return _whole("text_completion", self._identity, choice, last)


Shape = ChatShape | TextShape


def _head(kind: str, identity: Identity) -> bytes:
    common = {
        "id": identity.ident,
        "object": kind,
        "created": identity.created,
        "model": identity.model,
        "system_fingerprint": _FINGERPRINT,
    }
    return b"data: " + _encoded(common)[:-1] + b',"choices":'


def _whole(kind: str, identity: Identity, choice: dict[str, Any], last: Chunk) -> dict[str, Any]:
    return {
        "id": identity.ident,
        "object": kind,
        "created": identity.created,
        "model": identity.model,
        "system_fingerprint": _FINGERPRINT,
        "choices": [choice],
        "usage": usage_of(last),
        "x_aitorrent": node_part(last),
    }


def _encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _quoted(text: str) -> bytes:
    # Only ASCII: a lone surrogate of a model becomes an escape, and no line separator stays.
    return json.dumps(text).encode()
