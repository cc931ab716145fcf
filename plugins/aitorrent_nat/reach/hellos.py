"""What this node and its peers have told each other that they offer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aitorrent_nat.networks import Place
from aitorrent_nat.reach.messages import Hello
from aitorrent_nat.reach.talking import Talks
from aitorrent_nat.stun.server import StunServer
from aitorrentd.api import (
    AitorrentError,
    PeerId,
    PluginContext,
    Protection,
    Transport,
    short,
)
from aitorrentd.api.tasks import Tasks

LOOK_S: Final = 2.0
"Between two looks at whether what this node offers has changed."


class Hellos:
    """The hellos of connected peers, and this node's own."""

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        transport: Transport,
        guard: Protection,
        stun: StunServer,
    ) -> None:
        self.relays_for_others: Callable[[], bool] = lambda: False
        "Whether this node relays now; the relays set it."
        self.on_met: Callable[[], None] = lambda: None
        "Called once for each connected peer that answers STUN requests."
        self.talks = Talks(ctx, transport, guard, self.own, self._send, self._heard)
        self._log = ctx.log
        self._tasks = tasks
        self._transport = transport
        self._stun = stun
        self._heard_of: dict[PeerId, Hello] = {}
        self._met: set[PeerId] = set()

    def own(self) -> Hello:
        """What this node offers."""
        return Hello(*self._stun.ports, relays=self.relays_for_others())

    def of(self, peer: PeerId) -> Hello | None:
        """What a connected peer offers; None until it said so."""
        return self._heard_of.get(peer)

    def __contains__(self, peer: object) -> bool:
        return peer in self._heard_of

    def relays(self, peer: PeerId) -> bool:
        """Whether a connected peer says that it relays for others."""
        hello = self._heard_of.get(peer)
        return hello is not None and hello.relays

    def greet(self, peer: PeerId) -> None:
        """Exchange hellos with a connected peer, in the background."""
        self._tasks.spawn(self._greeting(peer), f"nat: hello to {short(peer)}")

    async def _greeting(self, peer: PeerId) -> None:
        try:
            await self.talks.greet(peer)
        except AitorrentError as e:
            self._log.debug("no hello from %s: %s", short(peer), e.message)

    def _heard(self, peer: PeerId, hello: Hello) -> None:
        if self._transport.peer(peer) is None:
            return
        self._heard_of[peer] = hello
        if hello.stun and peer not in self._met:
            self._met.add(peer)
            self.on_met()

    def forget(self, peer: PeerId) -> None:
        """Note that a peer is no longer connected."""
        self._heard_of.pop(peer, None)
        self._met.discard(peer)

    async def keep_told(self) -> None:
        """Tell peers whenever this node offers something else, until cancelled."""
        told = self.own()
        while True:
            await asyncio.sleep(LOOK_S)
            if (own := self.own()) != told:
                told = own
                for peer in self._heard_of:
                    self.greet(peer)

    def _send(self, raw: bytes, to: Place, host: str, from_alternate: bool) -> bool:
        return self._stun.send(raw, to, host, from_alternate=from_alternate)
