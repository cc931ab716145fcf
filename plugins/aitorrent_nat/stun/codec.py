"""STUN messages (RFC 8489, and RFC 5780 for NAT behaviour): hostile bytes in, checked ones out.

The encoding is aioice's. Its decoder trusts lengths, ignores the magic cookie and takes the last of
repeated attributes, so every datagram passes a gate first. No I/O.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aitorrent_nat.networks import Place, is_place
from aitorrentd.api import ProtocolError

if TYPE_CHECKING:
    from aioice.stun import Message

MAGIC_COOKIE: Final = 0x2112A442
HEADER_BYTES: Final = 20
TRANSACTION_BYTES: Final = 12
MAX_BYTES: Final = 1232
"No fragments: the smallest IPv6 path without its headers (RFC 8489, section 6.1)."
MAX_ATTRIBUTES: Final = 16
UNKNOWN_ATTRIBUTE: Final = 420
"Error code: the request asks for what this server cannot do (RFC 8489, section 6.3.1)."

_HEADER: Final = struct.Struct("!HHI12s")
_REQUEST: Final = b"\0\1"
_COOKIE: Final = MAGIC_COOKIE.to_bytes(4)
_TLV: Final = struct.Struct("!HH")
_CHANGE_REQUEST: Final = 0x0003
_UNKNOWN_ATTRIBUTES: Final = 0x000A
_RESPONSE_PORT: Final = 0x0027
_FINGERPRINT: Final = 0x8028
# Lengths in bytes, or None for text; all other attributes below 0x8000 must be understood.
_UNDERSTOOD: Final = {
    0x0001: (8, 20),  # MAPPED-ADDRESS
    _CHANGE_REQUEST: (4,),
    0x0006: None,  # USERNAME
    0x0008: (20,),  # MESSAGE-INTEGRITY
    0x0009: None,  # ERROR-CODE
    _UNKNOWN_ATTRIBUTES: None,
    0x0014: None,  # REALM
    0x0015: None,  # NONCE
    0x0020: (8, 20),  # XOR-MAPPED-ADDRESS
    _RESPONSE_PORT: (4,),
}
# Parts of RFC 3489 that its successors dropped; old servers still send them.
_OBSOLETE: Final = frozenset({0x0002, 0x0004, 0x0005, 0x000B})
_FIXED: Final = {0x802B: (8, 20), 0x802C: (8, 20), _FINGERPRINT: (4,)}
_CHANGE_IP: Final = 0x4
_CHANGE_PORT: Final = 0x2
_ADDRESS_BYTES: Final = {4: 12, 6: 24}
"An address attribute with its head, by IP version."


@dataclass(frozen=True, slots=True)
class Request:
    """A binding request."""

    transaction: bytes
    change_ip: bool = False
    change_port: bool = False
    response_port: int = 0
    "Where the reply goes if not to the port that the request came from."
    unknown: tuple[int, ...] = ()
    "Attributes that a server must understand and this one does not."


@dataclass(frozen=True, slots=True)
class Response:
    """A reply to a binding request. Every address in it is a claim of the server."""

    transaction: bytes
    mapped: Place | None = None
    "Where the request came from, as the server saw it; None in an error."
    origin: Place | None = None
    "Where the server sent the reply from."
    other: Place | None = None
    "Another address and port of the server, if it has both."
    error: int = 0
    is_legacy: bool = False
    "Whether only a server of RFC 3489 replies like this: without XOR-MAPPED-ADDRESS."


def new_transaction() -> bytes:
    """96 random bits: nobody who does not see the request can answer it."""
    return secrets.token_bytes(TRANSACTION_BYTES)


def may_be_request(datagram: bytes) -> bool:
    """Whether `read` may find a request in it; cheap, for floods."""
    if not HEADER_BYTES <= len(datagram) <= MAX_BYTES:
        return False
    return datagram[:2] == _REQUEST and datagram[4:8] == _COOKIE


def read(datagram: bytes) -> Request | Response:
    """The binding request or response in a datagram.

    Raises:
        ProtocolError: anything else.
    """
    from aioice import stun

    attributes = list(_attributes(datagram))
    try:
        message = stun.parse_message(datagram)
    except (ValueError, struct.error) as e:
        raise ProtocolError(f"not a STUN message: {e}") from None
    if message.message_method is not stun.Method.BINDING:
        raise ProtocolError(f"STUN method {message.message_method.name}, not BINDING")
    unknown = tuple(kind for kind, _ in attributes if kind < 0x8000 and kind not in _UNDERSTOOD)
    if message.message_class is stun.Class.REQUEST:
        raw = dict(attributes)
        change = int.from_bytes(raw.get(_CHANGE_REQUEST, b""))
        return Request(
            message.transaction_id,
            change_ip=bool(change & _CHANGE_IP),
            change_port=bool(change & _CHANGE_PORT),
            response_port=int.from_bytes(raw.get(_RESPONSE_PORT, b"")[:2]),
            unknown=unknown,
        )
    if message.message_class is stun.Class.INDICATION:
        raise ProtocolError("a STUN indication asks for nothing and answers nothing")
    return _response(message, set(unknown) - _OBSOLETE)


def _response(message: Message, unknown: set[int]) -> Response:
    found: dict[str, Any] = message.attributes
    if message.error_code is not None:
        return Response(message.transaction_id, error=message.error_code)
    if unknown:
        # RFC 8489, section 6.3.3: such a reply is discarded.
        raise ProtocolError(f"STUN reply with unknown attribute {min(unknown):#06x}")
    mapped = found.get("XOR-MAPPED-ADDRESS", found.get("MAPPED-ADDRESS"))
    for place in (mapped, found.get("RESPONSE-ORIGIN"), found.get("OTHER-ADDRESS")):
        if place is not None and not is_place(*place):
            raise ProtocolError(f"STUN reply with address {place[0]} port {place[1]}")
    if mapped is None:
        raise ProtocolError("STUN reply without an address")
    return Response(
        message.transaction_id,
        mapped=mapped,
        origin=found.get("RESPONSE-ORIGIN"),
        other=found.get("OTHER-ADDRESS"),
        is_legacy="XOR-MAPPED-ADDRESS" not in found,
    )


def _attributes(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute, in order.

    Raises:
        ProtocolError: the datagram is not well-formed STUN.
    """
    if not HEADER_BYTES <= len(datagram) <= MAX_BYTES:
        raise ProtocolError(f"not a STUN message: {len(datagram)} bytes")
    kind, length, cookie, _ = _HEADER.unpack_from(datagram)
    if kind & 0xC000 or cookie != MAGIC_COOKIE:
        raise ProtocolError("not a STUN message of RFC 5389 or later")
    if length % 4 or length != len(datagram) - HEADER_BYTES:
        raise ProtocolError("a STUN message of another length than it says")
    seen: set[int] = set()
    at = HEADER_BYTES
    while at < len(datagram):
        kind, length = _TLV.unpack_from(datagram, at)
        end = at + _TLV.size + length
        if end + -length % 4 > len(datagram):
            raise ProtocolError("a STUN attribute reaches beyond its message")
        if kind in seen or len(seen) == MAX_ATTRIBUTES or _FINGERPRINT in seen:
            raise ProtocolError("a STUN message with repeated or too many attributes")
        lengths = _UNDERSTOOD.get(kind, _FIXED.get(kind))
        if lengths is not None and length not in lengths:
            raise ProtocolError(f"a STUN attribute {kind:#06x} of {length} bytes")
        seen.add(kind)
        yield kind, datagram[at + _TLV.size : end]
        at = end + -length % 4


def encode_request(request: Request, *, version: int) -> bytes:
    """The datagram of a request to a server of this IP version.

    It is padded to the size of a full reply, so that no reply amplifies it.
    """
    from aioice import stun

    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, request.transaction)
    change = _CHANGE_IP * request.change_ip | _CHANGE_PORT * request.change_port
    if change:
        message.attributes["CHANGE-REQUEST"] = change
    extra = b""
    if request.response_port:
        extra = _TLV.pack(_RESPONSE_PORT, 4) + struct.pack("!HH", request.response_port, 0)
    reply_bytes = HEADER_BYTES + 3 * _ADDRESS_BYTES[version]
    blank = reply_bytes - len(bytes(message)) - len(extra) - _TLV.size
    if blank > 0:
        message.attributes["SOFTWARE"] = " " * blank
    return _with_attribute(bytes(message), extra)


def encode_response(response: Response) -> bytes:
    """The datagram of a reply that is no error."""
    from aioice import stun

    message = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, response.transaction)
    places = {
        "XOR-MAPPED-ADDRESS": response.mapped,
        "RESPONSE-ORIGIN": response.origin,
        "OTHER-ADDRESS": response.other,
    }
    message.attributes.update({name: place for name, place in places.items() if place is not None})
    return bytes(message)


def encode_refusal(transaction: bytes, unknown: tuple[int, ...]) -> bytes:
    """The datagram that refuses a request for the attributes `unknown`; at most two are named."""
    from aioice import stun

    message = stun.Message(stun.Method.BINDING, stun.Class.ERROR, transaction)
    message.attributes["ERROR-CODE"] = (UNKNOWN_ATTRIBUTE, "")
    named = unknown[:2]
    value = struct.pack(f"!{len(named)}H", *named)
    extra = _TLV.pack(_UNKNOWN_ATTRIBUTES, len(value)) + value + bytes(-len(value) % 4)
    return _with_attribute(bytes(message), extra)


def _with_attribute(raw: bytes, extra: bytes) -> bytes:
    """A message with one more attribute, which aioice does not know."""
    kind, length, cookie, transaction = _HEADER.unpack_from(raw)
    head = _HEADER.pack(kind, length + len(extra), cookie, transaction)
    return head + raw[HEADER_BYTES:] + extra
