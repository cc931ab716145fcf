"""How model servers end an answer and encode its text, in the dialects found in use. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

ENDS: Final[Mapping[str, Literal["stop", "length"]]] = {
    **dict.fromkeys(
        (
            "stop",
            "stop_sequence",
            "stop_token",
            "stop_word",
            "stop_words",
            "stopped",
            "eos",
            "eos_token",
            "eot",
            "eot_id",
            "end",
            "end_of_sequence",
            "end_of_text",
            "end_of_turn",
            "end_token",
            "end_turn",
            "endoftext",
            "complete",
            "completed",
            "done",
            "finish",
            "finished",
            "natural",
            "normal",
            "success",
        ),
        "stop",
    ),
    **dict.fromkeys(
        (
            "length",
            "max_length",
            "max_tokens",
            "max_new_tokens",
            "max_output_tokens",
            "max_completion_tokens",
            "max_total_tokens",
            "max_token",
            "model_length",
            "model_max_length",
            "model_context_window_exceeded",
            "context_length",
            "context_length_exceeded",
            "length_limit",
            "limit",
            "token_limit",
            "tokens_limit",
            "truncated",
            "incomplete",
        ),
        "length",
    ),
}
"""Finish reasons of servers -> ours. Any other reason means a truncated answer and is reported
verbatim.

TGI says `eos_token`, Mistral `model_length`, Anthropic `end_turn` and `max_tokens`, Cohere
`COMPLETE`, Gemini `STOP` and `FINISH_REASON_MAX_TOKENS`, Together `eos`.
"""


def end_of(reason: str) -> Literal["stop", "length"] | None:
    """`stop` or `length` for a server's finish reason, in any case; None if not in the table."""
    name = reason.strip().lower().replace("-", "_").replace(" ", "_")
    return ENDS.get(name.removeprefix("finish_reason_").strip("<|>"))


class TextJoiner:
    """Reassembles characters that servers split between the halves of a surrogate pair.

    JSON escapes a character above U+FFFF as a surrogate pair, and a server that splits its text in
    UTF-16 units may put the halves into two pieces. A lone half becomes U+FFFD.
    """

    def __init__(self) -> None:
        self._held = ""

    def add(self, text: str) -> str:
        """`text` preceded by any half held back before; a leading half at its end is held back."""
        whole = self._held + text
        self._held = ""
        if whole and "\ud800" <= whole[-1] <= "\udbff":
            whole, self._held = whole[:-1], whole[-1]
        return _paired(whole)

    def rest(self) -> str:
        """What is still held back at the end of the text."""
        held, self._held = self._held, ""
        return _paired(held)


def _paired(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def text_in(content: object) -> tuple[str, str]:
    """(text, reasoning) of a message's content: a text, None, or parts of several kinds.

    Raises:
        ValueError: it contains anything else.
    """
    if content is None or isinstance(content, str):
        return content or "", ""
    parts = [content] if isinstance(content, dict) else content
    if not isinstance(parts, list):
        raise ValueError("text that is not a string")
    text, thinking = "", ""
    for part in parts:
        if isinstance(part, dict) and part.get("type") in _THINKING:
            thinking += _thinking(part)
        else:
            text += _text(part)
    return text, thinking


_TEXT: Final = (None, "", "text", "output_text", "input_text", "refusal")
_THINKING: Final = ("thinking", "reasoning", "reasoning_text", "reasoning.text", "summary_text")


def _thinking(part: Mapping[str, Any]) -> str:
    inner = part.get("thinking") or part.get("reasoning") or part.get("text")
    return "".join(map(_text, inner if isinstance(inner, list) else [inner]))


def _text(part: object) -> str:
    if part is None or isinstance(part, str):
        return part or ""
    if not isinstance(part, dict):
        raise ValueError("a text part that is not an object")
    kind = part.get("type")
    if kind not in _TEXT:
        raise ValueError(f"a part of type {str(kind)[:32]!r}, which is not text")
    found = part.get("text", part.get("refusal"))
    if isinstance(found, dict):  # {"value": "…", "annotations": []}
        found = found.get("value")
    if found is not None and not isinstance(found, str):
        raise ValueError("text that is not a string")
    return found or ""
