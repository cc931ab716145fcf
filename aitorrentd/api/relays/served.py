"""The models of a neighbouring server: fetched with a timeout and cached for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from aitorrentd.api.context import Clock
from aitorrentd.api.models.inference import Backend
from aitorrentd.api.models.views import ModelView
from aitorrentd.errors import AitorrentError, TimedOut

_ASK_S: Final = 8.0


async def poll(backend: Backend, every_s: float) -> None:
    """Poll the backend's models until cancelled, to notice when the server comes or goes."""
    while True:
        with suppress(AitorrentError):
            await backend.models()
        await asyncio.sleep(every_s)


class ServedModels:
    """The server's models, fetched by `ask`; concurrent requests share one fetch.

    A list is cached for `fresh_s` seconds, a failure for `retry_s`. Each appearance or
    disappearance of the server is logged once.
    """

    def __init__(
        self,
        who: str,
        ask: Callable[[], Awaitable[Sequence[ModelView]]],
        *,
        fresh_s: float,
        retry_s: float,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self.failure: AitorrentError | None = None
        "Why the last fetch failed, or None."
        self._who, self._ask = who, ask
        self._fresh_s, self._retry_s = fresh_s, retry_s
        self._clock, self._log = clock, log
        self._views: tuple[ModelView, ...] = ()
        self._fresh_until: float | None = None
        self._looking = asyncio.Lock()
        self._was_there: bool | None = None

    async def views(self) -> Sequence[ModelView]:
        """The models.

        Raises:
            AitorrentError: from the last fetch. TimedOut: no answer within 8 s.
        """
        async with self._looking:
            if self._fresh_until is None or self._clock.monotonic() >= self._fresh_until:
                await self._look()
                hold_s = self._fresh_s if self.failure is None else self._retry_s
                self._fresh_until = self._clock.monotonic() + hold_s
        if self.failure is not None:
            # A new one each time: a raised error keeps its callers' frames alive.
            raise type(self.failure)(self.failure.message)
        return self._views

    async def _look(self) -> None:
        self.failure = None
        try:
            async with asyncio.timeout(_ASK_S):
                self._views = tuple(await self._ask())
        except AitorrentError as e:
            self.failure = e
        except TimeoutError:
            self.failure = TimedOut(f"{self._who} did not answer in time")
        is_there = self.failure is None
        if is_there is not self._was_there:
            if self.failure is None:
                count = len(self._views)
                self._log.info("%s has %d model%s", self._who, count, "" if count == 1 else "s")
            else:
                self._log.info("%s", self.failure.message)
        self._was_there = is_there
