"""Forwarded ports, as a part of the NAT plugin: when to ask the router, and what to announce."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aitorrent_nat.mapping.gateway import Gateway, default_gateway
from aitorrent_nat.mapping.keeping import Forwarding
from aitorrent_nat.mapping.pinholes import Pinholes
from aitorrent_nat.mapping.routers import Lease, Want
from aitorrent_nat.networks import is_inside
from aitorrentd.api import (
    ADVERTISERS,
    HealthWarning,
    NetworkChanged,
    PluginContext,
    Transport,
    WireProtocol,
)
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.network.addresses import Address, host_port
from aitorrentd.api.tasks import Tasks

CHECK_S: Final = 60.0
"Between two checks of what the router forwards: one that restarts has forgotten it."
WATCH_S: Final = 5.0
"Between two looks at which ports are wanted: plugins start and change theirs."
RETRY_S: Final = 5.0
MAX_RETRY_S: Final = 900.0
"A router that forwards nothing rarely changes its mind."
CLOSE_S: Final = 4.0


class MappingPart:
    """Implements `aitorrent_nat.parts.Part` and `aitorrentd.api.Advertiser`."""

    name = "forwarded ports"

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        transport: Transport,
        udp_ports: Callable[[], Sequence[int]],
        *,
        forwarding: Forwarding | None = None,
        pinholes: Pinholes | None = None,
        gateway: Callable[[], Gateway | None] = default_gateway,
    ) -> None:
        """`udp_ports()` are those on which anything here listens for strangers' datagrams."""
        self.forwarding = forwarding or Forwarding()
        self._ctx = ctx
        self._tasks = tasks
        self._transport = transport
        self._udp_ports = udp_ports
        self.pinholes = pinholes or Pinholes(transport, udp_ports)
        self._gateway = gateway
        self._needless = "not looked yet"
        self._asked: list[Want] = []
        self._asked6: tuple[Gateway | None, list[Want]] = (None, [])
        self._wake = asyncio.Event()
        self._logged = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep ports forwarded while the block runs."""
        if not self._ctx.config.upnp:
            self._needless = "off: plugins.nat.upnp is false"
            yield
            return
        keeping = self._tasks.spawn(self._keep(), "forwarded ports")
        self._tasks.spawn(self._follow(), "forwarded ports: the network")
        with self._ctx.service(ADVERTISERS).added("forwarded ports", self):
            try:
                yield
            finally:
                keeping.cancel()
                await asyncio.wait({keeping})
                try:
                    async with asyncio.timeout(CLOSE_S):
                        await self.pinholes.forwarding.release()
                        await self.forwarding.release()
                except TimeoutError:
                    self._ctx.log.debug("the router did not take its ports back in time")

    def protocols(self) -> Iterable[WireProtocol]:
        """None: only the router is spoken to."""
        return ()

    async def _follow(self) -> None:
        while True:
            with self._ctx.subscribe(NetworkChanged) as events:
                async for _ in events:
                    self._wake.set()

    async def _keep(self) -> None:
        attempt = 0
        while True:
            attempt = 0 if await self._look() else attempt + 1
            draw = self._ctx.random.random()
            wait_s = CHECK_S * (0.75 + draw / 2)
            if attempt:
                wait_s = equal_jitter_s(attempt - 1, base_s=RETRY_S, cap_s=MAX_RETRY_S, draw=draw)
            self._wake.clear()
            watching = self._tasks.spawn(self._watch(), "forwarded ports: what listens")
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
                attempt = 0
            except TimeoutError:
                continue
            finally:
                watching.cancel()

    async def _watch(self) -> None:
        """Wake up once other ports are wanted than those that were asked for."""
        while True:
            await asyncio.sleep(WATCH_S)
            wants = self._wants(self._gateway()), self.pinholes.wanted()
            if wants != (self._asked, self._asked6):
                self._wake.set()

    async def _look(self) -> bool:
        """Ask the routers, if there are any; returns whether that of IPv4 does as it should."""
        works = await self._look4()
        self._asked6 = self.pinholes.wanted()
        await self.pinholes.look(self._ctx.clock.monotonic())
        return works

    async def _look4(self) -> bool:
        gateway = self._gateway()
        wants = self._asked = self._wants(gateway)
        self._needless = self._why_not(gateway, wants)
        if self._needless or gateway is None:
            await self.forwarding.release()
            return True
        works = await self.forwarding.ensure(gateway, wants)
        self._log(works)
        return works

    def _why_not(self, gateway: Gateway | None, wants: Sequence[Want]) -> str:
        """Why the router is not asked, or the empty string."""
        if gateway is None:
            return "no router: this machine has no default route"
        if not is_inside(gateway.own):
            return "not needed: this machine has a public address"
        if not wants:
            return "not needed: this node does not listen where the router could reach it"
        return ""

    def _wants(self, gateway: Gateway | None) -> list[Want]:
        if gateway is None:
            return []
        bound = self._transport.bound
        ports = [port for host, port in bound if host in ("0.0.0.0", gateway.own)]
        tcp = [Want("tcp", port) for port in ports]
        udp = [Want("udp", port) for port in self._udp_ports() if port and ports]
        return list(dict.fromkeys([*tcp, *udp]))

    def _log(self, works: bool) -> None:
        text = self.state()
        if text != self._logged:
            self._logged = text
            self._ctx.log.log(20 if works else 10, "forwarded ports: %s", text)

    def addresses(self) -> Sequence[Address]:
        """Where the internet reaches the peer port by the router's forwarding."""
        return [
            Address("ip4", lease.external_host, lease.external_port)
            for lease in self._public()
            if lease.want.protocol == "tcp"
        ]

    def _public(self) -> list[Lease]:
        """Leases at an address of the internet."""
        leases = self.forwarding.leases.values()
        return [each for each in leases if each.external_host and not is_inside(each.external_host)]

    def _external(self) -> str:
        return next((each.external_host for each in self.forwarding.leases.values()), "")

    def state(self) -> str:
        """What the router forwards and lets in, in one line."""
        return "; ".join(filter(None, (self._state4(), self.pinholes.state())))

    def _state4(self) -> str:
        if self._needless:
            return self._needless
        leases = list(self.forwarding.leases.values())
        if not leases:
            return f"none: {self.forwarding.problem or 'asking the router'}"
        ports = ", ".join(_text(lease) for lease in leases)
        text = f"{ports} by {self.forwarding.protocol}"
        return f"{text}; {trouble}" if (trouble := self._trouble()) else text

    def _trouble(self) -> str:
        """Why forwarded ports may not help, or the empty string."""
        external = self._external()
        if not external:
            return "the router does not know its external address"
        if is_inside(external):
            return f"the router itself is behind a NAT ({external}), which lets nobody in"
        seen = self._seen()
        if seen and external not in seen:
            return f"peers see this node at {seen[0]}, so another NAT is in front of the router"
        return ""

    def _seen(self) -> list[str]:
        """Public IPv4 addresses at which peers that were dialled directly see this node."""
        hosts = (
            view.observed.rpartition(":")[0]
            for view in self._transport.peers()
            if view.outbound and view.host and not is_inside(view.host)
        )
        return sorted({host for host in hosts if _is_ip4(host) and not is_inside(host)})

    def warnings(self) -> Iterable[HealthWarning]:
        """What makes forwarded ports useless."""
        if self.forwarding.leases and (trouble := self._trouble()):
            yield HealthWarning("forwarding", f"ports are forwarded in vain: {trouble}", "info")


def _is_ip4(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 4
    except ValueError:
        return False


def _text(lease: Lease) -> str:
    place = host_port(lease.external_host or "?", lease.external_port)
    if lease.external_port == lease.want.port:
        return f"{place}/{lease.want.protocol}"
    return f"{place}/{lease.want.protocol} (here {lease.want.port})"
