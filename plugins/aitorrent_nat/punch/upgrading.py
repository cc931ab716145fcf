"""Keeps trying to replace relayed channels by direct ones.

At once when a relayed channel appears, then every minute, less often where the kinds of both NATs
leave no hope, and whenever this machine's network changed or its NAT became known. The end with the
lower id begins; the other one begins too if it hears nothing, or if its own network changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aitorrentd.api import (
    Lagged,
    NetworkChanged,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    PeerRouteChanged,
    PluginContext,
    Transport,
)
from aitorrentd.api.backoff import exponential_s
from aitorrentd.api.limits import PerPeer
from aitorrentd.api.tasks import Tasks

EVERY_S: Final = 60.0
MOST_S: Final = 600.0
GRACE_S: Final = 1.5
"The higher end waits this long for the lower one to begin."
RECENT_S: Final = 45.0
"A session that ended less than this ago counts as this end's own turn."
FLAP_S: Final = 30.0
"A direct channel that lasted less than this is not sought again at once."
SETTLE_S: Final = 0.5
"After a change of the network, which rarely comes alone."

Punch = Callable[[PeerId], Awaitable[bool]]
"Runs a session; whether another one could have a different end."


class Upgrades:
    """The relayed channels of this node, and the next attempt for each."""

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        transport: Transport,
        is_relayed: Callable[[PeerId], bool],
        punch: Punch,
    ) -> None:
        self._ctx = ctx
        self._tasks = tasks
        self._transport = transport
        self._is_relayed = is_relayed
        self._punch = punch
        self._wakes: dict[PeerId, asyncio.Event] = {}
        self._ended_at: dict[PeerId, float] = {}
        self._upgraded_at: PerPeer[list[float]] = PerPeer(list)

    @property
    def waiting(self) -> int:
        """Relayed channels that may still become direct."""
        return len(self._wakes)

    def session_ended(self, peer: PeerId) -> None:
        """A session with `peer` ended, whoever began it."""
        self._ended_at[peer] = self._ctx.clock.monotonic()

    def try_again(self) -> None:
        """Begin with every peer now: other ways may work than at the last attempt."""
        self._ended_at.clear()
        for wake in self._wakes.values():
            wake.set()

    async def run(self) -> None:
        """Follow channels as they come and change."""
        kinds = (PeerConnected, PeerDisconnected, PeerRouteChanged, NetworkChanged)
        while True:
            with self._ctx.subscribe(*kinds) as events:
                for view in self._transport.peers():
                    self._look(view.id)
                async for event in events:
                    if isinstance(event, Lagged):
                        break
                    if isinstance(event, NetworkChanged):
                        self.try_again()
                    elif isinstance(event, (PeerConnected, PeerDisconnected, PeerRouteChanged)):
                        self._look(event.peer)

    def _look(self, peer: PeerId) -> None:
        if not self._is_relayed(peer):
            if wake := self._wakes.get(peer):
                wake.set()
        elif peer not in self._wakes:
            self._wakes[peer] = asyncio.Event()
            self._tasks.spawn(self._upgrade(peer, self._wakes[peer]), f"upgrade {peer}")

    async def _upgrade(self, peer: PeerId, wake: asyncio.Event) -> None:
        is_first = self._transport.node_id < peer
        hopeless = 0
        try:
            await self._sleep(wake, self._first_pause_s(peer, is_first=is_first))
            while self._is_relayed(peer):
                if not self._was_recent(peer):
                    hopeless = 0 if await self._punch(peer) else hopeless + 1
                if not self._is_relayed(peer):
                    self._upgraded_at.of(peer)[:] = [self._ctx.clock.monotonic()]
                    return
                pause_s = exponential_s(hopeless, EVERY_S, MOST_S)
                jitter = 0.75 + self._ctx.random.random() / 2
                await self._sleep(wake, pause_s * jitter * (1.0 if is_first else 1.5))
        finally:
            del self._wakes[peer]
            self._ended_at.pop(peer, None)

    def _first_pause_s(self, peer: PeerId, *, is_first: bool) -> float:
        now = self._ctx.clock.monotonic()
        if any(now - at < FLAP_S for at in self._upgraded_at.of(peer)):
            return EVERY_S * (0.75 + self._ctx.random.random() / 2)
        return 0.0 if is_first else GRACE_S

    def _was_recent(self, peer: PeerId) -> bool:
        ended_at = self._ended_at.get(peer)
        return ended_at is not None and self._ctx.clock.monotonic() - ended_at < RECENT_S

    async def _sleep(self, wake: asyncio.Event, pause_s: float) -> None:
        """Wait `pause_s`, or until the network or the channel changes."""
        wake.clear()
        try:
            async with asyncio.timeout(pause_s):
                await wake.wait()
            await asyncio.sleep(SETTLE_S)
        except TimeoutError:
            pass
