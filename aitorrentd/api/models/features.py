"""What a backend can do beyond text and sampling, so that callers can refuse before they start."""

from __future__ import annotations

from typing import Final, Literal, Protocol, get_args, runtime_checkable

from aitorrentd.api.models.inference import Backend, GenerateRequest

Feature = Literal[
    "context",
    "continues",
    "count_tokens",
    "embed",
    "format",
    "images",
    "logit_bias",
    "logprobs",
    "num_ctx",
    "parallel_tool_calls",
    "repeat_last_n",
    "think",
    "tool_choice",
    "tools",
]
"""A part of a request that not every backend can apply, named as its field. `tool_choice` stands
for choices other than auto and none, and `parallel_tool_calls` for false. `count_tokens` and
`embed` are whole methods."""
FEATURES: Final[frozenset[Feature]] = frozenset(get_args(Feature))
"All of them."
_PARAMS: Final[tuple[Feature, ...]] = (
    "context",
    "continues",
    "format",
    "logit_bias",
    "logprobs",
    "num_ctx",
    "repeat_last_n",
    "think",
)


@runtime_checkable
class KnowsFeatures(Protocol):
    """An optional addition to `Backend`: what it can do."""

    def features(self) -> frozenset[Feature]:
        """Whatever is missing, the backend refuses by name."""


def features_used(request: GenerateRequest) -> frozenset[Feature]:
    """The features that a request needs."""
    used = {name for name in _PARAMS if getattr(request.params, name) is not None}
    messages = request.messages or ()
    if any(message.images for message in messages):
        used.add("images")
    offers = bool(request.tools) and request.tool_choice != "none"
    if offers or any(message.tool_calls for message in messages):
        used.add("tools")
    if offers and request.tool_choice not in (None, "auto"):
        used.add("tool_choice")
    if offers and request.parallel_tool_calls is False:
        used.add("parallel_tool_calls")
    return frozenset(used)


def lacking(backend: Backend, request: GenerateRequest) -> list[Feature]:
    """The features that a request needs and a backend lacks, sorted; empty for a backend that does
    not say."""
    if not isinstance(backend, KnowsFeatures):
        return []
    return sorted(features_used(request) - backend.features())
