"""Models that can answer now, each once: callers of the API do not learn which peer has which."""

from __future__ import annotations

from aitorrentd.api import GenerateRequest, Inference, ModelView, NotFound


async def named(request: GenerateRequest, inference: Inference) -> GenerateRequest:
    """The request, with the name of the node's default model if it names none."""
    if request.model:
        return request
    return request.model_copy(update={"model": await inference.default_model()})


async def answering_models(inference: Inference) -> list[ModelView]:
    """All of them, by name."""
    found: dict[str, ModelView] = {}
    for view in await inference.models():
        found.setdefault(view.name, view)
    return [found[name] for name in sorted(found)]


def model_is_missing(name: str) -> NotFound:
    """The error about a model that a client named."""
    return NotFound(
        f"no model {name[:200]!r} can answer now; see /v1/models",
        http_code="model_not_found",
        param="model",
    )
