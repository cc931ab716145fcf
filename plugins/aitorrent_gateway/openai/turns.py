"""Turns of a conversation in OpenAI's chat, as one of this node. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aitorrent_gateway.core.fields import flag, images_of, parts_of, present, unsupported, wrong

_KEPT: Final = frozenset({"role", "content", "images", "tool_calls", "tool_call_id"})
# Fields that clients repeat from answers, and that say nothing to the model.
_NO_EFFECT: Final = frozenset(
    {"name", "prefix", "refusal", "annotations", "reasoning", "reasoning_content", "audio", "id"}
)
_NOTHING: Final[dict[str, Any]] = {"tool_calls": [], "function_call": {}}


def continues(fields: Mapping[str, Any], last: Any) -> bool:
    """Whether the answer shall go on with the `last` message, as vLLM and SGLang (a field), or
    Mistral and DeepSeek (`prefix` in the message) have it.

    Raises:
        InvalidParams: with `param` in its data.
    """
    turn = last if isinstance(last, dict) else {}
    name, is_begun = "continue_final_message", turn.get("role") == "assistant"
    wanted = flag(name, fields.get(name, False))
    if wanted and not is_begun:
        raise wrong(name, "requires messages that end with text of the assistant")
    wanted = wanted or (is_begun and turn.get("prefix") is True)
    if flag("add_generation_prompt", fields.get("add_generation_prompt", not wanted)) is wanted:
        raise unsupported("add_generation_prompt")
    return wanted


def turn_of(index: int, value: Any, unknown: set[str]) -> dict[str, Any]:
    """The fields of a `Message` for `messages[index]`; names that nobody knows go to `unknown`.

    Raises:
        InvalidParams: with `param` in its data.
    """
    name = f"messages[{index}]"
    if not isinstance(value, dict):
        raise wrong(name, "must be an object")
    turn = present(value)
    for key, nothing in _NOTHING.items():
        if turn.get(key) == nothing:
            del turn[key]
    if "function_call" in turn:
        raise unsupported(f"{name}.function_call")
    unknown.update(f"messages.{key}" for key in turn.keys() - _KEPT - _NO_EFFECT)
    turn = {key: field for key, field in turn.items() if key in _KEPT}
    if turn.get("role") in ("assistant", "tool"):  # a tool may have nothing to say
        turn.setdefault("content", "")
    if "tool_calls" in turn:
        turn["tool_calls"] = _calls(f"{name}.tool_calls", turn["tool_calls"])
    if "content" in turn:
        turn["content"] = parts_of(f"{name}.content", turn["content"])
    images_of(f"{name}.images", turn.get("images"))
    return turn


def _calls(name: str, value: Any) -> list[dict[str, Any]]:
    """Earlier calls of tools; of what clients add to them, such as signatures, nothing is kept."""
    if not isinstance(value, list):
        raise wrong(name, "must be a list")
    calls = []
    for index, each in enumerate(value):
        function = each.get("function") if isinstance(each, dict) else None
        if not isinstance(function, dict):
            raise wrong(f"{name}[{index}]", "must be a call of a function")
        calls.append(
            {
                "id": each.get("id"),
                "name": function.get("name"),
                "arguments": function.get("arguments"),
            }
        )
    return calls
