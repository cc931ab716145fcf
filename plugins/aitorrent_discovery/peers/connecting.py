"""Keeping a number of dialled connections: who is missing is replaced, never in a crowd."""

from __future__ import annotations

import asyncio
from typing import Final

from aitorrent_discovery.gossip.core import Gossip
from aitorrent_discovery.gossip.exchanges import Exchanges
from aitorrent_discovery.gossip.messages import PROTOCOL
from aitorrent_discovery.peers.candidates import Candidate, Candidates
from aitorrentd.api import (
    DIRECT,
    AitorrentError,
    Lagged,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    PluginContext,
    Stream,
    Transport,
    short,
)
from aitorrentd.api.network.addresses import parse_address
from aitorrentd.api.tasks import Tasks

AT_ONCE: Final = 4
DIAL_S: Final = 10.0
LOOK_S: Final = 10.0
"How often to look for missing connections when nothing happens."
SPREAD_S: Final = 2.0
"Nodes that hear of a newcomer together dial it over this time."
FIRST_EXCHANGE_S: Final = 1.0


class Connecting:
    """Dials candidates while fewer than `outbound` connections are dialled ones."""

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        transport: Transport,
        exchanges: Exchanges,
        gossip: Gossip,
        candidates: Candidates,
    ) -> None:
        self.wake = asyncio.Event()
        "Set when there may be somebody new to dial."
        self._ctx = ctx
        self._config = ctx.config
        self._tasks = tasks
        self._transport = transport
        self._exchanges = exchanges
        self._gossip = gossip
        self._candidates = candidates
        self._dialling: set[PeerId] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.wake.clear()
            self._dial_missing()
            try:
                async with asyncio.timeout(LOOK_S * (0.5 + self._ctx.random.random())):
                    await self.wake.wait()
            except TimeoutError:
                continue

    async def follow(self) -> None:
        """Note which connections come and go, until cancelled."""
        while True:
            for view in self._transport.peers():
                self._came(view.id, view.outbound)
            with self._ctx.subscribe(PeerConnected, PeerDisconnected) as events:
                async for event in events:
                    if isinstance(event, PeerConnected):
                        self._came(event.peer, event.outbound)
                    elif isinstance(event, PeerDisconnected):
                        now = self._ctx.clock.monotonic()
                        self._gossip.standings.lost(event.peer, now)
                        self.wake.set()
                    elif isinstance(event, Lagged):
                        break

    def _came(self, peer: PeerId, outbound: bool) -> None:
        if not outbound:
            return
        self._gossip.standings.connected(peer, self._ctx.clock.time())
        view = self._transport.peer(peer)
        if view is not None and view.route == DIRECT:
            self._candidates.dialled(peer, [parse_address(view.address).of(peer)])
        if peer not in self._dialling and self._config.gossip:
            self._tasks.spawn(self._first_exchange(peer), f"gossip with {short(peer)}")

    async def _first_exchange(self, peer: PeerId) -> None:
        await asyncio.sleep(FIRST_EXCHANGE_S * self._ctx.random.random())
        await self._exchanges.run(peer)

    def _dial_missing(self) -> None:
        views = self._transport.peers()
        dialled = [view for view in views if view.outbound]
        missing = self._config.outbound - len(dialled) - len(self._dialling)
        limit = min(missing, AT_ONCE - len(self._dialling))
        if limit <= 0:
            return
        taken = {view.id for view in views} | self._dialling | {self._transport.node_id}
        hosts = [view.host for view in dialled if view.host]
        now = self._ctx.clock.monotonic()
        for candidate in self._candidates.choose(taken, hosts, now, limit):
            self._dialling.add(candidate.peer)
            self._tasks.spawn(self._dial(candidate), f"dial {short(candidate.peer)}")

    async def _dial(self, candidate: Candidate) -> None:
        peer = candidate.peer
        try:
            await asyncio.sleep(SPREAD_S * self._ctx.random.random())
            if self._transport.peer(peer) is not None:
                return
            stream = await self._reach(candidate)
            if stream is not None and self._config.gossip:
                await self._exchanges.over(stream)
            elif stream is not None:
                stream.reset("this node does not gossip")
        finally:
            self._dialling.discard(peer)
            self.wake.set()

    async def _reach(self, candidate: Candidate) -> Stream | None:
        """A stream to the candidate, or None; the outcome is noted."""
        peer = candidate.peer
        self._gossip.counts["dials"] += 1
        try:
            # Unlike `connect`, this does not ask the transport to keep the peer for good.
            return await self._transport.open_stream(
                peer, PROTOCOL, timeout_s=DIAL_S, addresses=[str(a) for a in candidate.addresses]
            )
        except AitorrentError as e:
            self._gossip.counts["failed_dials"] += 1
            self._gossip.standings.not_connected(peer, self._ctx.clock.monotonic())
            self._ctx.log.debug("%s (%s): %s", short(peer), candidate.kind, e.message)
            return None
