"""Converts the events of an OpenAI API answer to chunks. No I/O."""

from __future__ import annotations

from typing import Any, Final

from aitorrent_openai.usage import Usage
from aitorrentd.api import Chunk, ProtocolError, Unavailable
from aitorrentd.api.models.inference import DoneReason
from aitorrentd.api.models.logprobs import missing_warning, read_logprobs
from aitorrentd.api.relays.texts import TextJoiner, end_of, text_in
from aitorrentd.api.relays.tool_calls import ENDS as TOOL_ENDS
from aitorrentd.api.relays.tool_calls import ToolCalls

# DeepSeek, vLLM and llama.cpp use the first; OpenRouter, Ollama and newer vLLM the second.
_THINKING: Final = (
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "reasoning_text",
    "thinking",
)
_NOT_YET: Final = (None, "", "null", "none")
"Finish reasons of an answer that goes on; DashScope sends the text `null` with every piece."


class AnswerReader:
    """Turns an answer's events into chunks; the last chunk comes from `finish`.

    `server` and `model` are what was asked, `logprobs` whether they were requested,
    and `tools` whether some are offered.
    """

    def __init__(
        self, server: str, model: str = "", *, logprobs: bool = False, tools: bool = False
    ) -> None:
        self._lacks_logprobs = logprobs
        self._server, self._asked = server, model
        self._answered_by = ""
        self._reason: DoneReason | None = None
        self._stop_text = ""
        self._has_gone_on = False
        self._usage = Usage()
        self._text, self._thinking = TextJoiner(), TextJoiner()
        self._said: list[str] = []
        self._late: tuple[str, str] = ("", "")
        "Text and reasoning inside a call, which come after it."
        self._has_answer = False
        self._tools = ToolCalls(server, offered=tools)
        self._offers_tools = tools
        self._has_called = False
        "Whether a whole call was passed on."

    @property
    def is_finished(self) -> bool:
        """Whether the server sent a finish reason, so that only counts can follow. False for a
        server whose answer went on after a reason: Gemini sends one with every piece."""
        return self._reason is not None and not self._has_gone_on

    def read(self, event: dict[str, Any]) -> Chunk:
        """Convert an event; the chunk may be empty.

        Raises:
            ProtocolError: malformed. Unavailable: the server ended the answer for a reason other
            than completion or the token limit.
        """
        self._usage.note(event)
        if isinstance(model := event.get("model"), str):
            self._answered_by = self._answered_by or model
        choices = event.get("choices")
        if choices is None:
            return Chunk("")
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise ProtocolError(
                f"{self._server} sent a `choices` field that is not a list of objects"
            )
        # One choice is requested; a server that sends more numbers them.
        choice = next((c for c in choices if c.get("index") in (None, 0, "0")), None)
        if choice is None:
            return Chunk("")
        try:
            text, thinking = self._pieces(choice)
            logprobs = read_logprobs(choice.get("logprobs"))
        except ValueError as e:
            raise ProtocolError(f"{self._server} sent {e}") from None
        self._said.append(text)
        ended = self._tools.ended() if text or thinking else ()
        if text or thinking:
            self._has_answer = True
            self._has_gone_on = self._has_gone_on or self._reason is not None
            self._reason = None
        text, thinking = self._late[0] + text, self._late[1] + thinking
        self._late = (text, thinking) if self._tools.is_open else ("", "")
        if self._tools.is_open:
            text = thinking = ""
        self._tools.note(choice.get("delta"))
        self._tools.note(choice.get("message"))
        self._note_reason(choice)
        self._lacks_logprobs = self._lacks_logprobs and not logprobs
        calls, parts = self._tools.passed_on()
        self._has_called = self._has_called or bool(ended or calls)
        return Chunk(
            self._text.add(text),
            thinking=self._thinking.add(thinking),
            logprobs=logprobs,
            tool_calls=(*ended, *calls),
            call_parts=parts,
        )

    def _pieces(self, choice: dict[str, Any]) -> tuple[str, str]:
        delta, message = choice.get("delta"), choice.get("message")
        if isinstance(delta, str):
            return delta, ""
        if not isinstance(delta, dict | None):
            raise ValueError("a delta that is not an object")
        if isinstance(delta, dict) and any(
            delta.get(k) not in (None, "") for k in ("content", "refusal", "audio", *_THINKING)
        ):
            return _pieces_of(delta)
        if isinstance(message, dict):
            # A complete answer; some servers repeat it at the end of the stream.
            text, thinking = _pieces_of(message)
            said = "".join(self._said)
            return (text.removeprefix(said), thinking if not said else "")
        return text_in(choice.get("text"))

    def _note_reason(self, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        # vLLM and SGLang say which of the stop texts it was, or the id of a token.
        matched = choice.get("stop_reason", choice.get("matched_stop"))
        if isinstance(reason, dict):  # older SGLang: {"type": "stop", "matched": 2}
            matched, reason = reason.get("matched"), reason.get("type")
        if reason in _NOT_YET:
            return
        self._stop_text = matched if isinstance(matched, str) else ""
        end = end_of(reason) if isinstance(reason, str) else None
        if self._offers_tools and reason in TOOL_ENDS:
            end = "stop"
        if end is None:
            self._tools.check(has_text=any(self._said))
            raise Unavailable(f"{self._server} cut the answer short: {str(reason)[:64]}")
        self._reason = end

    def finish(self, *, said_done: bool, stray: bytes = b"") -> Chunk:
        """The last chunk; `said_done` is whether the stream ended with `[DONE]`, and `stray` is
        non-event content.

        Raises:
            Unavailable: nothing indicated that the answer is complete, or the model called a tool
            instead of answering.
        """
        calls = self._tools.calls()
        has_called = self._has_called or bool(calls)
        self._has_answer = self._has_answer or has_called
        if self._reason is None and not (said_done and self._has_answer):
            text = " ".join(stray.decode("utf-8", "replace").split())
            why = f": {text}" if text else ""
            raise Unavailable(
                f"{self._server} closed the stream before its answer was complete{why}"
            )
        tool = self._tools.check(has_text=any(self._said))
        usage, reason = self._usage, self._reason or "stop"
        is_lacking = self._lacks_logprobs and self._has_answer
        lacking = missing_warning(self._server) if is_lacking else ""
        figures = {"reasoning_tokens": usage.reasoning, "cached_tokens": usage.cached}
        extra: dict[str, Any] = {name: count for name, count in figures.items() if count}
        if self._stop_text:
            extra["stop_text"] = self._stop_text
        return Chunk(
            self._text.add(self._late[0]) + self._text.rest(),
            done=True,
            reason="tool_calls" if has_called and reason == "stop" else reason,
            tool_calls=calls,
            prompt_tokens=usage.prompt,
            completion_tokens=usage.completion,
            thinking=self._thinking.add(self._late[1]) + self._thinking.rest(),
            extra=extra,
            warning="; ".join(filter(None, (tool, lacking, self._other_model()))),
        )

    def _other_model(self) -> str:
        """A warning if another model answered: LM Studio uses the one that is loaded. Longer or
        shorter names of the same model do not count, such as with a version or without a path."""
        asked, answered = _plain(self._asked), _plain(self._answered_by)
        if not asked or not answered or asked in answered or answered in asked:
            return ""
        return f"{self._server} answered with the model {self._answered_by[:128]!r}"


def _plain(name: str) -> str:
    return "".join(c for c in name.lower().removesuffix(".gguf") if c.isalnum())


def _pieces_of(message: dict[str, Any]) -> tuple[str, str]:
    """(text, thinking) of a delta or a message."""
    text, thinking = text_in(message.get("content"))
    # OpenAI's models may send a refusal instead of an answer.
    refusal = message.get("refusal")
    if isinstance(refusal, str):
        text += refusal
    # Models that speak send the words of the sound beside it.
    audio = message.get("audio")
    if isinstance(audio, dict) and isinstance(audio.get("transcript"), str):
        text += audio["transcript"]
    for key in _THINKING:
        if isinstance(found := message.get(key), str | list) and found:
            more = text_in(found)
            thinking += "".join(more)
            break
    return text, thinking
