"""Recognises prompts that a server truncated without saying so. No I/O.

Ollama, and servers built on it, drop the beginning of a prompt that does not fit the context,
answer the rest, and report success; only the token count gives it away (ollama/ollama#3839).
"""

from __future__ import annotations

from typing import Final

from aitorrentd.api.models.inference import GenerateRequest

_BYTES_PER_TOKEN: Final = 8
"More than tokenizers reach on average over a long text in any language."
_HALF_BYTES_PER_TOKEN: Final = 5
_MIN_BYTES: Final = 4096
"Below this, the ratio varies too much, and every context in use is larger."
_USUAL_HALVES: Final = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)
_KEPT: Final = 8
"Ollama keeps the first 4 or 5 tokens, besides the half of the context that it fills."


def text_bytes(request: GenerateRequest) -> int:
    """The size of a request's text as UTF-8, without images."""
    texts = [request.prompt or "", *(message.content for message in request.messages or ())]
    return sum(len(text.encode()) for text in texts)


def truncation(
    who: str, sent_bytes: int, counted: int, context: int | None = None, *, remedy: str
) -> str:
    """A warning if a prompt was truncated; an empty string if it was not, as far as can be told.

    `counted` is the server's count of prompt tokens, 0 if it gives none; `context` is the context
    length that it uses, if known; `remedy` follows "shorten it, or ".
    """
    if not counted:
        return ""
    if context is not None and counted >= context:
        what = f"the prompt was truncated: {who} read {counted} tokens, all that its context holds"
    elif sent_bytes >= _MIN_BYTES and _is_improbable(sent_bytes, counted, context):
        what = (
            f"the prompt was probably truncated: {who} counted only {counted} tokens in "
            f"{sent_bytes} bytes of text"
        )
    else:
        return ""
    return f"{what}; shorten it, or {remedy}"


def _is_improbable(sent_bytes: int, counted: int, context: int | None) -> bool:
    if context is not None and sent_bytes <= context:
        return False  # even with a token per byte it fits
    if sent_bytes > _BYTES_PER_TOKEN * counted:
        return True
    # Of a prompt that exceeds the context, Ollama keeps as much as fills half of it.
    halves = _USUAL_HALVES if context is None else (context // 2,)
    is_half = any(0 <= counted - half <= _KEPT for half in halves)
    return is_half and sent_bytes > _HALF_BYTES_PER_TOKEN * counted
