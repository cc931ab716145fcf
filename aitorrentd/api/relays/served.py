"""The models of a neighbouring server: fetched with a timeout and cached for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from aitorrentd.api.context import Clock
from aitorrentd.api.models.inference import Backend
from aitorrentd.api.models.views import ModelView
from aitorrentd.api.relays import loops
from aitorrentd.errors import AitorrentError, TimedOut, Unavailable

_ASK_S: Final = 8.0
_MOST_PASSED: Final = 2
"Nodes that a request may have passed; one that passed more is not passed on."
_MOST_WAYS: Final = 16


async def poll(backend: Backend, every_s: float) -> None:
    """Poll the backend's models until cancelled, to notice when the server comes or goes."""
    while True:
        with suppress(AitorrentError):
            await backend.models()
        await asyncio.sleep(every_s)


class Served(NamedTuple):
    """What a server lists."""

    answering: Sequence[ModelView] = ()
    embedding: Sequence[ModelView] = ()


class _Known:
    """The last list, or the failure, of one way to the server."""

    def __init__(self) -> None:
        self.served = Served()
        self.failure: AitorrentError | None = None
        self.fresh_until: float | None = None
        self.looking = asyncio.Lock()


class ServedModels:
    """The server's models, fetched by `ask`; concurrent requests share one fetch.

    A list is cached for `fresh_s` seconds, a failure for `retry_s`. Each appearance or
    disappearance of the server is logged once.

    What a server that is a node's API lists depends on the nodes that the request has passed: it
    leaves out what it would have to ask them for. So each way has a list of its own, and two nodes
    that are each other's servers do not wait for each other. A server that is not nearby has one
    list: it is told no nodes.
    """

    def __init__(
        self,
        who: str,
        url: str,
        ask: Callable[[], Awaitable[Served]],
        *,
        fresh_s: float,
        retry_s: float,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._who, self._ask = who, ask
        self._may_be_node = loops.is_nearby(urlsplit(url).hostname or "")
        self._fresh_s, self._retry_s = fresh_s, retry_s
        self._clock, self._log = clock, log
        self._own = _Known()
        self._ways: dict[tuple[str, ...], _Known] = {}
        "Maps the nodes that a request has passed to what is known on that way, the oldest first."
        self._was_there: bool | None = None

    @property
    def failure(self) -> AitorrentError | None:
        """Why the last fetch for this node failed, or None."""
        return self._own.failure

    async def views(self) -> Sequence[ModelView]:
        """The models that answer.

        Raises:
            AitorrentError: from the last fetch. TimedOut: no answer within 8 s.
        """
        return (await self._served()).answering

    async def embedders(self) -> Sequence[ModelView]:
        """As `views`, for the models that make embeddings."""
        return (await self._served()).embedding

    async def _served(self) -> Served:
        passed = loops.passed() if self._may_be_node else ()
        if len(passed) > _MOST_PASSED:
            # Nor may it be told what this node knows: in a larger ring, each node would keep a
            # model that is gone because the next one still knows it.
            raise Unavailable(
                f"{self._who} is not asked for a request that came over {len(passed)} nodes"
            )
        known = self._on_way(passed) if passed else self._own
        async with known.looking:
            if known.fresh_until is None or self._clock.monotonic() >= known.fresh_until:
                await self._look(known)
        if known.failure is not None:
            # A new one each time: a raised error keeps its callers' frames alive.
            raise type(known.failure)(known.failure.message)
        return known.served

    def _on_way(self, passed: tuple[str, ...]) -> _Known:
        known = self._ways.pop(passed, None) or _Known()
        self._ways[passed] = known
        if len(self._ways) > _MOST_WAYS:
            self._ways.pop(next(iter(self._ways)))
        return known

    async def _look(self, known: _Known) -> None:
        failure: AitorrentError | None = None
        try:
            async with asyncio.timeout(_ASK_S):
                answering, embedding = await self._ask()
            known.served = Served(tuple(answering), tuple(embedding))
        except AitorrentError as e:
            failure = e
        except TimeoutError:
            failure = TimedOut(f"{self._who} did not answer in time")
        known.failure = failure
        hold_s = self._fresh_s if failure is None else self._retry_s
        known.fresh_until = self._clock.monotonic() + hold_s
        if known is self._own:
            self._note(failure)

    def _note(self, failure: AitorrentError | None) -> None:
        is_there = failure is None
        if is_there is not self._was_there:
            if failure is None:
                count = len(self._own.served.answering)
                self._log.info("%s has %d model%s", self._who, count, "" if count == 1 else "s")
            else:
                self._log.info("%s", failure.message)
        self._was_there = is_there
