"""Converts Ollama API answers to chunks. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from aitorrentd.api import Chunk, ProtocolError, Unavailable
from aitorrentd.api.fields import count_of
from aitorrentd.api.models.inference import DoneReason
from aitorrentd.api.models.logprobs import missing_warning, read_logprobs
from aitorrentd.api.models.sampling import REST_OF_CONTEXT
from aitorrentd.api.relays.texts import TextJoiner, end_of, text_in
from aitorrentd.api.relays.tool_calls import ENDS as TOOL_ENDS
from aitorrentd.api.relays.tool_calls import ToolCalls

_DURATIONS: Final = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
# Reasons for an empty prompt, which only loads or unloads the model.
_EMPTY: Final = ("load", "unload")


class AnswerReader:
    """Turns the documents of one answer into chunks.

    `max_tokens` is the requested limit, `is_empty` whether the prompt has no text, `logprobs`
    whether they were requested, and `tools` whether some are offered.
    """

    def __init__(
        self,
        max_tokens: int | None,
        *,
        is_empty: bool = False,
        logprobs: bool = False,
        tools: bool = False,
    ) -> None:
        self._max_tokens, self._is_empty = max_tokens, is_empty
        self._lacks_logprobs = logprobs
        self._tools = ToolCalls("Ollama", offered=tools)
        self._has_text = False
        self._text, self._thinking = TextJoiner(), TextJoiner()
        self._last: dict[str, Any] | None = None

    def read(self, line: dict[str, Any]) -> Chunk:
        """Convert a line of `/api/generate` or `/api/chat`; the chunk may be empty.

        Raises:
            ProtocolError: not a line of either. Unavailable: the answer was cut short.
        """
        message = line.get("message")
        said = message if isinstance(message, dict) else line
        try:
            text, thinking = text_in(said.get("content" if said is message else "response"))
            thinking += "".join(text_in(said.get("thinking")))
            logprobs = read_logprobs(line.get("logprobs"))
        except ValueError as e:
            raise ProtocolError(f"Ollama sent {e}") from None
        text, thinking = self._text.add(text), self._thinking.add(thinking)
        self._has_text = self._has_text or bool(text)
        self._tools.note(said)
        if line.get("done_reason"):
            self._last = line
        self._lacks_logprobs = self._lacks_logprobs and not logprobs
        if line.get("done") is not True:
            return Chunk(text, thinking=thinking, logprobs=logprobs)
        last = self._ended(line, text + self._text.rest(), thinking + self._thinking.rest())
        return replace(last, logprobs=logprobs)

    def finish(self) -> Chunk:
        """The last chunk of an answer without a `done` line: some of Ollama's runners send only a
        reason.

        Raises:
            Unavailable: nothing indicated that the answer is complete.
        """
        if self._last is None:
            raise Unavailable("Ollama closed the stream before its answer was complete")
        return self._ended(self._last, self._text.rest(), self._thinking.rest())

    def _ended(self, line: dict[str, Any], text: str, thinking: str) -> Chunk:
        tokens = count_of(line.get("eval_count"))
        lacking = missing_warning("Ollama") if self._lacks_logprobs and self._has_text else ""
        context = line.get("context")
        is_context = isinstance(context, list) and all(
            type(i) is int and 0 <= i < 2**32 for i in context
        )
        calls = self._tools.calls()
        reason = self._reason(line.get("done_reason"), tokens, has_calls=bool(calls))
        return Chunk(
            text,
            done=True,
            reason=reason,
            tool_calls=calls,
            prompt_tokens=count_of(line.get("prompt_eval_count")),
            completion_tokens=tokens,
            context=tuple(context or ()) if is_context else None,
            extra={k: line[k] for k in _DURATIONS if type(line.get(k)) is int},
            thinking=thinking,
            warning="; ".join(filter(None, (self._tools.check(has_text=self._has_text), lacking))),
        )

    def _reason(self, reason: object, tokens: int, *, has_calls: bool) -> DoneReason:
        if has_calls and (reason in (None, "", *TOOL_ENDS) or end_of(str(reason)) == "stop"):
            return "tool_calls"
        if reason in (None, ""):
            # Servers before 0.3 give no reason; then the token count decides.
            limit = None if self._max_tokens == REST_OF_CONTEXT else self._max_tokens
            is_cut = limit is not None and tokens >= limit
            return "length" if is_cut else "stop"
        end = end_of(reason) if isinstance(reason, str) else None
        if end is None and reason in _EMPTY and not self._has_text:
            if not self._is_empty:
                raise Unavailable(
                    "Ollama loaded the model and did not answer; a conversation needs a message "
                    "of the user"
                )
            return "stop"
        if end is None:
            raise Unavailable(f"Ollama cut the answer short: {str(reason)[:64]}")
        return end
