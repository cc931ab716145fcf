"""Asking a router by PCP or NAT-PMP: a datagram to its port 5351, repeated until it answers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, TypeVar

from aitorrent_nat.mapping.datagrams import (
    NONCE_BYTES,
    PORT,
    pcp_answer,
    pcp_request,
    pmp_address,
    pmp_address_request,
    pmp_answer,
    pmp_request,
)
from aitorrent_nat.mapping.gateway import Gateway
from aitorrent_nat.mapping.routers import LEASE_S, Lease, Want
from aitorrentd.api import ProtocolError, TimedOut, Unavailable
from aitorrentd.api.network.datagrams import open_datagrams

T = TypeVar("T")

WAITS_S: Final = (0.25, 0.5, 1.0)
"RFC 6886, section 3.1, without its patience: a router on the same link answers in milliseconds."
_MAX_QUEUED: Final = 16


class PcpRouter:
    """Implements `routers.Router` by PCP."""

    name = "PCP"

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        # Whoever knows the nonce may change the mapping (RFC 6887, section 11.2).
        self._nonces: dict[Want, bytes] = {}

    async def map(self, want: Want, external_port: int) -> Lease:
        """See `Router.map`; raises OtherVersion if the router speaks NAT-PMP only."""
        nonce = self._nonces.setdefault(want, secrets.token_bytes(NONCE_BYTES))
        request = pcp_request(want, self._gateway.own, nonce, external_port, LEASE_S)
        is_ip6 = ":" in self._gateway.own
        return await ask(
            self._gateway, request, lambda data: pcp_answer(data, want, nonce, is_ip6=is_ip6)
        )

    async def unmap(self, lease: Lease) -> None:
        """See `Router.unmap`."""
        nonce = self._nonces.pop(lease.want, bytes(NONCE_BYTES))
        request = pcp_request(lease.want, self._gateway.own, nonce, 0, 0)
        await send(self._gateway, request)


class NatPmpRouter:
    """Implements `routers.Router` by NAT-PMP."""

    name = "NAT-PMP"

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def map(self, want: Want, external_port: int) -> Lease:
        """See `Router.map`."""
        host = await ask(self._gateway, pmp_address_request(), pmp_address)
        request = pmp_request(want, external_port, LEASE_S)
        granted = await ask(self._gateway, request, lambda data: pmp_answer(data, want))
        return Lease(want, host, granted.external_port, granted.lasts_s)

    async def unmap(self, lease: Lease) -> None:
        """See `Router.unmap`."""
        await send(self._gateway, pmp_request(lease.want, 0, 0))


class _Answers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.arrived: asyncio.Queue[bytes | OSError] = asyncio.Queue(_MAX_QUEUED)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._put(data)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            self._put(exc)

    def _put(self, item: bytes | OSError) -> None:
        if not self.arrived.full():
            self.arrived.put_nowait(item)


async def ask(gateway: Gateway, request: bytes, read: Callable[[bytes], T | None]) -> T:
    """What `read` makes of the router's answer; None from it waits for another.

    Raises:
        TimedOut, Unavailable: no usable answer. Whatever `read` raises but ProtocolError.
    """
    damage: ProtocolError | None = None
    try:
        transport, answers = await _open(gateway)
        try:
            for wait_s in WAITS_S:
                transport.sendto(request)
                try:
                    async with asyncio.timeout(wait_s):
                        while True:
                            found = await answers.arrived.get()
                            if isinstance(found, OSError):
                                raise found
                            try:
                                value = read(found)
                            except ProtocolError as e:
                                damage = e
                                continue
                            if value is not None:
                                return value
                except TimeoutError:
                    continue
        finally:
            transport.close()
    except OSError as e:
        raise Unavailable(f"{gateway.host} port {PORT}/udp: {e.strerror or e}") from None
    if damage is not None:
        raise Unavailable(f"{gateway.host} sent {damage.message}")
    raise TimedOut(f"{gateway.host} does not answer on port {PORT}/udp")


async def send(gateway: Gateway, request: bytes) -> None:
    """Send a request whose answer changes nothing.

    Raises:
        Unavailable: it cannot be sent.
    """
    try:
        transport, _ = await _open(gateway)
    except OSError as e:
        raise Unavailable(f"{gateway.host} port {PORT}/udp: {e.strerror or e}") from None
    transport.sendto(request)
    transport.close()


async def _open(gateway: Gateway) -> tuple[asyncio.DatagramTransport, _Answers]:
    # Connected: the kernel passes on only what the router sends from this port.
    return await open_datagrams(_Answers, local=(gateway.own, 0), remote=(gateway.host, PORT))
