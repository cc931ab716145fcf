"""Converts OpenAI API events to chunks, and its model list to model views. No I/O."""

from __future__ import annotations

import re
from typing import Any, Final

from aitorrentd.api import Chunk, ModelView, ProtocolError, Unavailable
from aitorrentd.api.fields import whole_or
from aitorrentd.api.models.inference import DoneReason
from aitorrentd.api.models.texts import TextJoiner, end_of, text_in


class AnswerReader:
    """Turns an answer's events into chunks; the last chunk comes from `finish`."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._reason: DoneReason | None = None
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._reasoning_tokens = 0
        self._text, self._thinking = TextJoiner(), TextJoiner()
        self._said: list[str] = []
        self._has_answer = False

    @property
    def is_finished(self) -> bool:
        """Whether the server sent a finish reason; only counts can follow."""
        return self._reason is not None

    def read(self, event: dict[str, Any]) -> Chunk:
        """Convert an event; the chunk may be empty.

        Raises:
            ProtocolError: malformed. Unavailable: the server ended the answer for a reason other
            than completion or the token limit.
        """
        self._note_usage(event.get("usage"))
        choices = event.get("choices")
        if choices is None:
            return Chunk("")
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise ProtocolError(
                f"{self._server} sent a `choices` field that is not a list of objects"
            )
        # One choice is requested; a server that sends more numbers them.
        choice = next((c for c in choices if c.get("index") in (None, 0)), None)
        if choice is None:
            return Chunk("")
        try:
            text, thinking = self._pieces(choice)
        except ValueError as e:
            raise ProtocolError(f"{self._server} sent {e}") from None
        self._said.append(text)
        self._has_answer = self._has_answer or bool(text or thinking)
        self._note_reason(choice)
        return Chunk(self._text.add(text), thinking=self._thinking.add(thinking))

    def _pieces(self, choice: dict[str, Any]) -> tuple[str, str]:
        delta, message = choice.get("delta"), choice.get("message")
        if isinstance(delta, dict) and any(
            delta.get(k) for k in ("content", "refusal", *_THINKING)
        ):
            return _pieces_of(delta)
        if isinstance(message, dict):
            # A complete answer; some servers repeat it at the end of the stream.
            text, thinking = _pieces_of(message)
            said = "".join(self._said)
            return (text.removeprefix(said), thinking if not said else "")
        if isinstance(delta, dict):
            return _pieces_of(delta)
        return text_in(choice.get("text"))

    def _note_usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        self._prompt_tokens = whole_or(usage, "prompt_tokens", 0)
        self._completion_tokens = whole_or(usage, "completion_tokens", 0)
        details = usage.get("completion_tokens_details")
        if isinstance(details, dict):
            self._reasoning_tokens = whole_or(details, "reasoning_tokens", 0)

    def _note_reason(self, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        if reason is None or reason == "":
            return
        end = end_of(reason) if isinstance(reason, str) else None
        if end is None:
            raise Unavailable(f"{self._server} cut the answer short: {str(reason)[:64]}")
        self._reason = end

    def finish(self, *, said_done: bool, stray: bytes = b"") -> Chunk:
        """The last chunk; `said_done` is whether the stream ended with `[DONE]`, and `stray` is
        non-event content.

        Raises:
            Unavailable: nothing indicated that the answer is complete.
        """
        if self._reason is None and not (said_done and self._has_answer):
            text = " ".join(stray.decode("utf-8", "replace").split())
            why = f": {text}" if text else ""
            raise Unavailable(
                f"{self._server} closed the stream before its answer was complete{why}"
            )
        extra = {"reasoning_tokens": self._reasoning_tokens} if self._reasoning_tokens else {}
        return Chunk(
            self._text.rest(),
            done=True,
            reason=self._reason or "stop",
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            thinking=self._thinking.rest(),
            extra=extra,
        )


# DeepSeek, vLLM and llama.cpp use the first; OpenRouter, Ollama and newer vLLM the second.
_THINKING: Final = ("reasoning_content", "reasoning", "reasoning_details")


def _pieces_of(message: dict[str, Any]) -> tuple[str, str]:
    """(text, thinking) of a delta or a message."""
    text, thinking = text_in(message.get("content"))
    # OpenAI's models may send a refusal instead of an answer.
    refusal = message.get("refusal")
    if isinstance(refusal, str):
        text += refusal
    for key in _THINKING:
        if isinstance(found := message.get(key), str | list) and found:
            more = text_in(found)
            thinking += "".join(more)
            break
    return text, thinking


# Name parts of models that turn text into something other than an answer.
_NO_CHAT_NAME: Final = re.compile(
    r"(^|[-_/.:\s])(embed|embedding|embeddings|rerank|reranker|whisper|tts|dall-e|moderation)"
    r"([-_/.:\s]|$)"
)
_NO_CHAT_KINDS: Final = frozenset(
    ("embedding", "embeddings", "rerank", "reranker", "moderation", "image", "audio")
)


def can_chat(row: dict[str, Any]) -> bool:
    """Whether a listed model may answer prompts, judged by its entry, else by its name."""
    kind = row.get("type") or row.get("task") or row.get("model_type")
    if isinstance(kind, str) and kind.lower() in _NO_CHAT_KINDS:
        return False
    able = row.get("capabilities")
    if isinstance(able, dict) and able.get("completion_chat") is False:
        return False
    if isinstance(able, list) and able:
        return not _NO_CHAT_KINDS.issuperset(str(a).lower() for a in able)
    shape = row.get("architecture")
    made = shape.get("output_modalities") if isinstance(shape, dict) else None
    if isinstance(made, list) and made:
        return "text" in made
    if isinstance(kind, str):
        return True
    return _NO_CHAT_NAME.search(str(row["id"]).lower()) is None


def rows_of(listed: object) -> list[dict[str, Any]] | None:
    """The models in a `/models` response, each with its `id`; None if it is not a model list.

    The format is `{"data": [...]}`; some servers send `models` instead, a bare list, or names.
    """
    if isinstance(listed, dict):
        listed = next((listed[k] for k in ("data", "models") if k in listed), False)
        if listed is None:  # an empty list from a server in Go
            return []
    if not isinstance(listed, list):
        return None
    rows = []
    for row in listed:
        if isinstance(row, str):
            rows.append({"id": row})
        elif isinstance(row, dict):
            names = (row.get(key) for key in ("id", "name", "model"))
            ident = next((name for name in names if isinstance(name, str) and name), None)
            if ident is not None:
                rows.append({**row, "id": ident})
    return rows


_LENGTHS: Final = ("max_model_len", "context_length", "context_window", "max_context_length")


def view(row: dict[str, Any], backend: str) -> ModelView:
    """The view of a model from `/models`; `max_model_len` is from vLLM, `meta` from llama.cpp, with
    the context in use (`n_ctx`) and the trained one."""
    meta = row.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    lengths = [*((row, k) for k in _LENGTHS), (meta, "n_ctx"), (meta, "n_ctx_train")]
    owner = row.get("owned_by")
    return ModelView(
        name=row["id"],
        backend=backend,
        size_bytes=whole_or(meta, "size", None),
        context_length=next((n for at, k in lengths if (n := whole_or(at, k, 0))), None),
        detail=f"by {owner}" if isinstance(owner, str) and owner else "",
    )
