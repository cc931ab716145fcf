"""Ends an answer whose server keeps the connection alive and sends no text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aitorrentd.api.models.inference import Chunk
from aitorrentd.errors import TimedOut


async def paced(
    chunks: AsyncGenerator[Chunk, None], limit_s: float, who: str
) -> AsyncGenerator[Chunk, None]:
    """The chunks, as long as the next one comes within `limit_s` seconds.

    A timeout for reading does not end the wait for a server that sends keepalives forever.

    Raises:
        TimedOut: no chunk came in time.
    """
    async with aclosing(chunks) as coming:
        while True:
            try:
                async with asyncio.timeout(limit_s):
                    chunk = await anext(coming, None)
            except TimeoutError:
                raise TimedOut(f"{who} sent no text for {limit_s:g} s (token_timeout_s)") from None
            if chunk is None:
                return
            yield chunk
