"""The discovery service: what runs, and what it is made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aitorrent_discovery.config import DiscoveryConfig
from aitorrent_discovery.gossip.core import Gossip
from aitorrent_discovery.gossip.exchanges import Exchanges
from aitorrent_discovery.lan.local import LocalNetwork
from aitorrent_discovery.peers.candidates import Candidates
from aitorrent_discovery.peers.connecting import Connecting
from aitorrent_discovery.peers.saved import Saved
from aitorrent_discovery.peers.standing import Standings
from aitorrent_discovery.seeds import Seeds
from aitorrentd.api import TRANSPORT, NetworkChanged, PeerId, PluginContext
from aitorrentd.api.network.protection import PROTECTION, Offence
from aitorrentd.api.network.resolver import Resolver
from aitorrentd.api.tasks import Tasks


class DiscoveryService:
    """The parts of a running plugin."""

    def __init__(self, ctx: PluginContext) -> None:
        self.ctx = ctx
        self.config: DiscoveryConfig = ctx.config
        self.transport = ctx.service(TRANSPORT)
        self.tasks = Tasks(ctx.tasks)
        self.standings = Standings(ctx.random.random)
        self.gossip = Gossip(
            ctx.identity,
            ctx.network,
            self.transport.addresses,
            self.standings,
            ctx.clock,
            ctx.random,
        )
        guard = ctx.service(PROTECTION)
        self.gossip.on_fault = lambda peer, reason: guard.report(
            peer, Offence.INVALID_MESSAGE, reason
        )
        self.candidates = Candidates(self.gossip.book, self.standings)
        self.exchanges = Exchanges(self.gossip, self.transport, ctx.clock.monotonic)
        self.exchanges.on_news = self._news
        self.saved = Saved(ctx, self.gossip, self.candidates)
        self.connecting = Connecting(
            ctx, self.tasks, self.transport, self.exchanges, self.gossip, self.candidates
        )
        self.local = LocalNetwork(ctx, self.transport, self.candidates, self.connecting.wake.set)
        self.seeds = Seeds(ctx, self.transport, self.config.seeds, Resolver())

    def _news(self, peers: list[PeerId]) -> None:
        self.connecting.wake.set()

    async def _follow_network(self) -> None:
        """Look again at what depends on the network of this machine when it changed."""
        while True:
            with self.ctx.subscribe(NetworkChanged) as events:
                async for _ in events:
                    self.standings.network_changed(self.ctx.clock.monotonic())
                    for wake in (self.local.wake, self.seeds.wake, self.connecting.wake):
                        wake.set()

    async def _rounds(self) -> None:
        """Exchange with a few peers, again and again."""
        while True:
            await asyncio.sleep(self.config.gossip_s * (0.75 + self.ctx.random.random() / 2))
            partners = self.gossip.partners([view.id for view in self.transport.peers()])
            await asyncio.gather(*map(self.exchanges.run, partners))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Find peers while the block runs."""
        self.tasks.spawn(self.saved.keep(), "peers on disk")
        await self.saved.restored.wait()
        self.tasks.spawn(self.connecting.follow(), "follow connections")
        self.tasks.spawn(self._follow_network(), "follow the network")
        if self.config.outbound:
            self.tasks.spawn(self.connecting.run(), "keep connections")
        if self.config.gossip:
            self.tasks.spawn(self._rounds(), "rounds of gossip")
        if self.config.mdns:
            self.tasks.spawn(self.local.run(), "local network")
        if self.config.seeds:
            self.tasks.spawn(self.seeds.run(), "seeds")
        try:
            yield
        finally:
            await self.tasks.close()
