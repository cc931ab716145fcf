"""The messages of `/ai-torrent/1/relay`: small frames without a tail. No I/O.

A stream begins with a request of the node that opened it:

    reserve   the relay answers `reserved` or `refused`; the stream stays open. The relay announces
              circuits with `incoming`, which the client takes or answers with `decline`; the client
              renews with another `reserve` and ends with `release`
    connect   the relay answers `opened` or `refused`, then `joined` and `ended`

`joined` says that both ends of a circuit have connected, and `ended` why a circuit is over; both
go to both ends, to the client on its reservation stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_nat.relay.reservation import MAX_RESERVATION_BYTES
from aitorrentd.api import (
    AitorrentError,
    Frame,
    PeerId,
    ProtocolError,
    encode_frame,
    error_from_map,
    peer_id,
    public_key,
)
from aitorrentd.api.fields import MAX_EXACT, blob, flag, number, text, texts, whole
from aitorrentd.api.network.addresses import MAX_ADDRESS_CHARS

PROTOCOL: Final = "/ai-torrent/1/relay"
MAX_MESSAGE_BYTES: Final = 4096
MAX_REASON_CHARS: Final = 300
MAX_ADDRESSES: Final = 4
MAX_DELAY_S: Final = 60.0
"A relay that stops spreads its clients over a few seconds; until then they keep its place."
MAX_CIRCUIT_S: Final = 86_400.0
TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Reserve:
    """Client to relay: reserve, or renew what is `held` (empty if nothing is)."""

    held: bytes = b""


@dataclass(frozen=True, slots=True)
class Connect:
    """Dialer to relay: open a circuit to `target`.

    With `renews` it replaces one that is about to reach its time limit.
    """

    target: PeerId
    renews: bool = False


@dataclass(frozen=True, slots=True)
class Decline:
    """Client to relay: the client does not take this circuit."""

    circuit: int
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """Client to relay: the client no longer needs its reservation."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Relay to client: the signed reservation, and where others can dial the relay."""

    reservation: bytes
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Relay to either end: the request is refused."""

    error: AitorrentError


@dataclass(frozen=True, slots=True)
class Incoming:
    """Relay to client: `peer` wants a circuit; the client connects with the token or declines.

    `renews` is what the peer said.
    """

    circuit: int
    token: bytes
    peer: PeerId
    renews: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """Relay to dialer: connect with this token; the circuit may last `seconds`."""

    circuit: int
    token: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Joined:
    """Relay to both ends: both have connected, and bytes pass from now on."""

    circuit: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Relay to both ends: the circuit is over."""

    circuit: int
    reason: str


@dataclass(frozen=True, slots=True)
class Closing:
    """Relay to client: the relay is about to stop; reserve elsewhere after this many seconds."""

    after_s: float


Request = Reserve | Connect
FromClient = Reserve | Decline | Release
FromRelay = Reserved | Refused | Incoming | Opened | Joined | Ended | Closing


def encode(message: Request | FromClient | FromRelay) -> bytes:
    """The frame of a message."""
    match message:
        case Reserve(held):
            head: dict[str, Any] = {"op": "reserve", "held": held}
        case Connect(target, renews):
            head = {"op": "connect", "target": public_key(target), "renews": renews}
        case Decline(circuit, reason):
            head = {"op": "decline", "circuit": circuit, "reason": _short(reason)}
        case Release():
            head = {"op": "release"}
        case Reserved(reservation, addresses):
            listed = list(addresses[:MAX_ADDRESSES])
            head = {"op": "reserved", "reservation": reservation, "addresses": listed}
        case Refused(error):
            head = {"op": "refused", "code": error.code, "reason": _short(error.message)}
        case Incoming(circuit, token, peer, renews):
            head = {"op": "incoming", "circuit": circuit, "token": token, "renews": renews}
            head["peer"] = public_key(peer)
        case Opened(circuit, token, seconds):
            head = {"op": "opened", "circuit": circuit, "token": token, "seconds": seconds}
        case Joined(circuit):
            head = {"op": "joined", "circuit": circuit}
        case Ended(circuit, reason):
            head = {"op": "ended", "circuit": circuit, "reason": _short(reason)}
        case Closing(after_s):
            head = {"op": "closing", "after_s": after_s}
    return encode_frame(head)


def read_request(frame: Frame) -> Request:
    """The first message of a stream.

    Raises:
        ProtocolError: anything but a well-formed request.
    """
    fields = _fields(frame)
    match fields.get("op"):
        case "reserve":
            return Reserve(blob(fields, "held", 0, MAX_RESERVATION_BYTES))
        case "connect":
            return Connect(_peer(fields, "target"), flag(fields, "renews"))
    raise ProtocolError("a relay stream must begin with `reserve` or `connect`")


def read_from_client(frame: Frame) -> FromClient:
    """A later message on a reservation stream.

    Raises:
        ProtocolError: anything but a well-formed `reserve`, `decline` or `release`.
    """
    fields = _fields(frame)
    match fields.get("op"):
        case "reserve":
            return Reserve(blob(fields, "held", 0, MAX_RESERVATION_BYTES))
        case "decline":
            return Decline(_circuit(fields), _reason(fields))
        case "release":
            return Release()
    raise ProtocolError("a client sends only `reserve`, `decline` and `release`")


def read_from_relay(frame: Frame) -> FromRelay:
    """A message of a relay.

    Raises:
        ProtocolError: anything but a well-formed one.
    """
    fields = _fields(frame)
    match fields.get("op"):
        case "reserved":
            raw = blob(fields, "reservation", 1, MAX_RESERVATION_BYTES)
            return Reserved(raw, texts(fields, "addresses", MAX_ADDRESSES, MAX_ADDRESS_CHARS))
        case "refused":
            code = text(fields, "code", 32)
            return Refused(error_from_map({"code": code, "message": _reason(fields)}))
        case "incoming":
            peer, renews = _peer(fields, "peer"), flag(fields, "renews")
            return Incoming(_circuit(fields), _token(fields), peer, renews)
        case "opened":
            seconds = number(fields, "seconds", 0, MAX_CIRCUIT_S)
            return Opened(_circuit(fields), _token(fields), seconds)
        case "joined":
            return Joined(_circuit(fields))
        case "ended":
            return Ended(_circuit(fields), _reason(fields))
        case "closing":
            return Closing(number(fields, "after_s", 0, MAX_DELAY_S))
    raise ProtocolError("an unknown message from a relay")


def _fields(frame: Frame) -> Mapping[str, Any]:
    if len(frame.tail):
        raise ProtocolError("a relay message has no tail")
    return frame.header


def _circuit(fields: Mapping[str, Any]) -> int:
    return whole(fields, "circuit", 0, MAX_EXACT)


def _token(fields: Mapping[str, Any]) -> bytes:
    return blob(fields, "token", TOKEN_BYTES, TOKEN_BYTES)


def _peer(fields: Mapping[str, Any], name: str) -> PeerId:
    return peer_id(blob(fields, name, 32, 32))


def _reason(fields: Mapping[str, Any]) -> str:
    return text(fields, "reason", MAX_REASON_CHARS, min_chars=0, printable=True)


def _short(reason: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in reason[:MAX_REASON_CHARS])
