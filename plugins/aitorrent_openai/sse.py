"""Server-sent events (WHATWG HTML, section 9.2.6), as far as the OpenAI API uses them. No I/O."""

from __future__ import annotations

from typing import Final

from aitorrentd.api import ProtocolError

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024


class EventDecoder:
    """Turns bytes, cut anywhere, into the data of events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, more: bytes) -> list[bytes]:
        """The data of the events that `more` completes.

        Raises:
            ProtocolError: an event is over `MAX_EVENT_BYTES` long.
        """
        # A lone CR ends a line too, but one at the end may be the first half of CRLF.
        buffer = self._rest + more
        held = b"\r" if buffer.endswith(b"\r") else b""
        text = buffer[: len(buffer) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._rest = rest + held
        events = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise ProtocolError(f"an event of over {MAX_EVENT_BYTES} bytes")
        return events

    def _take(self, line: bytes) -> None:
        # A line that starts with a colon is a comment: servers send such to keep a line open.
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1
