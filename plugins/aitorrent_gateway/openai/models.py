"""Models in OpenAI's shape, with the keys that Anthropic's clients read from the same path."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse

from aitorrent_gateway.core.models import answering_models, model_is_missing
from aitorrentd.api import Inference, ModelView


async def listed(inference: Inference, began: int) -> JSONResponse:
    """GET /v1/models. Of a model that several nodes have there is one entry, which names no
    peer. Embedding models are among them."""
    found = [_shown(view, began) for _, view in sorted((await _models(inference)).items())]
    ids = [model["id"] for model in found]
    return JSONResponse(
        {
            "object": "list",
            "data": found,
            "has_more": False,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
        }
    )


async def one(inference: Inference, began: int, name: str) -> JSONResponse:
    """GET /v1/models/NAME.

    Raises:
        NotFound: no model of that name can answer now.
    """
    view = (await _models(inference)).get(name)
    if view is None:
        raise model_is_missing(name)
    return JSONResponse(_shown(view, began))


async def _models(inference: Inference) -> dict[str, ModelView]:
    views = [*await inference.embedding_models(), *await answering_models(inference)]
    return {view.name: view for view in views}


def _shown(view: ModelView, began: int) -> dict[str, Any]:
    model: dict[str, Any] = {
        "id": view.name,
        "object": "model",
        "type": "model",
        "created": began,
        "created_at": datetime.fromtimestamp(began, UTC).isoformat().replace("+00:00", "Z"),
        "owned_by": "aitorrent",
        "display_name": view.name,
        "lifecycle": "active",
    }
    if view.context_length is not None:
        model["context_length"] = model["max_input_tokens"] = view.context_length
    return model
