"""Downloads for Ollama's clients: files of a model that a catalogue lists, from the swarm.

Names are resolved in catalogues only: a request never makes the node connect to a place that it
names itself (CVE-2026-5530 was such a hole in another server's pull).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aitorrent_gateway.core.aliases import Aliases
from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.core.fields import present
from aitorrent_gateway.ollama.copying import forget_copy
from aitorrent_gateway.ollama.names import LATEST, missing
from aitorrent_gateway.ollama.requests import model_of, streams
from aitorrent_gateway.ollama.shapes import NDJSON, line
from aitorrentd.api import AitorrentError, Conflict, MethodNotFound, NotFound, Registry, Unavailable
from aitorrentd.api.context import Caller
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.streaming import Stream
from aitorrentd.api.models.weights import ModelFiles, ModelNames, WantedFile, Weights
from aitorrentd.api.tasks import beside

EVERY_S: Final = 0.5
"How often a line tells the progress."
LOADING_S: Final = 5.0
"How often a line tells that the model is loading."
CONFIG: Final = "config.json"
SCHEME: Final = "catalogue"
_SHORT: Final = 12
"Digits of a digest that clients show."
Names = Registry[ModelNames]


async def pull(
    request: Request,
    names: Names | None,
    weights: Weights | None,
    caller: Caller,
    aliases: Aliases,
) -> App:
    """POST /api/pull: download a model and, if this node can compute it, serve it by this name. A
    client that leaves pauses the download; what arrived is kept.

    Raises:
        NotFound: no catalogue lists the model. Unavailable: there is no catalogue, or no seeding.
    """
    fields = present(json_object(await request.body()))
    name = model_of(fields)
    is_stream = streams(fields)
    model = await _resolved(names, name)
    if weights is None:
        raise Unavailable("downloads need the seeding plugin: aitorrentctl plugin enable seeding")
    await aliases.forget(name.removesuffix(LATEST))  # a copy of that name would hide the model
    lines = _lines(model, weights, name.removesuffix(LATEST), caller)
    if is_stream:
        return Stream(_said(lines), NDJSON)
    return JSONResponse([value async for value in lines][-1])


async def delete(
    request: Request, names: Names | None, caller: Caller, aliases: Aliases
) -> Response:
    """DELETE /api/delete: stop seeding the files of a model, and delete those that were fetched. Of
    a copy, only the name goes.

    Raises:
        NotFound: none of its files is here. Conflict: the node serves the model from them, or the
        name is in the settings.
    """
    name = model_of(present(json_object(await request.body())))
    if await forget_copy(name, aliases):
        return Response()
    if not _has_catalogue(names):
        raise missing(name)  # nothing can have been pulled
    model = await _resolved(names, name)
    served = await _served(caller)
    if served.get(model.name) == name.removesuffix(LATEST):
        await caller.call("shards.remove_model", {"name": served[model.name]})
    elif model.name in served:
        raise Conflict(
            f"the files are in use: first `aitorrentctl model remove {served[model.name]}`"
        )
    here = {row["sha256"] for row in (await caller.call("seeding.torrents"))["torrents"]}
    gone = [file.sha256 for file in _files(model) if file.sha256 in here]
    if not gone:
        raise missing(name, "none of its files is here")
    for sha256 in gone:
        await caller.call("seeding.remove", {"which": sha256, "files": True})
    await aliases.forget_model(name.removesuffix(LATEST))
    return Response()


async def _served(caller: Caller) -> dict[str, str]:
    """Names of models that this node serves, by the repository that they are fetched from."""
    try:
        rows = (await caller.call("shards.models"))["models"]
    except (MethodNotFound, Unavailable):
        return {}
    sources = ((row["source"].partition("://")[2].partition("@")[0], row["name"]) for row in rows)
    return {source: name for source, name in sources if source}


def _has_catalogue(names: Names | None) -> bool:
    return names is not None and SCHEME in names.names()


async def _resolved(names: Names | None, name: str) -> ModelFiles:
    if names is None or not _has_catalogue(names):
        raise Unavailable(
            "models are pulled from catalogues, and none is configured; set"
            " plugins.catalogue.servers, or use `aitorrentctl model add`"
        )
    repo, _, revision = name.removesuffix(LATEST).partition(":")
    try:
        return await names.get(SCHEME).resolve(repo, revision)
    except NotFound as e:
        raise missing(name, e.message) from None


def _files(model: ModelFiles) -> list[WantedFile]:
    # Catalogues list no files without a digest.
    return [file for _, file in model.files if isinstance(file, WantedFile)]


async def _said(lines: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[bytes]:
    try:
        async for value in lines:
            yield line(value)
    except AitorrentError as e:
        yield line({"error": e.message})


async def _lines(
    model: ModelFiles, weights: Weights, name: str, caller: Caller
) -> AsyncGenerator[dict[str, Any]]:
    yield {"status": "pulling manifest"}
    for file in _files(model):
        async for value in _fetched(file, weights):
            yield value
    for status in ("verifying sha256 digest", "writing manifest"):
        yield {"status": status}
    # A file alone, such as one in GGUF, is no model that stages compute.
    if any(path == CONFIG for path, _ in model.files):
        async for value in _served_as(name, model, caller):
            yield value
    yield {"status": "success"}


async def _served_as(
    name: str, model: ModelFiles, caller: Caller
) -> AsyncGenerator[dict[str, Any]]:
    """Load a model that is on the disk, unless the node serves it already or computes none.

    Raises:
        Unavailable: it cannot be loaded, with the reason; the files stay.
    """
    try:
        rows = (await caller.call("shards.models"))["models"]
    except (MethodNotFound, Unavailable):
        return
    source = f"{SCHEME}://{model.name}"
    if any(row["source"].partition("@")[0] == source or row["name"] == name for row in rows):
        return
    params = {"name": name, "source": f"{source}@{model.revision}"}
    async with beside(caller.call("shards.add_model", params), "gateway: load") as adding:
        while not adding.done():
            yield {"status": "loading model"}
            await asyncio.wait({adding}, timeout=LOADING_S)
        try:
            adding.result()
        except AitorrentError as e:
            with suppress(AitorrentError):  # a model that was refused at once was not added
                await caller.call("shards.remove_model", {"name": name})
            raise Unavailable(
                f"model {name[:200]!r} was downloaded, but this node cannot answer with it:"
                f" {e.message}"
            ) from None


async def _fetched(file: WantedFile, weights: Weights) -> AsyncGenerator[dict[str, Any]]:
    status = {"status": f"pulling {file.sha256[:_SHORT]}", "digest": f"sha256:{file.sha256}"}
    fetch = await weights.fetch(file)
    try:
        async with beside(fetch.wait(), "gateway: pull") as waiting:
            while not waiting.done():
                now = fetch.progress()
                yield {**status, "total": now.total or file.size, "completed": now.done}
                await asyncio.wait({waiting}, timeout=EVERY_S)
            waiting.result()  # verified, or why not
        total = fetch.progress().total or file.size
        yield {**status, "total": total, "completed": total}
    finally:
        fetch.release()
