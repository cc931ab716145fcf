"""Peer records: where a node can be dialled, signed by the node itself.

    64 bytes  Ed25519 signature over the rest, for the domain `aitd/peer/1`
    rest      one msgpack map

A record is at most 2 KiB and passed on as it was received. The highest sequence number wins; it is
the time of issue in milliseconds unless a node issues two within one. No I/O, and no clock: callers
pass `now`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from aitorrentd.api import (
    InvalidParams,
    PeerId,
    ProtocolError,
    Signer,
    TooLarge,
    pack,
    peer_id,
    unpack_map,
    verify,
)
from aitorrentd.api.fields import MAX_EXACT, blob, texts, whole
from aitorrentd.api.network.addresses import MAX_ADDRESS_CHARS, Address, parse_address

DOMAIN: Final = "aitd/peer/1"
VERSION: Final = 1
MAX_RECORD_BYTES: Final = 2048
MAX_ADDRESSES: Final = 16
MAX_CAPABILITIES: Final = 16
MAX_CAPABILITY_CHARS: Final = 32
LIFETIME_S: Final = 2 * 3600
"Far longer than honest clocks differ, and a node that is gone is forgotten the same day."
MAX_LIFETIME_S: Final = 24 * 3600
FUTURE_S: Final = 120
"How far in the future a record heard from others may be issued."
SKEW_S: Final = 600
"The same for a record that its own node hands over: the channel proves that it is current."
_TAG_BYTES: Final = 16
_SIGNATURE_BYTES: Final = 64
_MAX_FIELDS: Final = 32


class Refusal(StrEnum):
    """Why a record is not believed; each reason is counted."""

    MALFORMED = "malformed"
    FORGED = "forged"
    TOO_LONG = "too_long"
    FOREIGN = "foreign_network"
    EXPIRED = "expired"
    FUTURE = "future"

    @property
    def is_fault(self) -> bool:
        """Whether whoever passes such a record on breaks the rules; clocks may differ honestly."""
        return self in (Refusal.MALFORMED, Refusal.FORGED, Refusal.TOO_LONG)


class Refused(ProtocolError):
    """A record that is not believed."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """A record whose signature holds."""

    peer: PeerId
    sequence: int
    issued: int
    "Seconds since the epoch, by the clock of its node."
    expires: int
    addresses: tuple[Address, ...]
    "Addresses of kinds that this version can dial, each expecting `peer`."
    capabilities: tuple[str, ...]
    network: bytes
    "See `network_tag`."
    raw: bytes = field(repr=False)
    "The bytes as signed."

    @property
    def key(self) -> bytes:
        """What stands for this record in a Bloom filter."""
        return self.peer.encode() + self.sequence.to_bytes(8, "big")


def network_tag(network: str) -> bytes:
    """16 bytes that stand for a network id where strangers can read them."""
    return hashlib.sha256(b"aitd/network/1\0" + network.encode()).digest()[:_TAG_BYTES]


def sign_record(
    signer: Signer,
    network: str,
    addresses: Sequence[str],
    *,
    sequence: int,
    now: float,
    capabilities: Sequence[str] = (),
    lifetime_s: int = LIFETIME_S,
) -> PeerRecord:
    """This node's record. The last addresses are left out if 2 KiB do not hold all.

    Raises:
        InvalidParams: not an address. TooLarge: the record is too long without any address.
    """
    places = [parse_address(text).location for text in addresses][:MAX_ADDRESSES]
    while True:
        body = pack(
            {
                "v": VERSION,
                "key": signer.public_key,
                "seq": sequence,
                "issued": int(now),
                "expires": int(now) + lifetime_s,
                "net": network_tag(network),
                "addresses": places,
                "caps": list(capabilities),
            }
        )
        if len(body) + _SIGNATURE_BYTES <= MAX_RECORD_BYTES:
            break
        if not places:
            raise TooLarge(f"a peer record has at most {MAX_RECORD_BYTES} bytes")
        places.pop()
    return read_record(signer.sign(DOMAIN, body) + body)


def read_record(raw: bytes) -> PeerRecord:
    """The record in `raw`, with its signature verified; whether it is current is another question.

    Raises:
        Refused: too long, malformed or forged.
    """
    if len(raw) > MAX_RECORD_BYTES:
        raise Refused(Refusal.TOO_LONG, f"a peer record of {len(raw)} bytes")
    body = raw[_SIGNATURE_BYTES:]
    try:
        fields = unpack_map(body, max_items=_MAX_FIELDS)
        whole(fields, "v", VERSION, VERSION)
        key = blob(fields, "key", 32, 32)
        sequence = whole(fields, "seq", 1, MAX_EXACT)
        issued = whole(fields, "issued", 0, MAX_EXACT)
        expires = whole(fields, "expires", issued, issued + MAX_LIFETIME_S)
        network = blob(fields, "net", _TAG_BYTES, _TAG_BYTES)
        listed = texts(fields, "addresses", MAX_ADDRESSES, MAX_ADDRESS_CHARS)
        capabilities = texts(fields, "caps", MAX_CAPABILITIES, MAX_CAPABILITY_CHARS, printable=True)
    except ProtocolError as e:
        raise Refused(Refusal.MALFORMED, f"a peer record: {e.message}") from None
    if sequence > (issued + FUTURE_S) * 1000:
        # Nothing could ever replace such a record.
        raise Refused(Refusal.MALFORMED, "a peer record with a sequence number from the future")
    if not verify(key, DOMAIN, body, raw[:_SIGNATURE_BYTES]):
        raise Refused(Refusal.FORGED, "a peer record with a forged signature")
    peer = peer_id(key)
    places = _known(listed, peer)
    return PeerRecord(peer, sequence, issued, expires, places, capabilities, network, raw)


def check_current(record: PeerRecord, network: bytes, now: float, *, future_s: int) -> None:
    """Accept only records of the network with this tag that are neither expired nor from the
    future.

    Raises:
        Refused: anything else.
    """
    if record.network != network:
        raise Refused(Refusal.FOREIGN, "a peer record of another network")
    if record.expires <= now:
        raise Refused(
            Refusal.EXPIRED, f"a peer record that expired {now - record.expires:.0f} s ago"
        )
    if record.issued > now + future_s:
        raise Refused(
            Refusal.FUTURE, f"a peer record issued {record.issued - now:.0f} s in the future"
        )


def _known(listed: Sequence[str], peer: PeerId) -> tuple[Address, ...]:
    """The addresses that can be parsed; later versions may list other kinds."""
    found: dict[Address, None] = {}
    for text in listed:
        try:
            address = parse_address(text)
        except InvalidParams:
            continue
        if address.peer in (None, peer):
            found.setdefault(address.of(peer))
    return tuple(found)
