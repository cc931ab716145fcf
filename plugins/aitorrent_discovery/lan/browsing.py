"""Services on the local network turned into candidates, at a bounded cost."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from aitorrent_discovery.lan.announcement import SERVICE, announced
from aitorrent_discovery.peers.candidates import Candidates
from aitorrent_discovery.records.places import MAX_PLACES
from aitorrentd.api import PeerId, PluginContext, Transport
from aitorrentd.api.tasks import Tasks

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

MAX_NAMES: Final = 256
"Services that are remembered by name, so that their goodbye can be understood."
MAX_WAITING: Final = 32
"Services whose address is asked for at the same time; more are taken up when they repeat."
RESOLVE_MS: Final = 2000


class Browsing:
    """Browses for nodes of this network."""

    def __init__(
        self,
        ctx: PluginContext,
        zeroconf: AsyncZeroconf,
        transport: Transport,
        candidates: Candidates,
        counts: Counter[str],
        on_found: Callable[[], None],
    ) -> None:
        self.networks: Sequence[str] = ()
        "The attached networks; addresses elsewhere are not dialled."
        self._ctx = ctx
        self._zeroconf = zeroconf
        self._transport = transport
        self._candidates = candidates
        self._counts = counts
        self._on_found = on_found
        self._tasks = Tasks(ctx.log)
        self._names: OrderedDict[str, PeerId] = OrderedDict()
        self._browser: AsyncServiceBrowser | None = None

    def start(self, networks: Sequence[str]) -> None:
        """Browse on the interfaces of the zeroconf instance."""
        from zeroconf.asyncio import AsyncServiceBrowser

        self.networks = networks
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICE, handlers=[self._changed]
        )

    async def close(self) -> None:
        """Stop."""
        if self._browser is not None:
            await self._browser.async_cancel()
        await self._tasks.close()

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceInfo

        if state_change is ServiceStateChange.Removed:
            if (peer := self._names.pop(name, None)) is not None:
                self._candidates.off_lan(peer)
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._found(name, info)
        elif len(self._tasks) < MAX_WAITING:
            self._tasks.spawn(self._resolve(zeroconf, name, info), "resolve a service")
        else:
            self._counts["services_dropped"] += 1

    async def _resolve(self, zeroconf: Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        if await info.async_request(zeroconf, RESOLVE_MS):
            self._found(name, info)
        else:
            self._counts["services_unresolved"] += 1

    def _found(self, name: str, info: AsyncServiceInfo) -> None:
        self._counts["services"] += 1
        hosts = [host for host in info.parsed_addresses() if "%" not in host][: 2 * MAX_PLACES]
        seen = announced(
            info.properties,
            hosts,
            info.port or 0,
            network=self._ctx.network,
            networks=self.networks,
        )
        if seen is None:
            self._counts["services_foreign"] += 1
            return
        peer, addresses = seen
        if peer == self._transport.node_id:
            return
        if not addresses:
            self._counts["services_off_link"] += 1
            return
        self._names[name] = peer
        self._names.move_to_end(name)
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        self._candidates.on_lan(peer, addresses)
        self._on_found()
