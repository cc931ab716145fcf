"""Methods of the control API that add and remove models: `shards.add_model`, `remove_model`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aitorrent_shards.config import ModelEntry
from aitorrent_shards.service import ShardsService
from aitorrent_shards.serving.local_model import LocalModel
from aitorrentd.api import CallContext, InvalidParams, Method, NotFound, Role, Unavailable

LOOK_S: Final = 0.25


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
        while params.wait and model.state not in ("ready", "failed"):
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


def _report(call: CallContext, model: LocalModel) -> int:
    """Tell the caller how far it is; returns the bytes of weights to fetch, once known."""
    if model.state == "fetching":
        done, total = model.amount
        text = f"fetching ({model.problem})" if model.problem else "fetching"
        call.progress(text, done=done, total=total or None, unit="B")
        return total
    holder = model.holder
    if holder is not None and holder.total_bytes:
        call.progress("loading", done=holder.done_bytes, total=holder.total_bytes, unit="B")
    else:
        call.progress(model.state)
    return 0
