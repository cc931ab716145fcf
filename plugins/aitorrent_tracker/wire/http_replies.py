"""Replies of an HTTP tracker: BEP 3, BEP 7, BEP 23, BEP 31 and BEP 48."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from aitorrent_tracker.swarms.storage import Counts, Found
from aitorrent_tracker.wire.bencode import Value, bencode
from aitorrent_tracker.wire.refusals import Refused

OK: Final = b"200 OK"
_USUAL: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "
_KEEP: Final = b"\r\nConnection: keep-alive\r\n\r\n"
_CLOSE: Final = b"\r\nConnection: close\r\n\r\n"
_NO_PEERS6: Final = b"6:peers60:e"


def compact_reply(found: Found, interval_s: int, min_interval_s: int) -> bytes:
    """The answer to an announce, with peers as bytes (BEP 23, BEP 7)."""
    seeds, leechers, completed, peers4, peers6 = found
    counts = _counts(seeds, completed, leechers)
    if peers6:
        return b"%b%de12:min intervali%de5:peers%d:%b6:peers6%d:%be" % (
            *(counts, interval_s, min_interval_s),
            *(len(peers4), peers4, len(peers6), peers6),
        )
    return b"%b%de12:min intervali%de5:peers%d:%b6:peers60:e" % (
        counts,
        interval_s,
        min_interval_s,
        len(peers4),
        peers4,
    )


def usual_reply(found: Found, interval_s: int, min_interval_s: int, keeps_alive: bool) -> bytes:
    """A whole HTTP response with the body that `compact_reply` makes.

    Its parts come again and again, so that joining them is all that is left to do.
    """
    seeds, leechers, completed, peers4, peers6 = found
    if peers6:
        body = compact_reply(found, interval_s, min_interval_s)
        return http_reply(body, is_head=False, keeps_alive=keeps_alive)
    counts, size = _counts(seeds, completed, leechers), len(peers4)
    intervals = _intervals(interval_s, min_interval_s, size)
    head = _head(len(counts) + len(intervals) + size + len(_NO_PEERS6), keeps_alive)
    return head + counts + intervals + peers4 + _NO_PEERS6


@lru_cache(maxsize=4096)
def _head(size: int, keeps_alive: bool) -> bytes:
    return b"%b%d%b" % (_USUAL, size, _KEEP if keeps_alive else _CLOSE)


@lru_cache(maxsize=4096)
def _intervals(interval_s: int, min_interval_s: int, size: int) -> bytes:
    return b"%de12:min intervali%de5:peers%d:" % (interval_s, min_interval_s, size)


@lru_cache(maxsize=4096)
def _counts(seeds: int, completed: int, leechers: int) -> bytes:
    """The begin of a reply; swarms change less often than they are asked for."""
    return b"d8:completei%de10:downloadedi%de10:incompletei%de8:intervali" % (
        seeds,
        completed,
        leechers,
    )


def full_reply(
    found: Found, interval_s: int, min_interval_s: int, id_of: Callable[[bytes], bytes] | None
) -> bytes:
    """The answer to an announce, with peers as dictionaries (BEP 3).

    `id_of` maps a compact address to its peer id; None leaves the ids out.
    """
    peers: list[Value] = []
    for raw, width in ((found.peers4, 6), (found.peers6, 18)):
        for at in range(0, len(raw), width):
            entry = raw[at : at + width]
            peer: dict[bytes, Value] = {
                b"ip": str(ipaddress.ip_address(entry[:-2])).encode(),
                b"port": int.from_bytes(entry[-2:], "big"),
            }
            if id_of is not None:
                peer[b"peer id"] = id_of(entry)
            peers.append(peer)
    return bencode(
        {
            b"complete": found.seeds,
            b"downloaded": found.completed,
            b"incomplete": found.leechers,
            b"interval": interval_s,
            b"min interval": min_interval_s,
            b"peers": peers,
        }
    )


def scrape_reply(counts: Mapping[bytes, Counts]) -> bytes:
    """The answer to a scrape (BEP 48)."""
    files: dict[bytes, Value] = {
        info_hash: {b"complete": c.seeds, b"downloaded": c.completed, b"incomplete": c.leechers}
        for info_hash, c in counts.items()
    }
    return bencode({b"files": files})


def failure_reply(refused: Refused) -> bytes:
    """The answer to a request that is not served."""
    reply: dict[bytes, Value] = {b"failure reason": refused.text.encode()}
    if refused.retry_min is not None:
        reply[b"retry in"] = refused.retry_min
    return bencode(reply)


def http_reply(body: bytes, *, status: bytes = OK, is_head: bool, keeps_alive: bool) -> bytes:
    """A whole HTTP response."""
    if status is OK and not is_head:
        return b"%b%d%b%b" % (_USUAL, len(body), _KEEP if keeps_alive else _CLOSE, body)
    return b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%b%b\r\n%b" % (
        status,
        len(body),
        b"Allow: GET, HEAD\r\n" if status.startswith(b"405") else b"",
        b"Connection: keep-alive\r\n" if keeps_alive else b"Connection: close\r\n",
        b"" if is_head else body,
    )
