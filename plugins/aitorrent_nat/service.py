"""The NAT service: what runs, and what it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aitorrent_nat.config import NatConfig
from aitorrent_nat.mapping.part import MappingPart
from aitorrent_nat.parts import Part
from aitorrent_nat.punch.part import PunchPart
from aitorrent_nat.reach.part import ReachPart
from aitorrent_nat.relay.part import RelayPart
from aitorrent_nat.stun.server import StunServer
from aitorrentd.api import PROTECTION, TRANSPORT, PluginContext, Registry, UdpListener
from aitorrentd.api.tasks import Tasks


class NatService:
    """The parts of a running plugin."""

    def __init__(self, ctx: PluginContext) -> None:
        self.ctx = ctx
        self.config: NatConfig = ctx.config
        self.transport = ctx.service(TRANSPORT)
        self.guard = ctx.service(PROTECTION)
        self.tasks = Tasks(ctx.tasks)
        self.stun = StunServer(ctx, self.tasks, self.transport, self.config.port)
        self.reach = ReachPart(ctx, self.tasks, self.transport, self.guard, self.stun)
        self.relay = RelayPart(ctx, lambda: self.reach.reach, self.reach.relays)
        self.reach.hellos.relays_for_others = self.relay.relays_for_others
        self.reach.relayed_by = self.relay.relayed_by
        self.listeners = Registry[UdpListener]("UDP listener")
        self.mapping = MappingPart(ctx, self.tasks, self.transport, self._udp_ports)
        self.punch = PunchPart(ctx, self.transport, self.guard, self.reach)
        self.reach.on_learned = self.punch.upgrades.try_again
        self.parts: list[Part] = [self.stun, self.reach, self.mapping, self.relay, self.punch]

    def _udp_ports(self) -> list[int]:
        ports = [port for each in self.listeners for port in each.udp_ports()]
        return [*ports, *self.stun.ports[:1]]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run every part while the block runs; the last one started stops first."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.tasks.close)
            for part in self.parts:
                await stack.enter_async_context(part.running())
            yield
