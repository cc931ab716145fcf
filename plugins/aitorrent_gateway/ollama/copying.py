"""`/api/copy`: a further name of a model, for this node's clients. No bytes are copied."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aitorrent_gateway.core.aliases import MAX_MODEL_CHARS, Aliases
from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.core.fields import present, text_of, wrong
from aitorrent_gateway.core.naming import own_name
from aitorrent_gateway.ollama import names
from aitorrentd.api import Conflict, Inference, NotFound


async def copy(request: Request, inference: Inference, aliases: Aliases) -> Response:
    """POST /api/copy.

    Raises:
        InvalidParams: a name is none. NotFound: no such model can answer now. Conflict: the
        destination is a model, or a name in the settings.
    """
    fields = present(json_object(await request.body()))
    source, wanted = _name(fields, "source"), _name(fields, "destination")
    answering, embedding = await names.known(inference)
    views = answering + embedding
    view = names.pick(source, views)
    if view is None:
        raise NotFound(f'model "{source[:200]}" not found')
    destination = wanted.removesuffix(names.LATEST)
    if aliases.is_configured(destination):
        raise Conflict(f"the name {destination!r} is in plugins.gateway.aliases; change it there")
    there = None if aliases.is_saved(destination) else names.pick(wanted, views)
    if there is view or destination == view.name:
        return Response()
    if there is not None:
        raise Conflict(f"there is a model {there.name!r} already; choose another name")
    await aliases.save(destination, own_name(inference, view.name))
    return Response()


async def forget_copy(name: str, aliases: Aliases) -> bool:
    """Whether `name` was a copy; then it is no more.

    Raises:
        Conflict: the name is in the settings.
    """
    own = name.removesuffix(names.LATEST)
    if aliases.is_configured(own):
        raise Conflict(f"the name {own!r} is in plugins.gateway.aliases; remove it there")
    if not aliases.is_saved(own):
        return False
    await aliases.forget(own)
    return True


def _name(fields: dict[str, Any], field: str) -> str:
    value = text_of(field, fields.get(field, ""))
    if not 0 < len(value) <= MAX_MODEL_CHARS:
        raise wrong(field, f"is required: a name of at most {MAX_MODEL_CHARS} characters")
    return value
