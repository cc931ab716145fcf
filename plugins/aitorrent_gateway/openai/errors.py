"""Errors of a generation, with the codes on which OpenAI's clients act. No I/O."""

from __future__ import annotations

from typing import Final

from aitorrentd.api import AitorrentError, InvalidParams, NotFound

# Parameters of this node that OpenAI's clients know by another name.
_NAMES: Final = {"format": "response_format", "think": "reasoning_effort", "images": "messages"}


def translated(error: AitorrentError) -> AitorrentError:
    """The same error, with `http_code` and `param` in its data."""
    if isinstance(error, NotFound):
        error.data = {**error.data, "http_code": "model_not_found", "param": "model"}
    elif isinstance(error, InvalidParams) and "context" in error.data:
        # Agents shorten their conversation on this code.
        error.data = {
            **error.data,
            "http_code": "context_length_exceeded",
            "param": "messages",
        }
    elif isinstance(error, InvalidParams) and "param" not in error.data:
        refused = error.data.get("params")
        if isinstance(refused, list) and refused and isinstance(refused[0], str):
            name = _NAMES.get(refused[0], refused[0])
            error.data = {**error.data, "http_code": "unsupported_value", "param": name}
    return error


def room_left(error: AitorrentError) -> int | None:
    """How many tokens fit after a prompt that is short enough, if only `max_tokens` is not."""
    if not isinstance(error, InvalidParams) or "max_tokens" not in error.data:
        return None
    context, prompt = error.data.get("context"), error.data.get("prompt_tokens")
    if type(context) is not int or type(prompt) is not int or not prompt < context:
        return None
    return context - prompt
