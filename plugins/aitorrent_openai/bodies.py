"""Decodes an answer body into events, whatever the framing. No I/O.

A server asked for an event stream may instead send a single JSON document, one JSON document per
line, or a web page. Content types are unreliable, so the first bytes decide.
"""

from __future__ import annotations

from typing import Final, Protocol

from aitorrent_openai.sse import MAX_EVENT_BYTES, Event, EventDecoder
from aitorrentd.api import ProtocolError
from aitorrentd.api.relays.documents import JsonDocuments, Lines

_BOM: Final = b"\xef\xbb\xbf"
_SHOWN_BYTES: Final = 200


class _Decoder(Protocol):
    stray: bytes

    def feed(self, more: bytes) -> list[Event]: ...

    def end(self) -> list[Event]: ...


class JsonDecoder:
    """Turns JSON documents, one per line or one across many lines, into events."""

    def __init__(self) -> None:
        self.stray = b""
        self._lines = Lines()
        self._documents = JsonDocuments()

    def feed(self, more: bytes) -> list[Event]:
        """The documents that `more` completes.

        Raises:
            ProtocolError: a document exceeds `MAX_EVENT_BYTES`.
        """
        events: list[Event] = []
        for line in self._lines.feed(more):
            self._take(line, events)
        if len(self._lines) + len(self._documents) > MAX_EVENT_BYTES:
            raise ProtocolError(f"a document of over {MAX_EVENT_BYTES} bytes")
        return events

    def end(self) -> list[Event]:
        """The documents that the end of the body completes, valid or not."""
        events: list[Event] = []
        self._take(self._lines.end(), events)
        self._flush(events)
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        name, is_field, value = line.partition(b":")
        if is_field and name in (b"data", b"error"):  # a document in an event stream
            self._flush(events)
            events.append(Event("error" if name == b"error" else "", value))
        elif is_field and name in (b"", b"event", b"id", b"retry") and not self._documents:
            pass
        elif (document := self._documents.add(line)) is not None:
            events.append(Event("", document))

    def _flush(self, events: list[Event]) -> None:
        if document := self._documents.end():
            events.append(Event("", document))


class BodyDecoder:
    """Turns a body, split anywhere, into events."""

    def __init__(self, content_type: str) -> None:
        self._content_type = content_type
        self._start = b""
        self._decoder: _Decoder | None = None

    @property
    def stray(self) -> bytes:
        """Non-event content of the body, which may contain its error."""
        return self._decoder.stray if self._decoder is not None else b""

    def feed(self, more: bytes) -> list[Event]:
        """The events that `more` completes.

        Raises:
            ProtocolError: the body is not an answer, or an event is too long.
        """
        if self._decoder is None:
            self._start += more
            if len(self._start) < _SHOWN_BYTES and not self._is_clear():
                return []
            more, self._start = self._start, b""
            self._decoder = self._chosen(more)
        return self._decoder.feed(more)

    def end(self) -> list[Event]:
        """The events that the end of the body completes."""
        if self._decoder is None:
            start, self._start = self._start, b""
            self._decoder = self._chosen(start)
            return [*self._decoder.feed(start), *self._decoder.end()]
        return self._decoder.end()

    def _is_clear(self) -> bool:
        """Whether the decisive first byte has arrived; a web page needs more, to quote it."""
        start = self._start.removeprefix(_BOM).lstrip()
        return bool(start) and not _BOM.startswith(start) and not start.startswith(b"<")

    def _chosen(self, start: bytes) -> _Decoder:
        text = start.removeprefix(_BOM).lstrip()
        if text.startswith(b"<"):
            shown = " ".join(text[:_SHOWN_BYTES].decode("utf-8", "replace").split())
            kind = self._content_type or "a web page"
            raise ProtocolError(f"{kind} instead of an answer: {shown}")
        return JsonDecoder() if text.startswith((b"{", b"[")) else EventDecoder()
