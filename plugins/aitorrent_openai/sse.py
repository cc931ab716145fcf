"""Server-sent events (WHATWG HTML, section 9.2.6), as servers of the OpenAI API send them. No I/O.

What differs from the standard, so that nothing a server says is lost:

- the last event counts also without its blank line;
- a field `error` is an event of that name: llama.cpp reports errors so;
- a line that is bare JSON is an event: servers and proxies add errors so;
- any other unknown field that carries an object is refused, where the standard ignores it.

httpx-sse 0.4.3 was measured beside it. It follows the standard in the first three, drops a first
event behind a byte order mark, has no bound on an event's length, and takes more time.
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
    "What `event:` says; usually empty."
    data: bytes


class EventDecoder:
    """Turns bytes, cut anywhere, into events."""

    def __init__(self) -> None:
        self.stray = b""
        "The first line that is no field; an answer that did not end may have its reason there."
        self._line = bytearray()
        self._after_cr = False
        self._kind = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, more: bytes) -> list[Event]:
        """The events that `more` completes.

        Raises:
            ProtocolError: an event is over `MAX_EVENT_BYTES` long, or a line holds an object and
            is no field.
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
        # The standard drops an event without data; one that is called an error is told.
        if self._data or self._kind == "error":
            events.append(Event(self._kind, b"\n".join(self._data)))
        self._kind, self._data, self._size = "", [], 0

    def _take(self, line: bytes, events: list[Event]) -> None:
        # The standard knows a byte order mark at the start only; proxies join streams.
        line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(events)
            return
        if line.startswith((b"{", b"[")):
            self._dispatch(events)
            events.append(Event("", line))
            return
        # A line that starts with a colon is a comment: servers send such to keep a line open.
        name, _, value = line.partition(b":")
        name = name.strip().lower()
        value = value.removeprefix(b" ")
        if name == b"data":
            while value.startswith(b"data:"):  # of a proxy that frames what is framed
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
            raise ProtocolError(f"a line that is no field of an event: {text}")
        self.stray = self.stray or shown
