"""The datagrams of PCP (RFC 6887) and NAT-PMP (RFC 6886). No I/O."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from aitorrent_nat.mapping.routers import Lease, Want
from aitorrentd.api import AitorrentError, Denied, ProtocolError

PORT: Final = 5351
NONCE_BYTES: Final = 12
_PCP: Final = 2
_MAP: Final = 1
_RESPONSE: Final = 0x80
_REQUEST: Final = struct.Struct("!BBxxI16s12sB3xHH16s")
_ANSWER: Final = struct.Struct("!BBxBII12x12sB3xHH16s")
_PCP_NUMBERS: Final = {"tcp": 6, "udp": 17}
_PMP_NUMBERS: Final = {"udp": 1, "tcp": 2}
_ANY: Final = ipaddress.IPv6Address("::ffff:0.0.0.0").packed
_PCP_ERRORS: Final = {
    2: "it is not allowed",
    3: "it does not understand the request",
    4: "it forwards no ports",
    7: "it has no connection to the internet",
    8: "it has no room for another port",
    9: "it does not forward this protocol",
    10: "this machine has too many ports already",
    11: "the external port is taken",
    12: "another NAT is between it and this machine",
}
_PMP_ERRORS: Final = {
    2: "it is not allowed",
    3: "it has no connection to the internet",
    4: "it has no room for another port",
    5: "it does not understand the request",
}


class OtherVersion(AitorrentError):
    """The router speaks NAT-PMP, not PCP."""


@dataclass(frozen=True, slots=True)
class PmpMapped:
    """A mapping that NAT-PMP granted; the external address is asked separately."""

    external_port: int
    lasts_s: int


def pcp_request(want: Want, own: str, nonce: bytes, external_port: int, lasts_s: int) -> bytes:
    """A MAP request (section 11.1) of the address `own`; `lasts_s` 0 deletes the mapping."""
    is_ip6 = ":" in own
    me = ipaddress.IPv6Address(own if is_ip6 else f"::ffff:{own}").packed
    number = _PCP_NUMBERS[want.protocol]
    ports = want.port, external_port
    any_address = bytes(16) if is_ip6 else _ANY
    return _REQUEST.pack(_PCP, _MAP, lasts_s, me, nonce, number, *ports, any_address)


def pcp_answer(data: bytes, want: Want, nonce: bytes, *, is_ip6: bool = False) -> Lease | None:
    """The lease in a response, or None if it answers something else.

    `is_ip6`: whether an IPv6 port was asked for.

    Raises:
        OtherVersion: the router speaks NAT-PMP only. Denied: it refuses.
        ProtocolError: it is damaged.
    """
    if len(data) >= 4 and data[0] == 0:
        raise OtherVersion("the router speaks NAT-PMP")
    if len(data) < _ANSWER.size or data[0] != _PCP:
        raise ProtocolError("a damaged PCP response")
    fields = _ANSWER.unpack_from(data)
    _, code, result, lasts_s, _, told, number, port, external_port, packed = fields
    if (code, told, number, port) != (
        _RESPONSE | _MAP,
        nonce,
        _PCP_NUMBERS[want.protocol],
        want.port,
    ):
        return None
    _check(result, _PCP_ERRORS)
    told6 = ipaddress.IPv6Address(packed)
    external = told6 if is_ip6 else told6.ipv4_mapped
    if external is None or not external_port:
        raise ProtocolError("a PCP response without an IPv4 address and port")
    host = "" if external.is_unspecified else str(external)
    return Lease(want, host, external_port, lasts_s)


def pmp_request(want: Want, external_port: int, lasts_s: int) -> bytes:
    """A request for a mapping (section 3.3); to delete one, both are 0."""
    number = _PMP_NUMBERS[want.protocol]
    return struct.pack("!BBxxHHI", 0, number, want.port, external_port, lasts_s)


def pmp_answer(data: bytes, want: Want) -> PmpMapped | None:
    """What was granted, or None if it answers something else.

    Raises:
        Denied: the router refuses. ProtocolError: it is damaged.
    """
    number = _PMP_NUMBERS[want.protocol]
    if (found := _pmp(data, number, 16)) is None:
        return None
    port, external_port, lasts_s = struct.unpack("!HHI", found)
    if port != want.port:
        return None
    if not external_port or not lasts_s:
        raise ProtocolError("a NAT-PMP response that grants no port")
    return PmpMapped(external_port, lasts_s)


def pmp_address_request() -> bytes:
    """A request for the external address (section 3.2)."""
    return bytes(2)


def pmp_address(data: bytes) -> str | None:
    """The external IP address, "" if the router has none, or None if this answers something else.

    Raises:
        Denied: the router refuses. ProtocolError: it is damaged.
    """
    if (found := _pmp(data, 0, 12)) is None:
        return None
    address = ipaddress.IPv4Address(found)
    return "" if address.is_unspecified else str(address)


def _pmp(data: bytes, number: int, size: int) -> bytes | None:
    """What follows the head of a response to request `number`."""
    if len(data) < 8 or data[0] != 0:
        raise ProtocolError("a damaged NAT-PMP response")
    if data[1] != _RESPONSE | number:
        return None
    _check(int.from_bytes(data[2:4]), _PMP_ERRORS)
    if len(data) < size:
        raise ProtocolError("a NAT-PMP response that is too short")
    return data[8:size]


def _check(result: int, errors: dict[int, str]) -> None:
    if not result:
        return
    raise Denied(errors.get(result, f"error {result}"))
