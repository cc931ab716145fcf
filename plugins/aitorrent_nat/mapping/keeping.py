"""Keeping ports forwarded: asked for, checked, renewed, and given back.

A router is asked by PCP first, then by NAT-PMP, then by UPnP: the first is the most exact and
cheapest. Each check asks for the ports again, which renews them and restores them on a router that
restarted and forgot them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aitorrent_nat.mapping import upnp
from aitorrent_nat.mapping.asking import NatPmpRouter, PcpRouter
from aitorrent_nat.mapping.datagrams import OtherVersion
from aitorrent_nat.mapping.gateway import Gateway
from aitorrent_nat.mapping.routers import Lease, Router, Want
from aitorrentd.api import AitorrentError, Denied, TimedOut, Unavailable

MAX_EXTERNAL: Final = 65_535


async def pcp(gateway: Gateway) -> Router:
    """The router by PCP; whether it speaks PCP shows at the first request."""
    return PcpRouter(gateway)


async def nat_pmp(gateway: Gateway) -> Router:
    """The router by NAT-PMP, likewise."""
    return NatPmpRouter(gateway)


WAYS: Final[Sequence[Callable[[Gateway], Awaitable[Router]]]] = (pcp, nat_pmp, upnp.find)


class Forwarding:
    """The ports that one router forwards."""

    def __init__(self, ways: Sequence[Callable[[Gateway], Awaitable[Router]]] = WAYS) -> None:
        self.leases: dict[Want, Lease] = {}
        "What the router forwards, as far as is known."
        self.problem = ""
        "Why it forwards nothing, or not everything."
        self._ways = ways
        self._gateway: Gateway | None = None
        self._router: Router | None = None

    @property
    def protocol(self) -> str:
        """By which protocol the router is asked; empty if by none."""
        return self._router.name if self._router is not None else ""

    async def ensure(self, gateway: Gateway, wants: Sequence[Want]) -> bool:
        """Have the router forward exactly `wants`; returns whether it does."""
        if gateway != self._gateway:
            # The router of another network: it is out of reach, and its leases end by themselves.
            self.leases.clear()
            self._router, self._gateway = None, gateway
        for want in [want for want in self.leases if want not in wants]:
            await self._unmap(self.leases.pop(want))
        if self._router is not None:
            try:
                await self._map_all(self._router, wants)
            except AitorrentError as e:
                self.problem = e.message
                self.leases.clear()
                self._router = None  # it may speak another protocol after it restarted
            else:
                self.problem = ""
                return True
        return await self._find(gateway, wants)

    async def _find(self, gateway: Gateway, wants: Sequence[Want]) -> bool:
        refusals: dict[str, str] = {}
        for way in self._ways:
            router: Router | None = None
            try:
                router = await way(gateway)
                await self._map_all(router, wants)
            except Denied as e:
                refusals[router.name if router else "router"] = e.message
            except (Unavailable, TimedOut, OtherVersion):
                continue
            else:
                self._router = router
                self.problem = ""
                return True
        self.leases.clear()
        told = "; ".join(f"{text} ({name})" for name, text in refusals.items())
        self.problem = (
            f"the router refuses: {told}" if told else "the router does not offer to forward ports"
        )
        return False

    async def _map_all(self, router: Router, wants: Sequence[Want]) -> None:
        for want in wants:
            before = self.leases.get(want)
            self.leases[want] = await router.map(
                want, before.external_port if before else want.port
            )

    async def release(self) -> None:
        """Give every port back."""
        for lease in self.leases.values():
            await self._unmap(lease)
        self.leases.clear()

    async def _unmap(self, lease: Lease) -> None:
        if self._router is not None:
            try:
                async with asyncio.timeout(2):
                    await self._router.unmap(lease)
            except (AitorrentError, TimeoutError):
                return  # the lease ends by itself
