"""Names of models as Ollama writes them: one without a tag means `:latest`."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import chain
from typing import Final

from aitorrent_gateway.core.models import answering_models
from aitorrent_gateway.core.naming import own_name
from aitorrentd.api import (
    Backend,
    Inference,
    InvalidParams,
    KnowsPending,
    ModelView,
    NotFound,
    PendingModel,
    Registry,
    Unavailable,
)

_log: Final = logging.getLogger("aitorrentd.gateway")
LATEST: Final = ":latest"
_UNSUPPORTED: Final = re.compile(
    r"(?:does not support|cannot apply) (tools|think|thinking)\b(.*)", re.DOTALL
)


def tagged(name: str) -> str:
    """A name with its tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def missing(name: str, reason: str = "") -> NotFound:
    """The error for a model that is not there; clients look for its first words."""
    text = f"model '{name[:200]}' not found"
    for each in (name, name.removesuffix(LATEST)):
        listed = reason.removeprefix(f"no model {each!r}; available models: ")
        if listed != reason:
            return NotFound(f"{text}; available: {listed}")
        reason = reason.removeprefix(f"no model {each!r}").removeprefix("; ")
    return NotFound(f"{text}: {reason}" if reason else text)


def absent(
    inference: Inference, name: str, backends: Registry[Backend] | None
) -> NotFound | Unavailable:
    """The error for a model that cannot answer now: a backend of this node may know why."""
    own = {own_name(inference, each) for each in (name, name.removesuffix(LATEST))}
    there = [] if backends is None else [backends.get(each) for each in backends.names()]
    for model in chain.from_iterable(map(_pending, there)):
        if model.name in own and model.detail:
            return Unavailable(f"model {model.name} cannot answer now: {model.detail}")
    return missing(name)


def _pending(backend: Backend) -> Sequence[PendingModel]:
    if not isinstance(backend, KnowsPending):
        return ()
    try:
        return backend.pending()
    except Exception:
        _log.exception("backend %s failed to list what it is waiting for", backend.name)
        return ()


def unsupported(name: str, error: InvalidParams) -> InvalidParams:
    """The same error; if the model has no tools or no thinking, in words that clients look for."""
    found = _UNSUPPORTED.search(error.message)
    if found is None:
        return error
    what = "tools" if found[1] == "tools" else "thinking"
    return InvalidParams(f'"{name[:200]}" does not support {what}{found[2]}', **error.data)


def pick(name: str, views: list[ModelView]) -> ModelView | None:
    """The view that a client means."""
    by_name = {view.name: view for view in views}
    exact = by_name.get(name) or by_name.get(tagged(name))
    return exact or by_name.get(name.removesuffix(LATEST))


async def known(inference: Inference) -> tuple[list[ModelView], list[ModelView]]:
    """The models that answer, and those that turn texts into vectors and do not answer."""
    answering = await answering_models(inference)
    names = {view.name for view in answering}
    embedding: dict[str, ModelView] = {}
    for view in await inference.embedding_models():
        if view.name not in names:
            embedding.setdefault(view.name, view)
    return answering, [embedding[name] for name in sorted(embedding)]


async def resolved(inference: Inference, name: str) -> str:
    """The node's own name for a model; the node itself knows that a missing tag means `:latest`."""
    if not name.endswith(LATEST):
        return name
    answering, embedding = await known(inference)
    view = pick(name, answering + embedding)
    return name if view is None else view.name


async def found(
    inference: Inference, name: str, backends: Registry[Backend] | None = None
) -> ModelView:
    """The model that a client means.

    Raises:
        NotFound: there is none. Unavailable: one of `backends` knows it; it cannot answer now.
    """
    answering, embedding = await known(inference)
    view = pick(name, answering + embedding)
    if view is None:
        raise absent(inference, name, backends)
    return view
