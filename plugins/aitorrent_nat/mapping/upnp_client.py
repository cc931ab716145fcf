"""Asking a UPnP router to forward ports: WANIPConnection 1 and 2, WANPPPConnection 1.

The library (see the package's docstring) reads the description and speaks SOAP; HTTP is ours, so
that it stays with the router and within bounds. What a router may send is anything at all, and the
library does not expect all of it: its errors, and those of its code on such input, are one here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Mapping
from typing import Any, Final

import httpx
from async_upnp_client.client import UpnpRequester, UpnpService
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.const import HttpRequest, HttpResponse
from async_upnp_client.exceptions import UpnpActionError, UpnpConnectionError, UpnpError

from aitorrent_nat.mapping.gateway import Gateway
from aitorrent_nat.mapping.routers import LEASE_S, Lease, Want
from aitorrentd.api import Denied, TimedOut, Unavailable

TIMEOUT_S: Final = 5.0
MAX_REPLY_BYTES: Final = 256 * 1024
DESCRIPTION: Final = "aitorrentd"
"Shown in the router's list of forwarded ports."
_TRIES: Final = 5
_SERVICES: Final = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
_ERRORS: Final = (
    UpnpError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
# WANIPConnection:2, section 2.5; those of :1 are a part of them.
_NO_SUCH_ENTRY: Final = 714
_CONFLICTS: Final = (718, 729)
_PERMANENT_ONLY: Final = (402, 501, 725)
"What routers say to a duration that they do not know; 725 is what they should say."
_REFUSALS: Final = {
    501: "it failed",
    606: "it is not allowed",
    728: "it has no room for another port",
}


class _Requester(UpnpRequester):
    """HTTP to the router only, bounded in time and size."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        """See `UpnpRequester`."""
        if not self._gateway.has_page(http_request.url):
            raise UpnpError(message=f"it leads to {http_request.url[:100]!r}")
        # No proxy, no redirects.
        transport = httpx.AsyncHTTPTransport(local_address=self._gateway.own)
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                httpx.AsyncClient(transport=transport, trust_env=False) as client,
                client.stream(
                    http_request.method,
                    http_request.url,
                    headers=dict(http_request.headers),
                    content=http_request.body,
                ) as reply,
            ):
                body = bytearray()
                async for part in reply.aiter_bytes():
                    body += part
                    if len(body) > MAX_REPLY_BYTES:
                        raise UpnpError(message="a reply without end")
                text = body.decode("utf-8", "replace")
                return HttpResponse(reply.status_code, dict(reply.headers), text)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as e:
            raise UpnpConnectionError(message=str(e) or "no answer") from None


async def connect(gateway: Gateway, url: str) -> UpnpRouter:
    """The router whose description is at `url`.

    Raises:
        Unavailable, TimedOut: it forwards no ports, or its description is damaged.
    """
    factory = UpnpFactory(_Requester(gateway), non_strict=True)
    try:
        async with asyncio.timeout(3 * TIMEOUT_S):
            device = await factory.async_create_device(url)
        services = {service.service_type: service for service in device.all_services}
    except TimeoutError:
        raise TimedOut(f"UPnP: {gateway.host} takes too long") from None
    except _ERRORS as e:
        raise Unavailable(f"UPnP: {gateway.host} describes itself badly: {_text(e)}") from None
    for kind in _SERVICES:
        if kind in services:
            return UpnpRouter(gateway, services[kind])
    raise Unavailable(f"UPnP: {gateway.host} forwards no ports")


class UpnpRouter:
    """Implements `routers.Router` by UPnP."""

    name = "UPnP"

    def __init__(self, gateway: Gateway, service: UpnpService) -> None:
        self._gateway = gateway
        self._service = service

    async def map(self, want: Want, external_port: int) -> Lease:
        """See `Router.map`; a port that belongs to another machine is never taken from it."""
        host = await self._external_host()
        port = external_port
        for _ in range(_TRIES):
            if await self._is_ours_or_free(want, port):
                try:
                    lasts_s = await self._add(want, port)
                except UpnpActionError as e:
                    if e.error_code not in _CONFLICTS:
                        raise self._denied(e) from None
                else:
                    return Lease(want, host, port, lasts_s)
            port = random.randrange(20_000, 60_000)
        raise Denied("every port that was tried is taken")

    async def _external_host(self) -> str:
        try:
            told = (await self._call("GetExternalIPAddress")).get("NewExternalIPAddress")
            address = ipaddress.IPv4Address(str(told))
        except (UpnpActionError, ValueError):
            return ""
        return "" if address.is_unspecified else str(address)

    async def _is_ours_or_free(self, want: Want, port: int) -> bool:
        try:
            entry = await self._call(
                "GetSpecificPortMappingEntry",
                NewRemoteHost="",
                NewExternalPort=port,
                NewProtocol=want.protocol.upper(),
            )
        except UpnpActionError:
            return True  # no such entry; or the router does not tell
        place = entry.get("NewInternalClient"), entry.get("NewInternalPort")
        return place == (self._gateway.own, want.port)

    async def _add(self, want: Want, port: int) -> int:
        """Add a mapping; returns how long it lasts."""
        for lasts_s in (LEASE_S, 0):
            try:
                await self._call(
                    "AddPortMapping",
                    NewRemoteHost="",
                    NewExternalPort=port,
                    NewProtocol=want.protocol.upper(),
                    NewInternalPort=want.port,
                    NewInternalClient=self._gateway.own,
                    NewEnabled=True,
                    NewPortMappingDescription=DESCRIPTION,
                    NewLeaseDuration=lasts_s,
                )
            except UpnpActionError as e:
                if e.error_code not in _PERMANENT_ONLY or not lasts_s:
                    raise
            else:
                return lasts_s
        raise Denied("no duration suits it")

    async def unmap(self, lease: Lease) -> None:
        """See `Router.unmap`."""
        try:
            await self._call(
                "DeletePortMapping",
                NewRemoteHost="",
                NewExternalPort=lease.external_port,
                NewProtocol=lease.want.protocol.upper(),
            )
        except UpnpActionError as e:
            if e.error_code != _NO_SUCH_ENTRY:
                raise self._denied(e) from None

    async def _call(self, name: str, **arguments: Any) -> Mapping[str, Any]:
        """The result of an action.

        Raises:
            UpnpActionError: the router refuses. Unavailable, TimedOut: no usable answer.
        """
        try:
            action = self._service.action(name)
            return await action.async_call(**arguments)
        except UpnpActionError:
            raise
        except _ERRORS as e:
            raise Unavailable(f"UPnP: {self._gateway.host}: {name}: {_text(e)}") from None

    def _denied(self, error: UpnpActionError) -> Denied:
        code = error.error_code
        text = _REFUSALS.get(int(code or 0), f"error {code}")
        return Denied(text)


def _text(error: Exception) -> str:
    """What a library's error says, in one bounded line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
