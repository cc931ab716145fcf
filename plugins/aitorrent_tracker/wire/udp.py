"""The UDP tracker protocol: BEP 15, and the path of the announce URL by BEP 41.

A connection id is a keyed hash of the sender's address and the time, so the tracker keeps nothing
for a client. Until an address has proven that it receives, no reply to it is longer than its
request.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2s
from hmac import compare_digest
from typing import Final

from aitorrent_tracker.swarms.storage import HASH_BYTES, Announce, Counts, Event, Found, make_tuple
from aitorrent_tracker.wire.refusals import Refused

PROTOCOL_ID: Final = (0x41727101980).to_bytes(8, "big")
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
_FEWEST: Final = min(MAX_WANTED.values())
NO_COUNTS: Final = Counts(0, 0, 0)
_EVENTS: Final = tuple(Event)
"By number."
_STOPPED: Final = Event.STOPPED
_NONE: Final = Event.NONE
_HEAD: Final = struct.Struct(">8sII")
_ANNOUNCE: Final = struct.Struct(">16x20s20s8xQ8xI8xiH")
"Without the head, and without what a tracker does not need."
_WHOLE: Final = struct.Struct(">8sII20s20s8xQ8xI8xiH")
"All that a tracker needs."
_REPLY: Final = struct.Struct(">II")
_announced: Final = struct.Struct(">IIIII").pack
_COUNTS: Final = struct.Struct(">III")
_HEAD_BYTES: Final = _HEAD.size
_ANNOUNCE_BYTES: Final = _ANNOUNCE.size


class ConnectionIds:
    """Makes and recognises connection ids. `secret` has at most 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._ids = lru_cache(maxsize=4096)(self._now_and_before)

    def make(self, host: bytes, now: float) -> bytes:
        """The id for a packed address now."""
        return self._ids(host, int(now / WINDOW_S))[0]

    def is_valid(self, connection: bytes, host: bytes, now: float) -> bool:
        """Whether this address got this id not too long ago."""
        current, previous = self._ids(host, int(now / WINDOW_S))
        return compare_digest(connection, current) or compare_digest(connection, previous)

    def _now_and_before(self, host: bytes, window: int) -> tuple[bytes, bytes]:
        return self._hashed(host, window), self._hashed(host, window - 1)

    def _hashed(self, host: bytes, window: int) -> bytes:
        text = window.to_bytes(8, "big", signed=True) + host
        return blake2s(text, digest_size=8, key=self._secret).digest()


def read_head(raw: bytes) -> tuple[bytes, int, int] | None:
    """Connection id, action and transaction of a request; None if these bytes are none."""
    return _HEAD.unpack_from(raw) if len(raw) >= _HEAD_BYTES else None


def read_whole_announce(raw: bytes, host: bytes) -> tuple[bytes, int, Announce] | None:
    """Connection id, transaction and announce of an announce without options, as `read_head` and
    `read_announce` read it; None if these bytes are anything else, or refused."""
    if len(raw) != _ANNOUNCE_BYTES:
        return None
    fields = _WHOLE.unpack(raw)
    connection, action, transaction, info_hash, peer_id, left, number, wanted, port = fields
    if action != ANNOUNCE or not port:
        return None
    event = _EVENTS[number] if number < len(_EVENTS) else _NONE
    if wanted < 0:
        wanted = DEFAULT_WANTED
    elif wanted > _FEWEST:
        wanted = min(wanted, MAX_WANTED[len(host)])
    announce = make_tuple(Announce, (info_hash, peer_id, host, port, event, left == 0, wanted))
    return connection, transaction, announce


def read_announce(raw: bytes, host: bytes) -> Announce:
    """The announce of a client at this packed address.

    An address in the request is ignored: it would let anyone direct a swarm at a third party.

    Raises:
        Refused: it is too short, or a field is malformed.
    """
    if len(raw) < _ANNOUNCE_BYTES:
        raise Refused("malformed", "announce is too short")
    info_hash, peer_id, left, number, wanted, port = _ANNOUNCE.unpack_from(raw)
    # Numbers beyond those of BEP 15, such as `paused` (BEP 21), do not change the swarm.
    event = _EVENTS[number] if number < len(_EVENTS) else _NONE
    if port == 0 and event is not _STOPPED:
        raise Refused("malformed", "port 0 cannot be announced")
    if wanted < 0:
        wanted = DEFAULT_WANTED
    elif wanted > (most := MAX_WANTED[len(host)]):
        wanted = most
    return make_tuple(Announce, (info_hash, peer_id, host, port, event, left == 0, wanted))


def url_path(raw: bytes) -> bytes:
    """Path and query of the tracker's URL, if the client sent them with its announce."""
    return _url_path(raw[_ANNOUNCE_BYTES:]) if len(raw) > _ANNOUNCE_BYTES else b""


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
    hashes = raw[_HEAD_BYTES:MAX_BYTES]
    whole = len(hashes) // HASH_BYTES * HASH_BYTES
    if not whole:
        raise Refused("malformed", "scrape names no info-hash")
    return [hashes[at : at + HASH_BYTES] for at in range(0, whole, HASH_BYTES)]


def connect_reply(transaction: int, connection: bytes) -> bytes:
    """The answer to a connect; as long as the request."""
    return _REPLY.pack(CONNECT, transaction) + connection


def announce_reply(transaction: int, found: Found, interval_s: int, host_bytes: int) -> bytes:
    """The answer to an announce. Peers are of the family of the client's address."""
    seeds, leechers, _, peers4, peers6 = found
    head = _announced(ANNOUNCE, transaction, interval_s, leechers, seeds)
    return head + (peers4 if host_bytes == 4 else peers6)


def scrape_reply(transaction: int, counts: list[Counts]) -> bytes:
    """The answer to a scrape."""
    rows = (_COUNTS.pack(c.seeds, c.completed % 2**32, c.leechers) for c in counts)
    return _REPLY.pack(SCRAPE, transaction) + b"".join(rows)


def error_reply(transaction: int, text: str) -> bytes:
    """The answer to a request that is not served."""
    return _REPLY.pack(ERROR, transaction) + text.encode()
