"""Queries of HTTP announces and scrapes, read as bytes (BEP 3, BEP 7, BEP 23, BEP 48).

An info-hash is any 20 bytes, percent-encoded, so nothing here is ever text. `+` stands for itself.
Addresses in a query (`ip`, `ipv4`, `ipv6`) are ignored: they would let anyone direct a swarm at a
third party.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from aitorrent_tracker.swarms.storage import HASH_BYTES, Announce, Event, make_tuple
from aitorrent_tracker.wire.refusals import Refused

MAX_SCRAPED: Final = 74
"Info-hashes in one scrape, as over UDP (BEP 15)."
DEFAULT_WANTED: Final = 50
MAX_WANTED: Final = 200
_MAX_PAIRS: Final = 64
_MAX_DIGITS: Final = 20
EVENTS: Final = {
    b"started": Event.STARTED,
    b"completed": Event.COMPLETED,
    b"stopped": Event.STOPPED,
}
_STOPPED: Final = Event.STOPPED
_NONE: Final = Event.NONE
ONCE: Final = (b"info_hash", b"peer_id", b"port", b"left")


def read_announce(query: bytes, host: bytes) -> tuple[Announce, bool, bool]:
    """The announce in a query string of a client at this packed address.

    Returns with it whether the client takes a compact reply, and if not, whether one with ids.

    Raises:
        Refused: a field is missing, repeated or malformed.
    """
    pairs = query.split(b"&", _MAX_PAIRS)
    try:
        fields = dict([pair.split(b"=", 1) for pair in pairs])
    except ValueError:  # one has no `=`
        fields = {}
    if len(fields) != len(pairs):
        fields = _unusual(pairs)
    event = EVENTS.get(fields.get(b"event", b""), _NONE)
    port = whole_number(fields.get(b"port", b""))
    if port is None or port > 65_535 or (port == 0 and event is not _STOPPED):
        raise Refused("malformed", "port is missing or is not a number from 1 to 65535")
    wanted = whole_number(fields.get(b"numwant", b""))
    if wanted is None:
        wanted = DEFAULT_WANTED
    elif wanted > MAX_WANTED:
        wanted = MAX_WANTED
    left = fields.get(b"left", b"")
    # Clients that do not know yet send other things than a number.
    is_seed = left == b"0" or (left.isdigit() and not left.strip(b"0"))
    info_hash = _twenty_bytes(fields, b"info_hash")
    peer_id = _twenty_bytes(fields, b"peer_id")
    return (
        make_tuple(Announce, (info_hash, peer_id, host, port, event, is_seed, wanted)),
        fields.get(b"compact") != b"0",
        fields.get(b"no_peer_id") != b"1",
    )


def _unusual(pairs: list[bytes]) -> dict[bytes, bytes]:
    """Fields of a query in which something is repeated or has no value."""
    if len(pairs) > _MAX_PAIRS:
        raise Refused("malformed", "the query has too many parameters")
    fields: dict[bytes, bytes] = {}
    for pair in pairs:
        key, _, value = pair.partition(b"=")
        if key not in fields:
            fields[key] = value
        elif key in ONCE:
            raise Refused("malformed", f"{key.decode()} is repeated")
    return fields


def read_scrape(query: bytes) -> list[bytes]:
    """The info-hashes of a scrape, each once.

    Raises:
        Refused: there is none, there are too many, or one is malformed.
    """
    hashes: dict[bytes, None] = {}
    pairs = query.split(b"&", 2 * MAX_SCRAPED)
    for pair in pairs:
        key, _, value = pair.partition(b"=")
        if key == b"info_hash":
            hashes[_decoded(key, value)] = None
    if not hashes:
        raise Refused("malformed", "info_hash is missing; this tracker has no full scrape")
    if len(pairs) > 2 * MAX_SCRAPED or len(hashes) > MAX_SCRAPED:
        raise Refused("malformed", f"a scrape may name {MAX_SCRAPED} info-hashes at most")
    return list(hashes)


def whole_number(digits: bytes) -> int | None:
    """The number, if these are a few ASCII digits and nothing else."""
    # int() would accept signs, underscores, spaces and the digits of other scripts.
    return int(digits) if digits.isdigit() and len(digits) <= _MAX_DIGITS else None


def _twenty_bytes(fields: dict[bytes, bytes], key: bytes) -> bytes:
    value = fields.get(key)
    if value is None:
        raise Refused("malformed", f"{key.decode()} is missing")
    return _decoded(key, value)


def _decoded(key: bytes, value: bytes) -> bytes:
    if len(value) == HASH_BYTES and b"%" not in value:
        return value
    decoded = unquoted(value) if len(value) <= 3 * HASH_BYTES else b""
    if not decoded:
        raise Refused("malformed", f"{key.decode()} is not {HASH_BYTES} percent-encoded bytes")
    return decoded


@lru_cache(maxsize=4096)
def unquoted(value: bytes) -> bytes:
    """20 percent-decoded bytes; none if it is anything else. Info-hashes come again and again."""
    decoded = unquote_to_bytes(value)
    # An escape that is not %XX stays as it is, and would pass for three bytes.
    is_whole = len(value) == HASH_BYTES + 2 * value.count(b"%")
    return decoded if len(decoded) == HASH_BYTES and is_whole else b""
