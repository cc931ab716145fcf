"""Models that can answer now, each once: callers of the API do not learn which peer has which."""

from __future__ import annotations

from aitorrentd.api import Inference, ModelView, NotFound


async def answering_models(inference: Inference) -> list[ModelView]:
    """All of them, by name."""
    found: dict[str, ModelView] = {}
    for view in await inference.models():
        found.setdefault(view.name, view)
    return [found[name] for name in sorted(found)]


async def answering_model(inference: Inference, name: str) -> ModelView:
    """The one of this name.

    Raises:
        NotFound: no model of that name can answer now.
    """
    for view in await inference.models():
        if view.name == name:
            return view
    raise NotFound(
        f"no model {name[:200]!r} can answer now; see /v1/models",
        http_code="model_not_found",
        param="model",
    )
