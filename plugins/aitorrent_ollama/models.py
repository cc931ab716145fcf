"""Models as Ollama describes them: `/api/tags`, `/api/show`, `/api/ps`. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from aitorrentd.api import ModelView
from aitorrentd.api.fields import whole_or

_NUM_CTX: Final = re.compile(r"^num_ctx[ \t]+(\d{1,9})[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Shown:
    """What `/api/show` says about a model."""

    trained_context: int | None = None
    "Tokens that the model was made for; Ollama uses fewer unless told otherwise."
    num_ctx: int | None = None
    "What the model's Modelfile sets."
    can_answer: bool = True
    "Whether it answers prompts; a model for embeddings does not."

    @classmethod
    def of(cls, shown: dict[str, Any]) -> Shown:
        """From an answer of `/api/show`.

        Servers before 0.6.4 list no capabilities: of theirs nothing is left out.
        """
        able = shown.get("capabilities")
        parameters = shown.get("parameters")
        found = _NUM_CTX.search(parameters) if isinstance(parameters, str) else None
        return cls(
            trained_context=_trained_context(shown.get("model_info")),
            num_ctx=int(found[1]) or None if found else None,
            can_answer=not (isinstance(able, list) and able and "completion" not in able),
        )


def _trained_context(facts: object) -> int | None:
    """`<architecture>.context_length`."""
    if not isinstance(facts, dict):
        return None
    return whole_or(facts, f"{facts.get('general.architecture')}.context_length", None, 1)


def context_in_use(shown: Shown, loaded: int | None, configured: int | None) -> int | None:
    """Tokens of context with which Ollama answers a request of ours, or None when only Ollama knows
    because neither we nor the Modelfile say so and the model is not in memory.

    `loaded` is what `/api/ps` says, `configured` what each request asks for.
    """
    wanted = configured or shown.num_ctx
    if wanted is None:
        return loaded
    # Ollama cuts what is more than the model was made for.
    return min(wanted, shown.trained_context or wanted)


def view(tag: dict[str, Any], shown: Shown, context: int | None) -> ModelView:
    """A model of `/api/tags`."""
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
    )
