"""POST /v1/embeddings: texts as vectors."""

from __future__ import annotations

import asyncio
import sys
from array import array
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.core.documents import body_of
from aitorrent_gateway.core.encoding import encoded
from aitorrent_gateway.core.fields import explained, ignored_header, one_of, present, wrong
from aitorrent_gateway.openai.errors import openai_error
from aitorrentd.api import AitorrentError, Embeddings, EmbedRequest, Inference, InvalidParams
from aitorrentd.api.faces.asgi import App

_KNOWN: Final = frozenset({"dimensions", "encoding_format", "input", "model", "user"})
_FORMATS: Final = {"float": False, "base64": True}
_NAMES: Final = {"prompt": "input", "texts": "input"}
_MANY_NUMBERS: Final = 50_000
"More are written in a thread: the event loop would stand still."


def embeddings_body() -> dict[str, Any]:
    """The schema of a request to /v1/embeddings."""
    return body_of(_KNOWN, required=["input"])


async def embeddings(request: Request, inference: Inference) -> App:
    """POST /v1/embeddings."""
    body = json_object(await request.body())
    asked, in_base64 = embed_request(body)
    try:
        if not asked.model and (views := await inference.embedding_models()):
            asked = asked.model_copy(update={"model": views[0].name})
        found = await inference.embed(asked)
    except AitorrentError as e:
        if e.data.get("lacking"):  # of the model that was named
            e.data = {**e.data, "param": "model"}
        raise openai_error(e, _NAMES) from e
    numbers = sum(map(len, found.vectors))
    if numbers > _MANY_NUMBERS:
        made = await asyncio.to_thread(_written, asked, found, in_base64=in_base64)
    else:
        made = _written(asked, found, in_base64=in_base64)
    headers = ignored_header(present(body), _KNOWN)
    return Response(made, media_type="application/json", headers=headers)


def embed_request(body: Mapping[str, Any]) -> tuple[EmbedRequest, bool]:
    """(the request, whether the vectors go out in base64).

    Raises:
        InvalidParams: with `param` in its data.
    """
    fields = present(body)
    value = fields.get("input")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise wrong("input", "must be a string or a list of at least one string")
    if any(type(each) in (int, list) for each in texts):
        raise wrong(
            "input",
            "has token ids, which mean other texts to this model; send texts"
            " (in LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))",
        )
    in_base64 = one_of("encoding_format", fields.get("encoding_format", "float"), _FORMATS)
    made = {"model": fields.get("model", ""), "texts": texts}
    if "dimensions" in fields:
        made["dimensions"] = fields["dimensions"]
    try:
        return EmbedRequest.model_validate(made), in_base64
    except ValidationError as e:
        error = explained(e)
        name = error.data.get("param")
        if isinstance(name, str) and name.startswith("texts"):
            own = name.replace("texts", "input", 1)
            raise InvalidParams(error.message.replace("texts", "input", 1), param=own) from None
        raise error from None


def _written(asked: EmbedRequest, found: Embeddings, *, in_base64: bool) -> bytes:
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _in_base64(each) if in_base64 else each.tolist(),
        }
        for index, each in enumerate(found.vectors)
    ]
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return encoded({"object": "list", "data": rows, "model": asked.model, "usage": usage})


def _in_base64(vector: array[float]) -> str:
    """Single-precision numbers, the lowest byte first."""
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return b64encode(vector.tobytes()).decode()
