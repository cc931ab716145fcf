"""Reads HTTP/1.x requests (RFC 9112) as far as a tracker needs them: GET and HEAD, no bodies.

What two programs could read differently is refused, and the connection ends: a proxy in front of
the tracker must see the same requests.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from aitorrent_tracker.swarms.storage import make_tuple

MAX_HEAD_BYTES: Final = 8192
_METHODS: Final = (b"GET", b"HEAD")
_NO_BODY: Final = (b"", b"0")


class Request(NamedTuple):
    """One request."""

    path: bytes
    query: bytes
    is_head: bool
    keeps_alive: bool
    forwarded: tuple[bytes, ...]
    "The values of X-Forwarded-For, in their order."


class BadRequest(Exception):
    """Bytes that are no request that is served here; the connection must end."""

    def __init__(self, status: bytes) -> None:
        super().__init__(status.decode())
        self.status = status


_BAD: Final = b"400 Bad Request"
_MAX_REMEMBERED: Final = 512
"Bytes of headers that are worth remembering."


def is_for_tracker(path: bytes) -> bool:
    """Whether a path asks for an announce or a scrape, with or without an announce key."""
    return path.rpartition(b"/")[2] in (b"announce", b"scrape")


class RequestReader:
    """Bytes of one connection in, requests out."""

    __slots__ = ("_at", "_buffer")

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0
        "What is before was taken."

    def feed(self, raw: bytes) -> None:
        """Add bytes that arrived. What is not taken by `take` stays in memory."""
        self._buffer = self._buffer[self._at :] + raw if self._at < len(self._buffer) else raw
        self._at = 0

    def is_for_others(self) -> bool:
        """Whether the next request is well-formed so far, and nothing that a tracker answers."""
        buffer, at = self._buffer, self._at
        if buffer.startswith(b"GET /announce?", at):
            return False
        end = buffer.find(b"\r\n", at, at + MAX_HEAD_BYTES)
        method, _, rest = buffer[at : max(end, at)].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not method.isalpha() or version not in (b"HTTP/1.1", b"HTTP/1.0"):
            return False
        path, _, query = target.partition(b"?")
        # Of a tracker's URL without a path, clients make this: they are told the right one.
        return not is_for_tracker(path) and not (path == b"/" and b"info_hash=" in query)

    @property
    def has_rest(self) -> bool:
        """Whether anything was not taken."""
        return self._at < len(self._buffer)

    def rest(self) -> bytes:
        """What arrived and was not taken."""
        return self._buffer[self._at :]

    def take(self) -> Request | None:
        """The next request; None until it is complete.

        Raises:
            BadRequest: it is malformed, too long, or has a body.
        """
        buffer, at = self._buffer, self._at
        while buffer.startswith(b"\r\n", at):
            at += 2  # RFC 9112, 2.2: a client may send an empty line before a request
        end = buffer.find(b"\r\n\r\n", at, at + MAX_HEAD_BYTES + 4)
        if end < 0:
            self._at = at
            if len(buffer) - at > MAX_HEAD_BYTES:
                raise BadRequest(b"431 Request Header Fields Too Large")
            return None
        self._at = end + 4
        return _read(buffer[at:end])


def _read(head: bytes) -> Request:
    line, _, headers = head.partition(b"\r\n")
    if b"\n" in line or b"\r" in line or b"\0" in line:
        raise BadRequest(_BAD)
    parts = line.split(b" ")
    if len(parts) != 3:
        raise BadRequest(_BAD)
    method, target, version = parts
    if method == b"GET" and version == b"HTTP/1.1" and target[:1] == b"/" and b"#" not in target:
        keeps_alive, _, forwarded = _headers_of(headers)
        path, _, query = target.partition(b"?")
        return make_tuple(Request, (path, query, False, keeps_alive, forwarded))
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        known = version.startswith(b"HTTP/") and version[5:6].isdigit()
        raise BadRequest(b"505 HTTP Version Not Supported" if known else _BAD)
    if method not in _METHODS:
        raise BadRequest(b"405 Method Not Allowed" if method.isalpha() else _BAD)
    keeps_alive, asks_to, forwarded = _headers_of(headers)
    if version == b"HTTP/1.0":
        keeps_alive = keeps_alive and asks_to
    if not target.startswith(b"/"):
        target = _without_authority(target)
    path, _, query = target.partition(b"?")
    return Request(path, query.partition(b"#")[0], method == b"HEAD", keeps_alive, forwarded)


def _headers_of(headers: bytes) -> tuple[bool, bool, tuple[bytes, ...]]:
    # Clients send the same headers again and again.
    return _remembered(headers) if len(headers) <= _MAX_REMEMBERED else read_headers(headers)


def read_headers(headers: bytes) -> tuple[bool, bool, tuple[bytes, ...]]:
    """Whether the client does not say `close`, whether it says `keep-alive`, X-Forwarded-For.

    Raises:
        BadRequest: they are malformed, or announce a body.
    """
    lines = headers.split(b"\r\n") if headers else []
    between = max(0, len(lines) - 1)
    if headers.count(b"\n") != between or headers.count(b"\r") != between or b"\0" in headers:
        raise BadRequest(_BAD)
    keeps_alive, asks_to = True, False
    forwarded: list[bytes] = []
    for header in lines:
        name, colon, value = header.partition(b":")
        if not colon or not name or name[:1] in b" \t" or name[-1:] in b" \t":
            raise BadRequest(_BAD)  # a folded line, or a space before the colon
        name = name.lower()
        if name == b"connection":
            options = value.lower().replace(b" ", b"").replace(b"\t", b"").split(b",")
            keeps_alive = keeps_alive and b"close" not in options
            asks_to = asks_to or b"keep-alive" in options
        elif name == b"x-forwarded-for":
            forwarded.append(value)
        elif name == b"transfer-encoding" or (
            name == b"content-length" and value.strip() not in _NO_BODY
        ):
            raise BadRequest(b"413 Content Too Large")
    return keeps_alive, asks_to, tuple(forwarded)


_remembered = lru_cache(maxsize=1024)(read_headers)


def _without_authority(target: bytes) -> bytes:
    """The path and query of an absolute URI, as a proxy's client sends it."""
    if not target[:7].lower() == b"http://":
        raise BadRequest(_BAD)
    authority, slash, rest = target[7:].partition(b"/")
    if not authority or not slash or b"?" in authority:
        raise BadRequest(_BAD)
    return b"/" + rest
