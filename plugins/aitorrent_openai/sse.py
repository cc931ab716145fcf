"""Server-sent events (WHATWG HTML, section 9.2.6), as OpenAI API servers send them. No I/O.

This is the framing only: `chunks.py` reads the JSON in an event.

Deviations from the standard, so that no server output is lost:

- the last event counts even without its blank line;
- a field `error` is an event of that name: llama.cpp reports errors this way;
- a line of bare JSON is an event: servers and proxies add errors this way;
- any other unknown field that carries an object is rejected, where the standard ignores it.

httpx-sse 0.4.3, measured for comparison, follows the standard in the first three points, drops a
first event after a byte order mark, does not limit event length, and is slower.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aitorrentd.api import ProtocolError

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"
_MAX_STRAY: Final = 200


class Event(NamedTuple):
    """One event."""

    kind: str
    "The `event:` field; usually empty."
    data: bytes


class EventDecoder:
    """Turns bytes, split anywhere, into events."""

    def __init__(self) -> None:
        self.stray = b""
        "The first line that is not a field; for a truncated answer it may state the reason."
        self._line = bytearray()
        self._after_cr = False
        self._kind = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, more: bytes) -> list[Event]:
        """The events that `more` completes.

        Raises:
            ProtocolError: an event exceeds `MAX_EVENT_BYTES`, or a line holds an object and is not
            a field.
        """
        if not more:
            return []
        if self._after_cr and more.startswith(b"\n"):  # the second half of CRLF
            more = more[1:]
        self._after_cr = more.endswith(b"\r") if more else False
        if b"\r" in more:
            more = more.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *lines = more.split(b"\n")
        self._line += first
        events: list[Event] = []
        for line in lines:
            self._take(bytes(self._line), events)
            self._line = bytearray(line)
        if self._size + len(self._line) > MAX_EVENT_BYTES:
            raise ProtocolError(f"an event larger than {MAX_EVENT_BYTES} bytes")
        return events

    def end(self) -> list[Event]:
        """The events that the end of the stream completes."""
        events: list[Event] = []
        line, self._line = bytes(self._line), bytearray()
        if line:
            self._take(line, events)
        self._dispatch(events)
        return events

    def _dispatch(self, events: list[Event]) -> None:
        # The standard drops events without data; report those named "error" anyway.
        if self._data or self._kind == "error":
            events.append(Event(self._kind, b"\n".join(self._data)))
        self._kind, self._data, self._size = "", [], 0

    def _take(self, line: bytes, events: list[Event]) -> None:
        # The standard allows a byte order mark only at the start, but proxies join streams.
        line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(events)
            return
        if line.startswith((b"{", b"[")):
            self._dispatch(events)
            events.append(Event("", line))
            return
        # A line that starts with a colon is a comment: servers send these as keepalives.
        name, _, value = line.partition(b":")
        name = name.strip().lower()
        value = value.removeprefix(b" ")
        if name == b"data":
            while value.startswith(b"data:"):  # from a proxy that frames twice
                value = value[5:].removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._kind = value.strip().decode("utf-8", "replace").lower()
        elif name == b"error":
            self._dispatch(events)
            events.append(Event("error", value))
        elif name not in (b"", b"id", b"retry"):
            self._stray(line)

    def _stray(self, line: bytes) -> None:
        shown = line[:_MAX_STRAY]
        if b"{" in line:
            text = shown.decode("utf-8", "replace")
            raise ProtocolError(f"a line that is not an event field: {text}")
        self.stray = self.stray or shown
