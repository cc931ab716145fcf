"""Models of this node that leave memory, and return when a request needs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aitorrent_shards.serving.holder import Holder
from aitorrent_shards.serving.local_model import LocalModel
from aitorrentd.api import Chunk, InvalidParams, Unavailable
from aitorrentd.api.tasks import beside

TELL_S: Final = 0.25
"How often a request that waits for the layers tells the progress."


async def load(model: LocalModel) -> None:
    """Have the layers of this node in memory.

    Raises:
        Unavailable: they cannot be loaded, or the files are still being read.
    """
    model.ready()
    if model.holder is not None:
        await model.holder.load()


async def unload(model: LocalModel) -> None:
    """Free the memory of the layers of this node, once nobody uses them.

    Raises:
        InvalidParams: it holds none. Conflict: they were loaded again meanwhile.
    """
    if model.holder is not None:
        await model.holder.unload()
    elif model.state == "ready":
        raise InvalidParams(f"this node has no layers of {model.entry.name}: other nodes hold them")
    elif model.state != "failed":
        raise Unavailable(
            f"model {model.entry.name} is still being {model.doing}, and not in memory yet"
        )


def keep(model: LocalModel, idle_s: float | None) -> None:
    """Let the layers of this node leave memory after so many seconds without use, or stay."""
    if model.holder is not None:
        model.holder.keep(idle_s)


@asynccontextmanager
async def used(model: LocalModel) -> AsyncIterator[AsyncGenerator[Chunk, None]]:
    """Keep the layers of this node in memory while the block runs; the generator loads them, if
    they left, and yields notices meanwhile.

    Raises (while iterating):
        Unavailable: they cannot be loaded again.
    """
    holder = model.holder
    if holder is None:
        yield _nothing()
        return
    with holder.rest.used():
        yield _returned(model.entry.name, holder)


async def _nothing() -> AsyncGenerator[Chunk, None]:
    none: tuple[Chunk, ...] = ()
    for chunk in none:
        yield chunk


async def _returned(name: str, holder: Holder) -> AsyncGenerator[Chunk, None]:
    if holder.resting_span is None:
        return
    async with beside(holder.load(), f"shards-{name}-return") as loading:
        while not loading.done():
            extra = {"done_bytes": holder.done_bytes, "total_bytes": holder.total_bytes}
            yield Chunk("", notice=f"model {name} is loading", extra=extra)
            await asyncio.wait({loading}, timeout=TELL_S)
        loading.result()
