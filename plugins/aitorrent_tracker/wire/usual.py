"""Reads an announce in the shape that most clients send, in a third of the usual time.

What arrives is matched as a whole. Everything else, and whatever is wrong, is left to
`http_requests.py` and `query.py`: they say what a request means, and this module agrees with them.
"""

from __future__ import annotations

import re
from typing import Final

from aitorrent_tracker.swarms.storage import HASH_BYTES, Announce, Event, make_tuple
from aitorrent_tracker.wire.http_requests import BadRequest, read_headers
from aitorrent_tracker.wire.query import (
    DEFAULT_WANTED,
    EVENTS,
    MAX_WANTED,
    ONCE,
    unquoted,
    whole_number,
)

MAX_REMEMBERED: Final = 1024
"Ends of queries, and headers; when there are more, all are forgotten."
_MAX_HEADERS: Final = 512
"Bytes of headers that are worth remembering."
# The order of libtorrent and Transmission; aria2 has its port in what follows. `corrupt` and `key`
# differ between clients, so they are not in the remembered end. Possessive repeats (`++`) look at
# no byte twice.
_SHAPE: Final = re.compile(
    rb"GET /announce\?info_hash=(V{20,60}+)&peer_id=(V{20,60}+)(?:&port=(\d{1,5}+))?+"
    rb"&uploaded=V{0,20}+&downloaded=V{0,20}+&left=(V{0,20}+)(?:&numwant=(\d{1,20}+))?+"
    rb"(?:&corrupt=V{0,20}+)?+(?:&key=V{0,32}+)?+((?:&V{0,64}+){0,16}+) HTTP/1\.1\r\n".replace(
        b"V", rb"[^&# \0\r\n]"
    )
).match
_End = tuple[int | None, Event, int]
"Port, event and how many peers are wanted."


class UsualAnnounces:
    """Reads announces, and remembers what clients send again and again."""

    def __init__(self) -> None:
        self._ends: dict[bytes, _End] = {}
        "What the end of a query says."
        self._headers: dict[bytes, bool] = {}
        "Whether the connection stays open, by the headers and the empty line after them."

    def __len__(self) -> int:
        """How much is remembered."""
        return len(self._ends) + len(self._headers)

    def read(self, raw: bytes, host: bytes) -> tuple[Announce, bool] | None:
        """The announce of a client at this packed address, and whether its connection stays open.

        None if these bytes are anything but one announce of the usual shape for a compact reply.
        """
        matched = _SHAPE(raw)
        if matched is None:
            return None
        escaped, peer_id, digits, left, number, end = matched.groups()
        headers = raw[matched.end() :]
        keeps_alive = self._headers.get(headers)
        if keeps_alive is None and (keeps_alive := self._learn_headers(headers)) is None:
            return None
        known = self._ends.get(end)
        if known is None and (known := self._learn_end(end)) is None:
            return None
        port, event, wanted = known
        if digits is not None:
            if port is not None:
                return None  # it is repeated
            port = int(digits)
        if not port or port > 65_535:
            return None
        if number is not None:
            wanted = int(number)
            if wanted > MAX_WANTED:
                wanted = MAX_WANTED
        info_hash = unquoted(escaped)
        if len(peer_id) != HASH_BYTES or b"%" in peer_id:
            peer_id = unquoted(peer_id)
        if not info_hash or not peer_id:
            return None
        is_seed = left == b"0" or (not left.strip(b"0") and left.isdigit())
        return (
            make_tuple(Announce, (info_hash, peer_id, host, port, event, is_seed, wanted)),
            keeps_alive,
        )

    def _learn_headers(self, headers: bytes) -> bool | None:
        """Read and remember headers; None if they are incomplete, wrong, or of a proxy."""
        end = headers.find(b"\r\n\r\n")
        if end <= 0 or end != len(headers) - 4 or len(headers) > _MAX_HEADERS:
            return None
        try:
            keeps_alive, _, forwarded = read_headers(headers[:end])
        except BadRequest:
            return None
        if forwarded:
            return None
        if len(self._headers) >= MAX_REMEMBERED:
            self._headers.clear()
        self._headers[headers] = keeps_alive
        return keeps_alive

    def _learn_end(self, end: bytes) -> _End | None:
        """Read and remember the end of a query; None if it is unusual."""
        fields: dict[bytes, bytes] = {}
        for pair in end.split(b"&")[1:]:
            key, _, value = pair.partition(b"=")
            if key in ONCE and (key != b"port" or key in fields):
                return None
            fields.setdefault(key, value)
        port = whole_number(fields[b"port"]) if b"port" in fields else None
        if fields.get(b"compact") == b"0" or (b"port" in fields and not port):
            return None
        wanted = whole_number(fields.get(b"numwant", b""))
        known = (
            port,
            EVENTS.get(fields.get(b"event", b""), Event.NONE),
            DEFAULT_WANTED if wanted is None else min(wanted, MAX_WANTED),
        )
        if len(self._ends) >= MAX_REMEMBERED:
            self._ends.clear()
        self._ends[end] = known
        return known
