"""Models as Ollama describes them: `/api/tags`, `/api/show`, `/api/ps`. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from aitorrentd.api import ModelView
from aitorrentd.api.fields import whole_or

_NUM_CTX: Final = re.compile(r"^num_ctx[ \t]+(\d{1,9})[ \t]*$", re.MULTILINE)

# Features, and what Ollama calls them.
_CAPABILITIES: Final = {"tools": "tools", "images": "vision", "think": "thinking"}


@dataclass(frozen=True, slots=True)
class Shown:
    """The relevant part of an `/api/show` response."""

    trained_context: int | None = None
    "Tokens that the model was trained for; Ollama uses fewer by default."
    num_ctx: int | None = None
    "The value in the model's Modelfile."
    can_answer: bool = True
    "Whether it answers prompts; embedding models do not."
    can_embed: bool = True
    "Whether it is made to turn texts into vectors."
    lacks: frozenset[str] = frozenset()
    "Features that other models of Ollama have."

    @classmethod
    def of(cls, shown: dict[str, Any]) -> Shown:
        """Parse an `/api/show` response.

        Servers before 0.6.4 list no capabilities; then every model counts as able to do both.
        """
        stated = shown.get("capabilities")
        able = stated if isinstance(stated, list) else []
        parameters = shown.get("parameters")
        found = _NUM_CTX.search(parameters) if isinstance(parameters, str) else None
        return cls(
            trained_context=_trained_context(shown.get("model_info")),
            num_ctx=int(found[1]) or None if found else None,
            can_answer=not able or "completion" in able,
            can_embed=not able or "embedding" in able,
            lacks=frozenset(f for f, name in _CAPABILITIES.items() if able and name not in able),
        )


def _trained_context(facts: object) -> int | None:
    """`<architecture>.context_length`."""
    if not isinstance(facts, dict):
        return None
    return whole_or(facts, f"{facts.get('general.architecture')}.context_length", None, 1)


def context_in_use(shown: Shown, loaded: int | None, configured: int | None) -> int | None:
    """Tokens of context that Ollama uses for our requests, or None if only Ollama knows, because
    neither we nor the Modelfile set it and the model is not in memory.

    `loaded` comes from `/api/ps`; `configured` is the value sent with each request.
    """
    wanted = configured or shown.num_ctx
    if wanted is None:
        return loaded
    # Ollama caps the context at what the model was trained for.
    return min(wanted, shown.trained_context or wanted)


def view(tag: dict[str, Any], shown: Shown, context: int | None) -> ModelView:
    """The view of a model from `/api/tags`."""
    details = tag.get("details")
    details = details if isinstance(details, dict) else {}
    parts = [details.get("parameter_size"), details.get("quantization_level")]
    if shown.trained_context and shown.trained_context != context:
        parts.append(f"made for {shown.trained_context} tokens")
    return ModelView(
        name=tag["name"],
        backend="ollama",
        size_bytes=whole_or(tag, "size", None),
        family=str(details.get("family") or ""),
        context_length=context,
        detail=" ".join(str(part) for part in parts if part),
        lacks=shown.lacks,
    )
