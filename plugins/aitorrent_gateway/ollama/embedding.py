"""Texts as vectors, for Ollama's clients: `/api/embed`, and `/api/embeddings` from before it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.core.fields import explained, flag, ignored_header, present, wrong
from aitorrent_gateway.ollama import names, options
from aitorrent_gateway.ollama.requests import model_of
from aitorrentd.api import Clock, Embeddings, EmbedRequest, Inference, NotFound

_COMMON = frozenset({"model", "name", "options"})
_EMBED = _COMMON | {"input", "truncate", "dimensions"}
_EMBEDDINGS = _COMMON | {"prompt"}


async def embed(request: Request, inference: Inference, clock: Clock) -> JSONResponse:
    """POST /api/embed: one vector for each text.

    Raises:
        InvalidParams, NotFound and others, as `Inference.embed`.
    """
    fields = present(json_object(await request.body()))
    asked_s = clock.monotonic()
    given = fields.get("input", "")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise wrong("input", "must be a string or a list of strings")
    found = await _vectors(inference, fields, texts if given else [])
    value: dict[str, Any] = {
        "model": model_of(fields),
        "embeddings": [list(vector) for vector in found.vectors],
        "total_duration": round((clock.monotonic() - asked_s) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": found.tokens,
    }
    return JSONResponse(value, headers=ignored_header(fields, _EMBED))


async def embeddings(request: Request, inference: Inference) -> JSONResponse:
    """POST /api/embeddings: one vector; errors as in `embed`."""
    fields = present(json_object(await request.body()))
    prompt = fields.get("prompt", "")
    if not isinstance(prompt, str):
        raise wrong("prompt", "must be a string")
    found = await _vectors(inference, fields, [prompt] if prompt else [])
    vector = list(found.vectors[0]) if found.vectors else []
    return JSONResponse({"embedding": vector}, headers=ignored_header(fields, _EMBEDDINGS))


async def _vectors(inference: Inference, fields: dict[str, Any], texts: list[str]) -> Embeddings:
    model = model_of(fields)
    options.params_of(fields.get("options", {}))  # refused if wrong; they do not matter here
    if not texts:
        await names.found(inference, model)
        return Embeddings((), 0)
    made = {
        "model": await names.resolved(inference, model),
        "texts": texts,
        "dimensions": fields.get("dimensions"),
        "truncate": flag("truncate", fields.get("truncate", True)),
    }
    try:
        request = EmbedRequest.model_validate(made)
    except ValidationError as e:
        raise explained(e) from None
    try:
        return await inference.embed(request)
    except NotFound as e:
        raise names.missing(model, e.message) from None
