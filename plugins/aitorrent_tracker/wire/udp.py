"""The UDP tracker protocol: BEP 15, and the path of the announce URL by BEP 41.

A connection id is a keyed hash of the sender's address and the time, so the tracker keeps nothing
for a client. Until an address has proven that it receives, no reply to it is longer than its
request.
"""

from __future__ import annotations

import hmac
import struct
from functools import lru_cache
from hashlib import blake2s
from typing import Final, NamedTuple

from aitorrent_tracker.swarms.storage import HASH_BYTES, Counts, Event, Found
from aitorrent_tracker.wire.refusals import Refused

PROTOCOL_ID: Final = 0x41727101980
CONNECT: Final = 0
ANNOUNCE: Final = 1
SCRAPE: Final = 2
ERROR: Final = 3
WINDOW_S: Final = 120.0
"An id is accepted for two to four minutes. BEP 15: until two minutes after it was sent."
MAX_SCRAPED: Final = 74
MAX_BYTES: Final = 16 + HASH_BYTES * MAX_SCRAPED
"Of a request; longer datagrams are not read."
DEFAULT_WANTED: Final = 50
MAX_WANTED: Final = {4: 74, 16: 64}
"By the size of the address: replies fit into 1,232 bytes, the least that any IPv6 path carries."
NO_COUNTS: Final = Counts(0, 0, 0)
_EVENTS: Final = tuple(Event)
"By number."
_STOPPED: Final = Event.STOPPED
_NONE: Final = Event.NONE
_HEAD: Final = struct.Struct(">QII")
_ANNOUNCE: Final = struct.Struct(">QII20s20sQQQIIIiH")
_REPLY: Final = struct.Struct(">II")
_ANNOUNCED: Final = struct.Struct(">IIIII")
_COUNTS: Final = struct.Struct(">III")


class Head(NamedTuple):
    """How each request starts."""

    connection: int
    action: int
    transaction: int


class UdpAnnounce(NamedTuple):
    """An announce."""

    info_hash: bytes
    peer_id: bytes
    port: int
    event: Event
    is_seed: bool
    wanted: int
    path: bytes
    "Path and query of the tracker's URL, if the client sent them."


class ConnectionIds:
    """Makes and recognises connection ids. `secret` has at most 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._of = lru_cache(maxsize=4096)(self._hashed)

    def make(self, host: bytes, now: float) -> int:
        """The id for a packed address now."""
        return int.from_bytes(self._of(host, int(now / WINDOW_S)), "big")

    def is_valid(self, connection: int, host: bytes, now: float) -> bool:
        """Whether this address got this id not too long ago."""
        window = int(now / WINDOW_S)
        given = connection.to_bytes(8, "big")
        return hmac.compare_digest(given, self._of(host, window)) or hmac.compare_digest(
            given, self._of(host, window - 1)
        )

    def _hashed(self, host: bytes, window: int) -> bytes:
        text = window.to_bytes(8, "big", signed=True) + host
        return blake2s(text, digest_size=8, key=self._secret).digest()


def read_head(raw: bytes) -> Head | None:
    """The head of a request; None if these bytes are none."""
    return Head(*_HEAD.unpack_from(raw)) if len(raw) >= _HEAD.size else None


def read_announce(raw: bytes, host_bytes: int) -> UdpAnnounce:
    """An announce; `host_bytes` is the size of the sender's address.

    The address in the request is ignored: it would let anyone direct a swarm at a third party.

    Raises:
        Refused: it is too short, or a field is malformed.
    """
    if len(raw) < _ANNOUNCE.size:
        raise Refused("malformed", "announce is too short")
    _, _, _, info_hash, peer_id, _, left, _, number, _, _, wanted, port = _ANNOUNCE.unpack_from(raw)
    # Numbers beyond those of BEP 15, such as `paused` (BEP 21), do not change the swarm.
    event = _EVENTS[number] if number < len(_EVENTS) else _NONE
    if port == 0 and event is not _STOPPED:
        raise Refused("malformed", "port 0 cannot be announced")
    return UdpAnnounce(
        info_hash,
        peer_id,
        port,
        event,
        left == 0,
        min(DEFAULT_WANTED if wanted < 0 else wanted, MAX_WANTED[host_bytes]),
        _url_path(raw[_ANNOUNCE.size :]) if len(raw) > _ANNOUNCE.size else b"",
    )


def _url_path(options: bytes) -> bytes:
    """The `URLData` options joined, as BEP 41 has it; what is malformed ends them."""
    path, at = b"", 0
    while at < len(options):
        kind = options[at]
        if kind == 0:
            break
        at += 1
        if kind == 1:
            continue
        size = options[at] if at < len(options) else 0
        if kind == 2:
            path += options[at + 1 : at + 1 + size]
        at += 1 + size
    return path


def read_scrape(raw: bytes) -> list[bytes]:
    """The info-hashes of a scrape, in order.

    Raises:
        Refused: there is none.
    """
    hashes = raw[_HEAD.size : MAX_BYTES]
    whole = len(hashes) // HASH_BYTES * HASH_BYTES
    if not whole:
        raise Refused("malformed", "scrape names no info-hash")
    return [hashes[at : at + HASH_BYTES] for at in range(0, whole, HASH_BYTES)]


def connect_reply(transaction: int, connection: int) -> bytes:
    """The answer to a connect; as long as the request."""
    return _REPLY.pack(CONNECT, transaction) + connection.to_bytes(8, "big")


def announce_reply(transaction: int, found: Found, interval_s: int, host_bytes: int) -> bytes:
    """The answer to an announce. Peers are of the family of the client's address."""
    seeds, leechers, _ = found.counts
    head = _ANNOUNCED.pack(ANNOUNCE, transaction, interval_s, leechers, seeds)
    return head + (found.peers4 if host_bytes == 4 else found.peers6)


def scrape_reply(transaction: int, counts: list[Counts]) -> bytes:
    """The answer to a scrape."""
    rows = (_COUNTS.pack(c.seeds, c.completed % 2**32, c.leechers) for c in counts)
    return _REPLY.pack(SCRAPE, transaction) + b"".join(rows)


def error_reply(transaction: int, text: str) -> bytes:
    """The answer to a request that is not served."""
    return _REPLY.pack(ERROR, transaction) + text.encode()
