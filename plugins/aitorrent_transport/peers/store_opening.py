"""Opening the database of known peers, which a node can do without.

It is a cache: if damaged, it is set aside and recreated empty; if it is locked, or the disk is full
or read-only, the data stays in memory until the file is usable again. Neither stops the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import aiosqlite

from aitorrent_transport.peers.known_peers import MIGRATIONS, PeerStore
from aitorrentd.api import Busy, PluginContext, Unavailable, set_database_aside
from aitorrentd.api.backoff import equal_jitter_s

MAX_WAIT_S: Final = 60.0


@asynccontextmanager
async def opened_store(ctx: PluginContext) -> AsyncIterator[PeerStore]:
    """The store, on disk or temporarily in memory.

    Raises:
        Conflict: a newer version wrote the database.
    """
    async with AsyncExitStack() as stack:
        try:
            store = PeerStore(await _open(ctx, stack))
        except (Busy, Unavailable) as e:
            ctx.log.warning("known peers are kept in memory for now: %s", e.message)
            store = PeerStore(await stack.enter_async_context(_in_memory()), problem=e.message)
            retrying = ctx.tasks.create_task(_take_up(ctx, stack, store), name="open known peers")
            stack.push_async_callback(_end, retrying)
        yield store


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _open(ctx: PluginContext, stack: AsyncExitStack) -> aiosqlite.Connection:
    try:
        return await stack.enter_async_context(ctx.db(MIGRATIONS))
    except Unavailable as e:
        if not e.data.get("damaged"):
            raise
        try:
            aside = set_database_aside(ctx.data_dir / "transport.sqlite")
        except OSError as problem:
            raise Unavailable(f"{e.message}; cannot move it aside: {problem.strerror}") from None
        ctx.log.warning(
            "the database of known peers was damaged; moved it to %s and created a new one",
            aside,
        )
    return await stack.enter_async_context(ctx.db(MIGRATIONS))


@asynccontextmanager
async def _in_memory() -> AsyncIterator[aiosqlite.Connection]:
    async with aiosqlite.connect(":memory:") as db:
        for script in MIGRATIONS.values():
            await db.executescript(script)
        yield db


async def _take_up(ctx: PluginContext, stack: AsyncExitStack, store: PeerStore) -> None:
    """Switch to the disk as soon as it is usable."""
    attempt = 0
    while True:
        wait_s = equal_jitter_s(attempt, cap_s=MAX_WAIT_S, draw=ctx.random.random())
        await asyncio.sleep(wait_s)
        attempt += 1
        try:
            db = await _open(ctx, stack)
        except (Busy, Unavailable) as e:
            store.problem = e.message
            continue
        await store.move_to(db)
        ctx.log.info("known peers are stored on disk again")
        return
