"""Methods of the control API that add, remove, load and unload models: `shards.add_model`, …"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aitorrent_shards.answering import keeping
from aitorrent_shards.config import ModelEntry
from aitorrent_shards.service import ShardsService
from aitorrent_shards.serving.local_model import LocalModel
from aitorrentd.api import CallContext, InvalidParams, Method, NotFound, Role, Unavailable
from aitorrentd.api.tasks import beside

LOOK_S: Final = 0.25
Work = Callable[[LocalModel], Coroutine[None, None, None]]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AddParams(_Shape):
    """Parameters of shards.add_model."""

    name: str = Field(min_length=1, max_length=128, description="model name that clients use")
    source: str = Field(
        max_length=1024,
        description="hf://ORG/NAME, hf://ORG/NAME@REVISION, or the digest of a model that peers"
        " hold",
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
        return ModelEntry.model_validate(params.model_dump(exclude={"wait"}))
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
            fetched = _report(call, model) or fetched
            await asyncio.sleep(LOOK_S)
        if params.wait and model.state == "failed":
            found = _view(model, fetched)
            raise Unavailable(
                f"model {params.name} was added, but cannot be used: {found.problem}",
                data={"added": True},
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


def _report(call: CallContext, model: LocalModel) -> int:
    """Tell the caller how far it is; returns the bytes of weights to fetch, once known."""
    if model.state == "fetching":
        done, total = model.amount
        text = f"fetching ({model.problem})" if model.problem else "fetching"
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
