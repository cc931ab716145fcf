"""Errors of a generation, with the codes on which clients act. No I/O.

`aitorrentd.api.faces.errors.fault_of` has the status, and OpenAI's type and code.
"""

from __future__ import annotations

from collections.abc import Mapping

from aitorrentd.api import AitorrentError, InvalidParams, NotFound, Unavailable


def translated(error: AitorrentError, names: Mapping[str, str]) -> AitorrentError:
    """The same error, with `http_code` and `param` in its data.

    `names` has the dialect's name for a field of `GenerateRequest` or its `params`; a field that
    is not there has the same name.
    """
    if isinstance(error, NotFound):
        error.data = {**error.data, "http_code": "model_not_found", "param": "model"}
    elif isinstance(error, Unavailable) and "layers" in error.data:
        error.data = {**error.data, "http_code": "layers_unavailable"}
    elif isinstance(error, InvalidParams) and "context" in error.data:
        # Agents shorten their conversation on this code.
        error.data = {
            **error.data,
            "http_code": "context_length_exceeded",
            "param": names.get("prompt", "messages"),
        }
    elif isinstance(error, InvalidParams) and "param" not in error.data:
        refused = error.data.get("params")
        if isinstance(refused, list) and refused and isinstance(refused[0], str):
            name = names.get(refused[0], refused[0])
            error.message = _named(error.message, refused[0], name)
            error.data = {**error.data, "http_code": "unsupported_value", "param": name}
    return error


def _named(text: str, field: str, name: str) -> str:
    """A refusal in which a field has the name that the client knows."""
    text = text.replace(f"cannot apply {field}", f"cannot apply {name}")
    if text.startswith(f"{field}: "):
        text = name + text[len(field) :]
    if field == "think" and name not in text:
        text += f"; leave out {name}"
    return text


def prompt_too_long(error: AitorrentError) -> tuple[int, int] | None:
    """(tokens of the prompt, tokens of the model's context) if that is what is wrong."""
    if not isinstance(error, InvalidParams):
        return None
    context, prompt = error.data.get("context"), error.data.get("prompt_tokens")
    if type(context) is not int or type(prompt) is not int:
        return None
    return prompt, context


def room_left(error: AitorrentError) -> int | None:
    """How many tokens fit after a prompt that is short enough, if only `max_tokens` is not."""
    found = prompt_too_long(error)
    if found is None or "max_tokens" not in error.data:
        return None
    prompt, context = found
    return context - prompt if prompt < context else None
