"""Relays, as a part of the NAT plugin: being reached through others, and passing others on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aitorrent_nat.config import NatConfig
from aitorrent_nat.relay.choosing import Candidate
from aitorrent_nat.relay.claims import LegPreface
from aitorrent_nat.relay.dialing import NAME, RelayDialer
from aitorrent_nat.relay.reserving import Reserver
from aitorrent_nat.relay.saved import Saved
from aitorrent_nat.relay.serving import RelayServer
from aitorrentd.api import (
    ADVERTISERS,
    ATTEMPTS,
    DIALERS,
    PEER_PORT,
    PROTECTION,
    TRANSPORT,
    Draining,
    HealthWarning,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    PluginContext,
    Reach,
    WireProtocol,
    bytes_text,
    short,
)
from aitorrentd.api.tasks import Tasks

UNKNOWN_S: Final = 10.0
"After a start, peers have this long to say whether they can dial this node."
EXPIRE_S: Final = 60.0


class RelayPart:
    """Implements `aitorrent_nat.parts.Part`."""

    name = "relays"

    def __init__(
        self, ctx: PluginContext, reach: Callable[[], Reach], relays: Callable[[PeerId], bool]
    ) -> None:
        """`reach()` says who can dial this node, `relays(peer)` whether a peer relays."""
        config: NatConfig = ctx.config
        self._ctx = ctx
        self._config = config
        self._reach = reach
        self._relays = relays
        self._transport = ctx.service(TRANSPORT)
        self._tasks = Tasks(ctx.tasks)
        self._started_at = ctx.clock.monotonic()
        attempts, port = ctx.service(ATTEMPTS), ctx.service(PEER_PORT)
        self.server = RelayServer(
            ctx, config.relay_limits, self._transport, ctx.service(PROTECTION), self.refusal
        )
        self.reserver = Reserver(
            ctx,
            self._tasks,
            self._transport,
            port,
            attempts,
            wanted=config.reservations,
            candidates=self._candidates,
            is_needed=self.is_needed,
        )
        self._dialer = RelayDialer(ctx, self._tasks, self._transport, port, attempts)
        self._saved = Saved(ctx, self.server.grants, self.reserver, self.server.lines.budgets)
        self.server.grants.on_change = self._saved.changed.set
        self.server.lines.on_over = self._saved.changed.set
        self.reserver.on_change = self._saved.changed.set

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Relay, and be relayed, while the block runs."""
        self._tasks.spawn(self._saved.keep(), "reservations on disk")
        await self._saved.restored.wait()
        preface = LegPreface(self.server.lines.claim)
        with (
            self._ctx.service(PEER_PORT).prefaces.added("circuit", preface),
            self._ctx.service(DIALERS).added(NAME, self._dialer),
            self._ctx.service(ADVERTISERS).added("relays", self.reserver),
        ):
            self._tasks.spawn(self._follow(), "news for relays")
            self._tasks.spawn(self._expire(), "expired reservations")
            self._tasks.spawn(self.reserver.run(), "keep reservations")
            try:
                yield
            finally:
                self.server.close()
                await self._tasks.close()

    def protocols(self) -> Iterable[WireProtocol]:
        """Reservations and circuits."""
        return [self.server.protocol()]

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return self._ctx.clock.monotonic()

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._ctx.clock.time()

    def relays_for_others(self) -> bool:
        """Whether this node relays now."""
        return not self.refusal()

    def relayed_by(self) -> Sequence[PeerId]:
        """Relays through which this node can be reached now."""
        return [held.relay for held in self.reserver.held if held.is_live]

    def refusal(self) -> str:
        """Why this node does not relay for others now; "" if it does."""
        if not self._config.relay:
            return "plugins.nat.relay is false"
        if self._ctx.draining:
            return "it is draining"
        if self._is_public():
            return ""
        return "it is not known to be reachable by everybody"

    def _is_public(self) -> bool:
        return self._reach() is Reach.PUBLIC or bool(self._transport.announced)

    def is_needed(self) -> bool:
        """Whether nobody can dial this node, as far as it knows, and relays may help."""
        if self._transport.is_masking or self._is_public():
            return False
        if self._reach() is not Reach.UNKNOWN or self.reserver.held or self.reserver.remembered:
            return True
        return self.now() - self._started_at >= UNKNOWN_S

    def _candidates(self) -> Iterator[Candidate]:
        for view in self._transport.peers():
            if view.host and self._relays(view.id):
                yield Candidate(view.id, view.host, view.rtt_s)

    async def _follow(self) -> None:
        while True:
            with self._ctx.subscribe(PeerConnected, PeerDisconnected, Draining) as events:
                async for event in events:
                    if isinstance(event, Draining) and event.active:
                        self.server.stopping()
                    self.reserver.wake.set()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_S)
            self.server.expire()

    def state(self) -> str:
        """What it does, in one line."""
        return f"{self._held_text()}; {self._given_text()}"

    def _held_text(self) -> str:
        if live := self.relayed_by():
            return f"reached through {', '.join(map(short, live))}"
        if self._transport.is_masking:
            return "none used: connections through relays cannot be masked"
        if not self._config.reservations:
            return "none used: plugins.nat.reservations is 0"
        return "none needed" if self._is_public() else "none found yet"

    def _given_text(self) -> str:
        if refusal := self.refusal():
            return f"relays for nobody: {refusal}"
        server = self.server
        passed = bytes_text(server.lines.budgets.passed)
        return (
            f"relays for others: {len(server.grants)} reservations, {len(server.lines)} circuits,"
            f" {passed} passed"
        )

    def warnings(self) -> Iterable[HealthWarning]:
        """What keeps others from reaching this node through relays."""
        if self._saved.problem:
            yield HealthWarning("reservations", f"{self._saved.problem}; retrying")
