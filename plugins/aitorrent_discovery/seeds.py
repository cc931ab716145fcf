"""Seeds: names whose addresses are other nodes, for a node that has no peers.

The transport takes a name in `bootstrap` for one node and keeps a channel to whichever of its
addresses answers. Here each address is a node of its own, and a few of them are dialled.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aitorrent_discovery.dnsaddr import addresses_in, name_in, txt_records
from aitorrentd.api import AitorrentError, PluginContext, Transport
from aitorrentd.api.backoff import equal_jitter_s, full_jitter_s
from aitorrentd.api.network.addresses import Address, parse_address
from aitorrentd.api.network.resolver import Resolver

MAX_ADDRESSES: Final = 64
"Of one name; those beyond are ignored."
DIALLED: Final = 3
"Addresses of each name that are dialled at once."
BASE_S: Final = 5.0
CAP_S: Final = 600.0
LOOK_S: Final = 30.0
"How often a connected node looks whether it still has peers."


class Seeds:
    """Dials seeds while there are no peers; names are resolved anew each time."""

    def __init__(
        self,
        ctx: PluginContext,
        transport: Transport,
        seeds: tuple[str, ...],
        resolver: Resolver,
        txt: Callable[[str], Awaitable[Sequence[str]]] = txt_records,
    ) -> None:
        self.wake = asyncio.Event()
        "Set when the network changed: names may resolve now."
        self.problems: dict[str, str] = {}
        "Why a seed was of no use last time, by seed."
        self._ctx = ctx
        self._transport = transport
        self._seeds = seeds
        self._resolver = resolver
        self._txt = txt

    async def run(self) -> None:
        """Until cancelled."""
        attempt = 0
        while True:
            if self._transport.peers():
                attempt = 0
                await asyncio.sleep(LOOK_S * (0.5 + self._ctx.random.random()))
                continue
            await asyncio.gather(*(self._ask(seed) for seed in self._seeds))
            attempt = await self._pause(attempt)

    async def _pause(self, attempt: int) -> int:
        """Wait after a failure; returns the number of the next attempt."""
        draw = self._ctx.random.random()
        wait_s = equal_jitter_s(attempt, base_s=BASE_S, cap_s=CAP_S, draw=draw)
        self.wake.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self.wake.wait()
        except TimeoutError:
            return attempt + 1
        await asyncio.sleep(full_jitter_s(0, draw=draw))
        return 0

    async def _ask(self, seed: str) -> None:
        listed = name_in(seed)
        host = listed or parse_address(seed).host
        try:
            places = await (self._listed(listed) if listed else self._named(parse_address(seed)))
        except (OSError, AitorrentError) as e:
            self._failed(seed, f"{host} does not resolve: {e}")
            return
        self._ctx.random.shuffle(places)
        results = await asyncio.gather(*map(self._dial, places[:DIALLED]))
        problems = [text for text in results if text]
        if len(problems) < len(results):
            self.problems.pop(seed, None)
        else:
            self._failed(seed, "; ".join(problems) or f"{host} has no address")

    async def _named(self, name: Address) -> list[Address]:
        """The A and AAAA records of a name."""
        found = await self._resolver.resolve(
            name.host,
            version={"dns4": 4, "dns6": 6}.get(name.family, 0),
            max_addresses=MAX_ADDRESSES,
        )
        return [
            Address("ip4" if family == socket.AF_INET else "ip6", ip, name.port, name.masked)
            for family, ip in found
        ]

    async def _listed(self, name: str) -> list[Address]:
        """The addresses in the TXT records of a name, but this node's own."""
        me = self._transport.node_id
        return [place for place in addresses_in(await self._txt(name)) if place.peer != me]

    async def _dial(self, place: Address) -> str:
        """Why `place` cannot be dialled, or the empty string."""
        try:
            await self._transport.connect(str(place))
        except AitorrentError as e:
            return e.message
        return ""

    def _failed(self, seed: str, text: str) -> None:
        if seed not in self.problems:
            self._ctx.log.warning("seed %s is of no use now, and is asked again: %s", seed, text)
        self.problems[seed] = text
