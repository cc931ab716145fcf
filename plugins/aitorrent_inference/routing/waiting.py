"""Waiting for a model that is loading, here or at a peer, instead of failing at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

from aitorrent_inference.catalogue import Candidate
from aitorrentd.api import Chunk, NotFound, PendingModel, TimedOut, Unavailable

TICK_S: Final = 0.25
"Interval between progress notices."
GRACE_S: Final = 3.0
"""Allowance between the end of loading and the first offer: a peer loads, its layers are
discovered, then it offers the model."""


async def until_loaded(
    find: Callable[[], Awaitable[list[Candidate]]],
    loading: Callable[[], Sequence[PendingModel]],
    wait_s: float,
    found: list[Candidate],
) -> AsyncGenerator[Chunk, None]:
    """Yield notices until `find` returns candidates, which are then in `found`.

    `loading` returns the matching models that are loading, or whose missing layers are waited for;
    of the latter, a notice comes only when its text changes. If there are none, or `wait_s` is 0,
    the error of `find` is raised at once.

    Raises:
        NotFound, Unavailable: from `find`. TimedOut: still loading after `wait_s` seconds.
    """
    loop = asyncio.get_running_loop()
    began = seen = loop.time()
    has_waited = False
    told = ""
    while True:
        try:
            found[:] = await find()
        except (NotFound, Unavailable) as e:
            error = e
        else:
            return
        coming = loading()
        if wait_s <= 0 or not (coming or (has_waited and loop.time() - seen < GRACE_S)):
            raise error
        has_waited = True
        while True:
            now = loop.time()
            if coming:
                seen = now
                notice = _notice(coming)
                if coming[0].state == "loading" or notice.notice != told:
                    yield notice
                told = notice.notice
            if now - began >= wait_s:
                raise TimedOut(_late_text(coming, wait_s, error.message))
            await asyncio.sleep(min(TICK_S, wait_s - (now - began)))
            coming = loading()
            if not coming:
                break


def _notice(coming: Sequence[PendingModel]) -> Chunk:
    first = coming[0]
    if first.state != "loading":
        return Chunk("", notice=f"waiting for model {first.name}: {first.detail}")
    extra = {"done_bytes": first.done_bytes, "total_bytes": first.total_bytes}
    return Chunk("", notice=f"model {first.name} is loading", extra=extra)


def _late_text(coming: Sequence[PendingModel], wait_s: float, error: str) -> str:
    if not coming:
        return f"waited {wait_s:g} s: {error}"
    first = coming[0]
    return (
        f"model {first.name} is not ready after {wait_s:g} s: {first.detail};"
        " wait longer with ask --wait SECONDS"
    )
