"""Token counts in an answer, wherever a server puts them. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from aitorrentd.api.fields import count_of

_PROMPT: Final = ("prompt_tokens", "input_tokens")
_COMPLETION: Final = ("completion_tokens", "output_tokens")
_PROMPT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details")
_CACHED: Final = ("cached_tokens", "prompt_cache_hit_tokens")
_DETAILS: Final = ("completion_tokens_details", "output_tokens_details")
_REASONING: Final = ("reasoning_tokens", "thinking_tokens")


class Usage:
    """The latest counts; a count that a later event lacks or zeroes stays."""

    def __init__(self) -> None:
        self.prompt = 0
        self.completion = 0
        self.cached = 0
        "Tokens of the prompt that the server had in its cache."
        self.reasoning = 0
        "Tokens of hidden thinking, usually a part of `completion`."

    def note(self, event: Mapping[str, Any]) -> None:
        """Take over the counts in an event: in `usage`, in a choice (Moonshot) or in `x_groq`, or
        llama.cpp's `timings`."""
        for found in _places(event):
            self.prompt = _first(found, _PROMPT) or self.prompt
            self.completion = _first(found, _COMPLETION) or self.completion
            spared = _details(found, _PROMPT_DETAILS)
            self.cached = _first(spared, _CACHED) or _first(found, _CACHED) or self.cached
            details = _details(found, _DETAILS)
            hidden = _first(details, _REASONING) or _first(found, _REASONING)
            if not hidden:
                # Gemini counts the thinking in the total alone.
                hidden = count_of(found.get("total_tokens")) - self.prompt - self.completion
            self.reasoning = hidden if hidden > 0 else self.reasoning
        timings = event.get("timings")
        if isinstance(timings, dict):
            self.cached = self.cached or count_of(timings.get("cache_n"))
        if isinstance(timings, dict) and not self.completion:
            self.completion = count_of(timings.get("predicted_n"))
            self.prompt = self.prompt or count_of(timings.get("prompt_n"))


def _places(event: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    choices = event.get("choices")
    holders = [event, event.get("x_groq"), *(choices if isinstance(choices, list) else ())]
    for holder in holders:
        if isinstance(holder, dict) and isinstance(usage := holder.get("usage"), dict):
            yield usage


def _details(found: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    return next((found[name] for name in names if isinstance(found.get(name), dict)), {})


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((n for name in names if (n := count_of(fields.get(name)))), 0)
