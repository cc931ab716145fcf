"""Reads HTTP/1.x requests (RFC 9112) as far as a tracker needs them: GET and HEAD, no bodies.

What two programs could read differently is refused, and the connection ends: a proxy in front of
the tracker must see the same requests.
"""

from __future__ import annotations

from typing import Final, NamedTuple

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


def is_for_tracker(path: bytes) -> bool:
    """Whether a path asks for an announce or a scrape, with or without an announce key."""
    return path.rpartition(b"/")[2] in (b"announce", b"scrape")


class RequestReader:
    """Bytes of one connection in, requests out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, raw: bytes) -> None:
        """Add bytes that arrived. What is not taken by `take` stays in memory."""
        self._buffer += raw

    def is_for_others(self) -> bool:
        """Whether the next request is well-formed so far, and nothing that a tracker answers."""
        buffer = self._buffer
        if buffer.startswith(b"GET /announce?"):
            return False
        end = buffer.find(b"\r\n", 0, MAX_HEAD_BYTES)
        method, _, rest = bytes(buffer[: max(end, 0)]).partition(b" ")
        target, _, version = rest.partition(b" ")
        if not method.isalpha() or version not in (b"HTTP/1.1", b"HTTP/1.0"):
            return False
        return not is_for_tracker(target.partition(b"?")[0])

    def rest(self) -> bytes:
        """What arrived and was not taken."""
        return bytes(self._buffer)

    def take(self) -> Request | None:
        """The next request; None until it is complete.

        Raises:
            BadRequest: it is malformed, too long, or has a body.
        """
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):
            del buffer[:2]  # RFC 9112, 2.2: a client may send an empty line before a request
        end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES + 4)
        if end < 0:
            if len(buffer) > MAX_HEAD_BYTES:
                raise BadRequest(b"431 Request Header Fields Too Large")
            return None
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        return _read(head)


def _read(head: bytes) -> Request:
    line, *headers = head.split(b"\r\n")
    parts = line.split(b" ")
    lines = len(headers)
    if len(parts) != 3 or head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise BadRequest(_BAD)
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        known = version.startswith(b"HTTP/") and version[5:6].isdigit()
        raise BadRequest(b"505 HTTP Version Not Supported" if known else _BAD)
    if method not in _METHODS:
        raise BadRequest(b"405 Method Not Allowed" if method.isalpha() else _BAD)
    keeps_alive = version == b"HTTP/1.1"
    forwarded: list[bytes] = []
    for header in headers:
        name, colon, value = header.partition(b":")
        if not colon or not name or name[:1] in b" \t" or name[-1:] in b" \t":
            raise BadRequest(_BAD)  # a folded line, or a space before the colon
        name = name.lower()
        if name == b"connection":
            options = value.lower().replace(b" ", b"").replace(b"\t", b"").split(b",")
            if b"close" in options:
                keeps_alive = False
            elif b"keep-alive" in options and version == b"HTTP/1.0":
                keeps_alive = True
        elif name == b"x-forwarded-for":
            forwarded.append(value)
        elif name == b"transfer-encoding" or (
            name == b"content-length" and value.strip() not in _NO_BODY
        ):
            raise BadRequest(b"413 Content Too Large")
    if not target.startswith(b"/"):
        target = _without_authority(target)
    path, _, query = target.partition(b"?")
    return Request(path, query.partition(b"#")[0], method == b"HEAD", keeps_alive, tuple(forwarded))


def _without_authority(target: bytes) -> bytes:
    """The path and query of an absolute URI, as a proxy's client sends it."""
    if not target[:7].lower() == b"http://":
        raise BadRequest(_BAD)
    authority, slash, rest = target[7:].partition(b"/")
    if not authority or not slash or b"?" in authority:
        raise BadRequest(_BAD)
    return b"/" + rest
