"""Methods of the control API that add, remove, load and unload models: `shards.add_model`, …"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aitorrent_shards.answering import keeping
from aitorrent_shards.config import ModelEntry
from aitorrent_shards.fetching.sources import parse_source
from aitorrent_shards.model_list import ModelList
from aitorrent_shards.service import ShardsService
from aitorrent_shards.serving.local_model import LocalModel
from aitorrentd.api import (
    AitorrentError,
    CallContext,
    InvalidParams,
    Method,
    NotFound,
    Role,
    Unavailable,
)
from aitorrentd.api.tasks import beside

LOOK_S: Final = 0.25
PATIENCE: Final = 5
"Failed attempts in a row, over 8 to 15 s and the time of each, until a waiting caller is told."
_END_IT: Final = '"aitorrentctl model remove {}"'
Work = Callable[[LocalModel], Coroutine[None, None, None]]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AddParams(_Shape):
    """Parameters of shards.add_model."""

    name: str = Field(min_length=1, max_length=128, description="model name that clients use")
    source: str = Field(
        "",
        max_length=1024,
        description="hf://ORG/NAME, hf://ORG/NAME@REVISION, or the digest of a model that peers"
        " hold",
    )
    path: str = Field(
        "",
        max_length=4096,
        description="instead of source: absolute path of a model's folder, which is used where it"
        " lies",
    )
    layers: str = Field(
        "all", description='"all", "none" (only ask others), or a half-open range such as "0-4"'
    )
    dtype: str = Field("auto", description="number format; auto = as in the files")
    wait: bool = Field(True, description="return when the layers are loaded, or cannot be")


class Added(_Shape):
    """Result of shards.add_model."""

    name: str = Field(description="model name that clients use")
    state: str = Field(
        description="fetching, reading, starting, loading, ready, restarting or failed"
    )
    problem: str = Field(description="why it is not ready; empty otherwise")
    digest: str = Field(description="the model's digest, hex; empty while unknown")
    bytes: int = Field(description="bytes of weights that these layers need; 0 while unknown")


class RemoveParams(_Shape):
    """Parameters of shards.remove_model."""

    name: str = Field(min_length=1, max_length=128, description="name of a model that was added")


class Removed(_Shape):
    """Result of shards.remove_model."""

    name: str = Field(description="name of the model that was removed")


class MoveParams(_Shape):
    """Parameters of shards.load_model and shards.unload_model."""

    name: str = Field(min_length=1, max_length=128, description="name of a model of this node")
    wait: bool = Field(True, description="return when it is in memory, or has left it")


class Moved(_Shape):
    """Result of shards.load_model and shards.unload_model."""

    name: str = Field(description="name of the model")
    state: str = Field(description="as in shards.models")
    users: int = Field(
        description="answers and sessions of peers that use its layers; they end before it leaves"
        " memory"
    )


def _entry(params: AddParams) -> ModelEntry:
    try:
        given = params.model_dump(exclude={"wait"})
        return ModelEntry.model_validate({k: v for k, v in given.items() if v != ""})
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidParams(f"{where}: {text}" if where else text) from None


def _view(model: LocalModel, fetched: int) -> Added:
    holder = model.holder
    return Added(
        name=model.entry.name,
        state=model.state,
        problem=model.problem or (holder.problem if holder else ""),
        digest=model.digests.digest if model.digests else "",
        bytes=fetched,
    )


def model_methods(service: Callable[[], ShardsService]) -> Iterator[Method]:
    """The methods; `service` gives the running service, or raises Unavailable."""

    async def add(call: CallContext, params: AddParams) -> Added:
        models = service().list
        model = await models.add(_entry(params))
        fetched = 0
        while params.wait and model.state not in ("ready", "failed", "unloaded"):
            if models.by_name.get(params.name) is not model:
                raise NotFound(f"model {params.name} was removed")
            if model.state == "fetching" and model.refused is not None:
                await _give_up(models, model, model.refused)
            fetched = _report(call, model) or fetched
            await asyncio.sleep(LOOK_S)
        if params.wait and model.state == "failed":
            found = _view(model, fetched)
            raise Unavailable(
                f"model {params.name} was added, but cannot be used: {found.problem};"
                f" {_END_IT.format(params.name)} removes it",
                added=True,
            )
        return _view(model, fetched)

    async def remove(call: CallContext, params: RemoveParams) -> Removed:
        model = await service().list.remove(params.name)
        return Removed(name=model.entry.name)

    async def move(call: CallContext, params: MoveParams, work: Work) -> Moved:
        model = service().list.named(params.name)
        async with beside(work(model), f"shards-{params.name}-move") as moving:
            await asyncio.wait({moving}, timeout=0)
            while params.wait and not moving.done():
                _report(call, model)
                await asyncio.wait({moving}, timeout=LOOK_S)
            if moving.done():
                moving.result()
        users = model.holder.rest.users if model.holder else 0
        return Moved(name=model.entry.name, state=model.state, users=users)

    async def load(call: CallContext, params: MoveParams) -> Moved:
        models = service().list
        model = models.named(params.name)
        while model.state in ("fetching", "reading"):
            if not params.wait:
                return Moved(name=model.entry.name, state=model.state, users=0)
            if model.refused is not None and model.failed_attempts >= PATIENCE:
                raise Unavailable(f"model {params.name} {_going_on(model.refused)}")
            _report(call, model)
            await asyncio.sleep(LOOK_S)
            if models.by_name.get(params.name) is not model:
                raise NotFound(f"model {params.name} was removed")
        if model.holder is None and model.problem:
            raise Unavailable(f"model {params.name} cannot be used: {model.problem}")
        return await move(call, params, keeping.load)

    async def unload(call: CallContext, params: MoveParams) -> Moved:
        return await move(call, params, keeping.unload)

    yield Method(
        "shards.add_model",
        add,
        "Add a model: fetch the weights of its layers, load and serve them, also after a restart.",
        params=AddParams,
        result=Added,
        role=Role.OPERATE,
    )
    yield Method(
        "shards.remove_model",
        remove,
        "Remove a model that was added. Its weights stay on disk and are seeded further.",
        params=RemoveParams,
        result=Removed,
        role=Role.OPERATE,
    )
    yield Method(
        "shards.load_model",
        load,
        "Load the layers of this node into memory again; a request that needs them does so, too.",
        params=MoveParams,
        result=Moved,
        role=Role.OPERATE,
    )
    yield Method(
        "shards.unload_model",
        unload,
        "Free the memory of the layers of this node, once nobody uses them, until a request of this"
        " machine needs them.",
        params=MoveParams,
        result=Moved,
        role=Role.OPERATE,
    )


async def _give_up(models: ModelList, model: LocalModel, reason: AitorrentError) -> None:
    """End the wait for a fetch that gets nowhere.

    Raises:
        NotFound: there is no such model, so it is removed. Unavailable: its source cannot be used
        now; the node goes on trying.
    """
    name, source = model.entry.name, parse_source(model.entry.source or "")
    if isinstance(reason, NotFound) and not source.is_digest and model.is_unknown:
        await models.remove(name)
        raise NotFound(f"{reason.message}; nothing was added")
    if model.failed_attempts >= PATIENCE:
        raise Unavailable(
            f"model {name} was added, but {_going_on(reason)}, {_END_IT.format(name)} ends it",
            added=True,
        )


def _going_on(reason: AitorrentError) -> str:
    return (
        f"cannot be fetched now: {reason.message}. The node goes on trying;"
        ' "aitorrentctl model list" shows how far it is'
    )


def _report(call: CallContext, model: LocalModel) -> int:
    """Tell the caller how far it is; returns the bytes of weights to fetch, once known."""
    if model.state == "fetching":
        done, total = model.amount
        text = model.fetch.step if model.fetch else "fetching"
        if model.failed_attempts:
            text = f"attempt {model.failed_attempts} failed: {model.problem}"
        call.progress(text, done=done, total=total or None, unit="B")
        return total
    holder = model.holder
    if holder is not None and holder.rest.is_leaving and holder.rest.users:
        call.progress(f"waiting for {holder.rest.users} users")
    elif holder is not None and holder.total_bytes:
        call.progress("loading", done=holder.done_bytes, total=holder.total_bytes, unit="B")
    else:
        call.progress(model.state)
    return 0
