"""Health of the running transport: warnings for `status` and `doctor`."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from typing import Final

from aitorrent_transport.links.path import SMALL_SEGMENT_BYTES
from aitorrent_transport.peers.duplicates import HOW_TO_END
from aitorrent_transport.service import TransportService
from aitorrentd.api import HealthWarning
from aitorrentd.api.descriptors import limit
from aitorrentd.api.network.addresses import is_loopback, parse_address

RECENT_S: Final = 600.0
"How long a refusal keeps its warning active."
MAX_PLACES: Final = 4


def warnings(service: TransportService) -> Iterator[HealthWarning]:
    """Yield each current problem with its remedy."""
    yield from _lonely(service)
    yield from _refusing(service)
    yield from _duplicated(service)
    yield from _waiting(service)
    yield from _unreachable(service)
    yield from _stalling(service)


def _lonely(service: TransportService) -> Iterator[HealthWarning]:
    for place, problem in service.keeper.waiting()[:MAX_PLACES]:
        text = f"bootstrap address {place} is not connected; retrying: {problem}"
        yield HealthWarning("bootstrap", text)
    count = service.keeper.sought
    if not count or len(service.table):
        return
    given = "a bootstrap address is" if count == 1 else f"{count} bootstrap addresses are"
    yield HealthWarning("no_peers", f"no peer is connected, although {given} configured")


def _refusing(service: TransportService) -> Iterator[HealthWarning]:
    listener = service.listener
    now = asyncio.get_running_loop().time()
    if listener.scarce_at is not None and now - listener.scarce_at < RECENT_S:
        text = (
            f"peers were refused because nearly all of the daemon's {limit()} file descriptors were"
            " in use; raise LimitNOFILE= in its unit (or ulimit -n), or lower max_peers"
        )
        yield HealthWarning("descriptors", text)
        return
    refusals = listener.refusals
    if refusals.last_at is not None and now - refusals.last_at < RECENT_S:
        text = (
            f"{refusals.total} connections were closed before authentication because their "
            "hosts opened too many; the log names the hosts"
        )
        yield HealthWarning("crowded", text)


def _duplicated(service: TransportService) -> Iterator[HealthWarning]:
    for sighting in service.table.rivals.duplicates.current(service.now()):
        yield HealthWarning("duplicate_key", f"{sighting.text}; {HOW_TO_END}")


def _waiting(service: TransportService) -> Iterator[HealthWarning]:
    for error in service.binding.waiting.values():
        text = f"not listening yet; retrying at least once a minute: {error.message}"
        yield HealthWarning("listen", text)
    if service.store.problem:
        text = f"known peers are currently not being saved; retrying: {service.store.problem}"
        yield HealthWarning("known_peers", text)


def _unreachable(service: TransportService) -> Iterator[HealthWarning]:
    everywhere = [host for host, _ in service.bound if ipaddress.ip_address(host).is_unspecified]
    told = [parse_address(text).host for text in service.addresses()]
    if everywhere and not service.config.announce and all(map(is_loopback, told)):
        listened = " and ".join(everywhere)
        text = (
            f"no other machine can reach this node: it listens on {listened}, and this "
            "machine has only loopback addresses of that kind; set plugins.transport.listen or "
            "announce"
        )
        yield HealthWarning("unreachable", text)


def _stalling(service: TransportService) -> Iterator[HealthWarning]:
    for host in service.paths.current(asyncio.get_running_loop().time())[:MAX_PLACES]:
        text = (
            f"the path to {host} seems to drop large packets; using segments of "
            f"{SMALL_SEGMENT_BYTES} bytes there. Lower the MTU of the tunnel interface, or "
            "allow ICMP"
        )
        yield HealthWarning("path", text)
