"""Ports in the firewall of an IPv6 router, opened by PCP (RFC 6887, section 11).

Nothing is translated: strangers reach this machine at an address that it has anyway, once the
router lets them in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from aitorrent_nat.mapping.gateway import Gateway, gateway6
from aitorrent_nat.mapping.keeping import Forwarding, pcp
from aitorrent_nat.mapping.routers import Want
from aitorrent_nat.networks import is_inside
from aitorrentd.api import Transport
from aitorrentd.api.network.addresses import parse_address

RETRY_S: Final = 900.0
"Most routers have no PCP for IPv6, and some no firewall either."


class Pinholes:
    """The ports of this node that a router lets strangers reach over IPv6."""

    def __init__(
        self,
        transport: Transport,
        udp_ports: Callable[[], Sequence[int]],
        *,
        forwarding: Forwarding | None = None,
        gateway: Callable[[str], Gateway | None] = gateway6,
    ) -> None:
        self.forwarding = forwarding or Forwarding((pcp,))
        self._transport = transport
        self._udp_ports = udp_ports
        self._gateway = gateway
        self._retry_at = 0.0
        self._asked: tuple[Gateway | None, list[Want]] = (None, [])

    async def look(self, now: float) -> None:
        """Ask the router for the ports that are open to IPv6 here, or give them back."""
        gateway, wants = asked = self.wanted()
        if asked != self._asked:
            self._asked, self._retry_at = asked, 0.0
        if gateway is None or not wants:
            await self.forwarding.release()
        elif now >= self._retry_at:
            works = await self.forwarding.ensure(gateway, wants)
            self._retry_at = 0.0 if works else now + RETRY_S

    def wanted(self) -> tuple[Gateway | None, list[Want]]:
        """The router, as it sees the address that others are told, and the ports."""
        own = self._own()
        gateway = self._gateway(own) if own else None
        if gateway is None:
            return None, []
        ports = [port for host, port in self._transport.bound if host in ("::", own)]
        tcp = [Want("tcp", port) for port in ports]
        udp = [Want("udp", port) for port in self._udp_ports() if port and ports]
        return gateway, list(dict.fromkeys([*tcp, *udp]))

    def _own(self) -> str:
        told = (parse_address(text) for text in self._transport.addresses())
        hosts = [a.host for a in told if a.relay is None and a.family == "ip6"]
        return next((host for host in hosts if not is_inside(host)), "")

    def state(self) -> str:
        """What the router lets in, or the empty string."""
        leases = self.forwarding.leases.values()
        ports = ", ".join(str(lease.want) for lease in leases)
        return f"open to IPv6: {ports} by {self.forwarding.protocol}" if ports else ""
