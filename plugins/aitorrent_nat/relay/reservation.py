"""Reservations: what a relay promises to a node that nobody can dial, signed by the relay.

    64 bytes  Ed25519 signature over the rest, for the domain `aitd/reservation/1`
    rest      one msgpack map

The client returns it when it renews, so that a relay which lost its list still knows its promises.
No I/O, and no clock: callers pass `now` in seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from aitorrentd.api import (
    PeerId,
    ProtocolError,
    Signer,
    pack,
    peer_id,
    public_key,
    unpack_map,
    verify,
)
from aitorrentd.api.fields import MAX_EXACT, blob, whole

DOMAIN: Final = "aitd/reservation/1"
VERSION: Final = 1
LIFETIME_S: Final = 3600
MIN_LIFETIME_S: Final = 60
"A client renews at half the lifetime."
MAX_RESERVATION_BYTES: Final = 512
SKEW_S: Final = 600
"How far in the future a reservation may be issued: clocks differ."
_SIGNATURE_BYTES: Final = 64
_MAX_FIELDS: Final = 16


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits of a reservation."""

    rate: int
    "Bytes per second of one pair of nodes, both directions together."
    bytes_per_hour: int
    "Of one pair, both directions together."
    circuits: int
    "Concurrent circuits of the client."


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation whose signature was verified."""

    relay: PeerId
    client: PeerId
    issued: int
    "Seconds since the epoch, by the relay's clock."
    expires: int
    terms: Terms
    raw: bytes = field(repr=False)
    "The bytes as signed."

    @property
    def lifetime_s(self) -> int:
        """Seconds from issue to expiry, whatever the clocks say."""
        return self.expires - self.issued


def issue(signer: Signer, client: PeerId, terms: Terms, now: float) -> Reservation:
    """A reservation for `client` by this node, valid for an hour."""
    body = pack(
        {
            "v": VERSION,
            "relay": signer.public_key,
            "client": public_key(client),
            "issued": int(now),
            "expires": int(now) + LIFETIME_S,
            "rate": terms.rate,
            "hour": terms.bytes_per_hour,
            "circuits": terms.circuits,
        }
    )
    return read_reservation(signer.sign(DOMAIN, body) + body)


def read_reservation(raw: bytes) -> Reservation:
    """The reservation in `raw`, with its signature verified; `check` says whether it is of use.

    Raises:
        ProtocolError: too long, malformed or forged.
    """
    if len(raw) > MAX_RESERVATION_BYTES:
        raise ProtocolError(f"a reservation of {len(raw)} bytes")
    body = raw[_SIGNATURE_BYTES:]
    try:
        fields = unpack_map(body, max_items=_MAX_FIELDS)
        whole(fields, "v", VERSION, VERSION)
        relay_key = blob(fields, "relay", 32, 32)
        client = peer_id(blob(fields, "client", 32, 32))
        issued = whole(fields, "issued", 0, MAX_EXACT)
        expires = whole(fields, "expires", issued + MIN_LIFETIME_S, issued + LIFETIME_S)
        terms = Terms(
            rate=whole(fields, "rate", 1, MAX_EXACT),
            bytes_per_hour=whole(fields, "hour", 1, MAX_EXACT),
            circuits=whole(fields, "circuits", 1, 65_535),
        )
    except ProtocolError as e:
        raise ProtocolError(f"a malformed reservation: {e.message}") from None
    if not verify(relay_key, DOMAIN, body, raw[:_SIGNATURE_BYTES]):
        raise ProtocolError("a reservation with a forged signature")
    return Reservation(peer_id(relay_key), client, issued, expires, terms, raw)


def check(reservation: Reservation, relay: PeerId, client: PeerId, now: float) -> None:
    """Accept only a current reservation of `client` at `relay`.

    Raises:
        ProtocolError: it is another node's, expired, or issued in the future.
    """
    if reservation.relay != relay:
        raise ProtocolError("a reservation that another relay signed")
    if reservation.client != client:
        raise ProtocolError("a reservation of another node")
    if reservation.expires <= now:
        raise ProtocolError(f"a reservation that expired {now - reservation.expires:.0f} s ago")
    if reservation.issued > now + SKEW_S:
        ahead_s = reservation.issued - now
        raise ProtocolError(f"a reservation issued {ahead_s:.0f} s in the future")
