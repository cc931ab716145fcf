"""The local network: this node announced, others found, interfaces followed.

The work is done by `zeroconf`, which is imported on first use: it takes about 35 ms and 5 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aitorrent_discovery.lan.announcement import (
    SERVICE,
    Announcement,
    announcement,
    listens_on_loopback_only,
    txt,
)
from aitorrent_discovery.lan.browsing import Browsing
from aitorrent_discovery.lan.interfaces import LocalInterfaces, local_interfaces
from aitorrent_discovery.peers.candidates import Candidates
from aitorrentd.api import PluginContext, Transport

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

LOOK_S: Final = 5.0
"How often to look at the interfaces and at this node's addresses when nothing is announced."
RETRY_S: Final = 60.0
"When nothing changed and multicast did not work."
CLOSE_S: Final = 3.0


class LocalNetwork:
    """Announces and browses while it runs; `problem` says why it cannot, `state` what it does."""

    def __init__(
        self,
        ctx: PluginContext,
        transport: Transport,
        candidates: Candidates,
        on_found: Callable[[], None],
    ) -> None:
        self.wake = asyncio.Event()
        "Set when the network changed."
        self.problem = ""
        self.state = "not started"
        self.counts: Counter[str] = Counter()
        self._ctx = ctx
        self._transport = transport
        self._candidates = candidates
        self._on_found = on_found
        self._zeroconf: AsyncZeroconf | None = None
        self._browsing: Browsing | None = None
        self._interfaces: LocalInterfaces | None = None
        self._announced: Announcement | None = None
        self._service: AsyncServiceInfo | None = None
        self._next_try = 0.0
        self._warned = False
        # Names on a link are unique; two nodes with one key must not fight over this one.
        self._name = f"{transport.node_id[-12:]}-{secrets.token_hex(4)}"

    async def run(self) -> None:
        """Until cancelled."""
        _quiet()
        try:
            while True:
                self.wake.clear()
                await self._follow()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self.wake.wait()
        finally:
            await self._close()

    async def _follow(self) -> None:
        addresses = self._transport.addresses()
        if listens_on_loopback_only(addresses):
            self.state, self.problem = "off: this node listens on loopback only", ""
            await self._close()
            return
        interfaces = local_interfaces()
        now = self._ctx.clock.monotonic()
        if interfaces == self._interfaces and self._zeroconf is None and now < self._next_try:
            return
        changed, self._interfaces = interfaces != self._interfaces, interfaces
        self._next_try = now + RETRY_S
        if not interfaces:
            self._fail("no interface with multicast is up; nodes on a local network are not found")
            await self._close()
            return
        try:
            await self._speak(interfaces, announcement(addresses, interfaces.networks), changed)
        except (OSError, RuntimeError, TimeoutError) as e:
            self._fail(f"multicast DNS does not work here: {e}")
            await self._close()
        else:
            self._works(interfaces)

    async def _speak(
        self, interfaces: LocalInterfaces, wanted: Announcement | None, changed: bool
    ) -> None:
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncZeroconf

        choice: list[str | int] = [*interfaces.ip4, *interfaces.indexes6]
        versions = IPVersion.All
        if not interfaces.indexes6:
            versions = IPVersion.V4Only
        elif not interfaces.ip4:
            versions = IPVersion.V6Only
        if self._zeroconf is None:
            zeroconf = AsyncZeroconf(interfaces=choice, ip_version=versions)
            self._zeroconf = zeroconf
            await zeroconf.zeroconf.async_wait_for_start()
            if not zeroconf.zeroconf.engine.senders:
                raise OSError("no interface accepted the multicast group")
            self._browsing = Browsing(
                self._ctx, zeroconf, self._transport, self._candidates, self.counts, self._on_found
            )
            self._browsing.start(interfaces.networks)
        elif changed:
            await self._zeroconf.async_update_interfaces(choice, versions)
            if self._browsing is not None:
                self._browsing.networks = interfaces.networks
        if wanted != self._announced:
            await self._announce(self._zeroconf, wanted)

    async def _announce(self, zeroconf: AsyncZeroconf, wanted: Announcement | None) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        before, self._service = self._service, None
        self._announced = wanted
        if before is not None:
            await (await zeroconf.async_unregister_service(before))
        if wanted is None:
            return
        self._service = AsyncServiceInfo(
            SERVICE,
            f"{self._name}.{SERVICE}",
            port=wanted.port,
            addresses=[_packed(host) for host in wanted.hosts],
            properties=txt(self._transport.node_id, self._ctx.network),
            server=f"{self._name}.local.",
        )
        await (await zeroconf.async_register_service(self._service, allow_name_change=True))

    async def _close(self) -> None:
        zeroconf, browsing = self._zeroconf, self._browsing
        self._zeroconf = self._browsing = None
        self._announced = self._service = None
        if browsing is not None:
            await browsing.close()
        if zeroconf is not None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await zeroconf.async_close()
            except (OSError, RuntimeError, TimeoutError) as e:
                self._ctx.log.debug("closing multicast DNS: %s", e)

    def _works(self, interfaces: LocalInterfaces) -> None:
        if self.problem:
            self._ctx.log.info("nodes on the local network are found again")
        self.problem = ""
        self._warned = False
        told = f"announced on {', '.join(self._announced.hosts)}" if self._announced else "browsing"
        self.state = f"{told}; networks: {', '.join(interfaces.networks) or 'none'}"

    def _fail(self, problem: str) -> None:
        self.problem = problem
        if not self._warned:
            self._warned = True
            self._ctx.log.warning("%s; everything else works, and this is retried", problem)


def _quiet() -> None:
    """Keep zeroconf's own log out of the node's: what matters is told here, once."""
    logger = logging.getLogger("zeroconf")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _packed(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
