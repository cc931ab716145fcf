"""The tracker service: what runs, and what it is made of."""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from aitorrent_tracker.answering.access import Access
from aitorrent_tracker.answering.sources import Proxies, Rates
from aitorrent_tracker.answering.tracker import Intervals, Tracker
from aitorrent_tracker.catalogue.service import Catalogue
from aitorrent_tracker.config import MEMORY, TrackerConfig
from aitorrent_tracker.net.binding import Bound, bind
from aitorrent_tracker.net.http_server import HttpServer
from aitorrent_tracker.net.udp_server import UdpServer
from aitorrent_tracker.sharing.shared import SharedStorage
from aitorrent_tracker.swarms.memory import Limits, MemoryStorage
from aitorrent_tracker.swarms.saved import SavedCounters
from aitorrent_tracker.swarms.storage import Storage
from aitorrent_tracker.wire.udp import ConnectionIds
from aitorrentd.api import PluginContext
from aitorrentd.api.faces.serving import WebLimits, serving
from aitorrentd.api.network.addresses import host_port
from aitorrentd.api.tasks import Tasks

if TYPE_CHECKING:
    from aitorrent_tracker.sharing.exchange import RedisExchange

SWEEP_S: Final = 1.0
WEB_LIMITS: Final = WebLimits(header_bytes=16 * 1024, body_bytes=8 * 2**20)
"Of the catalogue, which refuses long bodies itself, in words."
TTL_INTERVALS: Final = 2
"A peer expires when it missed an announce: clients are late, and some requests are lost."


class TrackerService:
    """The parts of a running plugin."""

    def __init__(self, ctx: PluginContext) -> None:
        self.config: TrackerConfig = ctx.config
        config, limits = self.config, self.config.limits
        self._ctx = ctx
        self._clock = ctx.clock.monotonic
        self._tasks = Tasks(ctx.tasks)
        memory = MemoryStorage(
            Limits(limits.swarms, limits.peers, limits.peers_per_swarm, limits.peers_per_subnet),
            ttl_s=TTL_INTERVALS * config.interval_s,
            now=self._clock(),
            draw=ctx.random.random,
        )
        self.counters = SavedCounters(ctx, memory)
        self.exchange: RedisExchange | None = None
        "With other trackers, if the configuration says so."
        storage: Storage = memory
        if config.storage != MEMORY:
            shared = SharedStorage(memory, ctx.clock.time() - self._clock())
            self.exchange = self._exchange_of(shared)
            storage = shared
        self.tracker = Tracker(
            storage,
            Access(config.info_hashes(), [key.get_secret_value() for key in config.keys]),
            Rates(limits.requests_per_s),
            Proxies([ipaddress.ip_network(text) for text in config.trusted_proxies]),
            ConnectionIds(os.urandom(32)),
            Intervals(config.interval_s),
            ctx.random.random,
        )
        self.http = HttpServer(
            self.tracker,
            self._clock,
            self._tasks.spawn,
            max_connections=limits.connections,
            max_per_subnet=limits.connections_per_subnet,
        )
        self.udp = UdpServer(self.tracker, self._clock)
        self.catalogue: Catalogue | None = None
        "None if it is not enabled."
        if config.catalogue.enabled:
            self.catalogue = Catalogue(ctx, config.catalogue, self.tracker.access)
        self.port = 0
        "The port that is bound."
        self.listening: list[str] = []
        "Addresses in use: `0.0.0.0:6969/tcp`."

    def _exchange_of(self, shared: SharedStorage) -> RedisExchange:
        from aitorrent_tracker.sharing.exchange import RedisExchange

        password = self.config.storage_password
        return RedisExchange(
            self.config.storage,
            password.get_secret_value() if password else None,
            shared,
            self._clock,
            self._ctx.random.random,
            self._ctx.log,
            max_counters=self.config.limits.swarms,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the block runs.

        Raises:
            Unavailable: the port is taken, or an address is not of this machine.
        """
        bound = bind(self.config.listen, self.config.port, udp=self.config.udp)
        self.port = bound.port
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close, bound)
            self._tasks.spawn(self.counters.keep(), "tracker: counters")
            await self.counters.restored.wait()
            if self.catalogue is not None:
                await self._serve_catalogue(self.catalogue, stack)
            for sock in bound.tcp:
                self.listening.append(f"{host_port(*sock.getsockname()[:2])}/tcp")
                self.http.listen(sock)
            for sock in bound.udp:
                self.listening.append(f"{host_port(*sock.getsockname()[:2])}/udp")
                self.udp.listen(sock)
            self._ctx.log.info("listening on %s", ", ".join(self.listening))
            self._tasks.spawn(self._sweep(), "tracker: sweep")
            if self.exchange is not None:
                self._tasks.spawn(self.exchange.keep(), "tracker: exchange")
            yield

    async def _serve_catalogue(self, catalogue: Catalogue, stack: AsyncExitStack) -> None:
        """Open the catalogue, and serve it on connections that ask for it."""
        await stack.enter_async_context(catalogue.running())
        # The import takes longer than the event loop may block.
        module = await asyncio.to_thread(
            importlib.import_module, "aitorrent_tracker.catalogue.rest.app"
        )
        udp_port = self.port if self.config.udp else 0
        app = module.make_app(catalogue, self.tracker, self._clock, udp_port=udp_port)
        web = await stack.enter_async_context(serving(app, log=self._ctx.log, limits=WEB_LIMITS))
        self.http.adopt = web.adopt

    async def _close(self, bound: Bound) -> None:
        self.udp.close()
        self.http.close()
        await self._tasks.close()
        for sock in (*bound.tcp, *bound.udp):
            sock.close()

    async def _sweep(self) -> None:
        """End slow connections, and expire peers."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.http.sweep()
            self.tracker.storage.expire(self._clock())
