"""How long an answer may become. No I/O.

Stages reserve memory for the whole answer when it begins, so an answer whose length nobody limited
takes at most half of what is free: the next one finds room too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aitorrent_shards.models.generation_config import GenerationSettings
from aitorrent_shards.protocol.spans import Span
from aitorrentd.api import InvalidParams
from aitorrentd.api.models.sampling import REST_OF_CONTEXT

DEFAULT_MAX_TOKENS: Final = 4096
"Of an answer without a limit of its own."
LEAST_MAX_TOKENS: Final = 256
"The same while memory is short."


def free_positions(spans: Sequence[Span]) -> int | None:
    """Positions for which every layer of `spans` has memory at one of its holders, as they last
    said; None without spans."""
    most: dict[int, int] = {}
    for span in spans:
        for layer in range(span.start, span.end):
            most[layer] = max(most.get(layer, 0), span.free_positions)
    return min(most.values(), default=None)


def room_for(
    prompt: int,
    max_tokens: int | None,
    context: int | None,
    *,
    model: str,
    settings: GenerationSettings,
    free: int | None = None,
) -> int:
    """The maximum number of new tokens for an answer. `settings` are the model's own; `free` is the
    number of positions for which there is memory, None = unknown.

    Raises:
        InvalidParams: prompt and new tokens together exceed the model's context.
    """
    if context is not None and prompt >= context:
        raise InvalidParams(
            f"the prompt has {prompt} tokens; {model} has a context of {context} tokens, "
            "including the answer; shorten the prompt",
            prompt_tokens=prompt,
            context=context,
        )
    if max_tokens is not None and max_tokens != REST_OF_CONTEXT:
        if context is not None and prompt + max_tokens > context:
            raise InvalidParams(
                f"the prompt has {prompt} tokens, which with max_tokens {max_tokens} exceeds the "
                f"context of {context} tokens of {model}; shorten the prompt or lower max_tokens",
                prompt_tokens=prompt,
                max_tokens=max_tokens,
                context=context,
            )
        return max_tokens
    if max_tokens == REST_OF_CONTEXT and context is not None:
        usual = context - prompt
    else:
        usual = settings.max_new_tokens or DEFAULT_MAX_TOKENS
        if settings.max_length is not None and settings.max_length > prompt:
            usual = min(usual, settings.max_length - prompt)
    if free is not None:
        usual = min(usual, max(free // 2 - prompt, LEAST_MAX_TOKENS))
    return usual if context is None else min(usual, context - prompt)
