"""UPnP routers: finding the one at the default route (UPnP Device Architecture 1.1, section 1.3).

Only the router itself is believed: an answer from another host, or one that leads to another host,
is ignored. `upnp_client` does the rest; it is imported once there is a router, in a thread, because
its library takes about 0.3 s and 12 MiB.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from aitorrent_nat.mapping.gateway import Gateway
from aitorrent_nat.mapping.routers import Router
from aitorrentd.api import TimedOut, Unavailable
from aitorrentd.api.network.datagrams import open_datagrams

SEARCH_S: Final = 2.0
"How long routers may take to answer a search (MX)."
_MAX_DATAGRAM: Final = 4096
_GROUP: Final = ("239.255.255.250", 1900)
# Section 1.3.2: devices of version 2 answer a search for version 1.
_TARGET: Final = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
_SEARCH: Final = (
    "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"
    f'MAN: "ssdp:discover"\r\nMX: 1\r\nST: {_TARGET}\r\n\r\n'
).encode()


class _Search(asyncio.DatagramProtocol):
    """Waits for the description's URL from the router."""

    def __init__(self, gateway: Gateway) -> None:
        self.found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._gateway = gateway

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if addr[0] != self._gateway.host or self.found.done():
            return
        for line in data[:_MAX_DATAGRAM].decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            if name.strip().lower() == "location" and self._gateway.has_page(value.strip()):
                self.found.set_result(value.strip())
                return

    def error_received(self, exc: Exception) -> None:
        return None


async def search(gateway: Gateway) -> str:
    """The URL of the router's description.

    Raises:
        TimedOut: it has none. Unavailable: the search cannot be sent.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        # A router is on the same link; beyond it nobody is asked.
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(gateway.own))
        sock.bind((gateway.own, 0))
        transport, waiting = await open_datagrams(lambda: _Search(gateway), sock=sock)
    except OSError as e:
        sock.close()
        raise Unavailable(f"UPnP: {e.strerror or e}") from None
    try:
        for _ in range(2):  # UDP may lose one
            transport.sendto(_SEARCH, _GROUP)
            done, _ = await asyncio.wait({waiting.found}, timeout=SEARCH_S / 2)
            if done:
                return waiting.found.result()
        raise TimedOut(f"{gateway.host} does not answer a UPnP search")
    finally:
        waiting.found.cancel()
        transport.close()


async def find(gateway: Gateway) -> Router:
    """The router, if it speaks UPnP and forwards ports.

    Raises:
        Unavailable, TimedOut: it does not.
    """
    url = await search(gateway)
    return await (await asyncio.to_thread(_client))(gateway, url)


def _client() -> Callable[[Gateway, str], Awaitable[Router]]:
    from aitorrent_nat.mapping.upnp_client import connect

    return connect
