"""A blocking connection to a control socket: frames out and messages in, each with a deadline.

Deadlines are readings of `time.monotonic`; None means no deadline. It imports neither asyncio nor
pydantic.
"""

from __future__ import annotations

import math
import select
import socket
import time
from typing import Any, Final, NoReturn

from aitorrentd.control import framing
from aitorrentd.control.answers import LostDaemon, unreachable
from aitorrentd.control.polling import POLLING, Eagerness, Polling
from aitorrentd.errors import TimedOut, error_from_map

_CHUNK_BYTES: Final = 64 * 1024  # more would need its own mapping for each recv: malloc(3)
_LAST_WORDS_S: Final = 1.0
_LONGEST_POLL_S: Final = 86_400.0  # poll(2) takes milliseconds as an int


def deadline_in(timeout: float | None, grace_s: float = 0.0) -> float | None:
    """The deadline `timeout` and `grace_s` seconds from now."""
    return None if timeout is None else time.monotonic() + timeout + grace_s


class BlockingConnection:
    """A connected socket; handles frames, not calls."""

    def __init__(self, path: str, timeout: float | None, polling: Polling = POLLING) -> None:
        """Connect within `timeout` seconds.

        Raises:
            NoDaemon, NoAccess: cannot connect. TimedOut: the daemon does not accept.
        """
        self.eagerness = Eagerness(polling) if polling.pays() else None
        "Whether to poll again instead of sleeping; None on a single processor."
        self.sleeps = 0
        "How many waits put this process to sleep."
        self._spin_s = polling.spin_s
        self._splitter = framing.FrameSplitter(framing.MAX_FRAME_BYTES)
        self._is_sending = False
        self._sock = _connect(path, timeout)
        self._sock.setblocking(False)
        self._arrival = select.poll()
        self._arrival.register(self._sock, select.POLLIN)

    def fileno(self) -> int:
        """The socket's descriptor; negative once it is closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def send(self, frame: bytes, deadline: float | None) -> None:
        """Send a whole frame.

        Raises:
            TimedOut: the daemon does not read; the connection is unusable from then on. LostDaemon:
            the connection ended. Other AitorrentErrors: why the daemon ended it.
        """
        if self._is_sending:
            raise LostDaemon("this connection was interrupted mid-frame")
        self._is_sending = True
        try:
            sent = self._sock.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError as e:
            # The daemon may have said why before it hung up (too many connections, for instance).
            self._is_sending = False
            self._explain_loss(e)
        if sent < len(frame):
            self._send_rest(memoryview(frame)[sent:], deadline)
        self._is_sending = False

    def _send_rest(self, rest: memoryview, deadline: float | None) -> None:
        room = select.poll()
        room.register(self._sock, select.POLLOUT)
        while rest:
            if not _is_ready(room, deadline):
                raise TimedOut("the daemon has stopped reading; it may hang")
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                continue
            except OSError as e:
                self._is_sending = False
                self._explain_loss(e)

    def _explain_loss(self, error: OSError) -> NoReturn:
        try:
            while True:
                message = self.receive(deadline_in(_LAST_WORDS_S))
                if message[0] == framing.ERROR and message[1] == 0:
                    raise error_from_map(message[2])
        except (LostDaemon, TimedOut):
            raise LostDaemon(f"the daemon closed the connection: {error.strerror}") from None

    def receive(self, deadline: float | None) -> list[Any]:
        """The next hello or answer; unknown kinds are skipped.

        Raises:
            TimedOut: none in time. LostDaemon: the connection ended. ProtocolError, TooLarge: not a
            valid frame.
        """
        while True:
            body = self._splitter.take()
            if body is not None:
                message = framing.decode(body)
                if message[0] == framing.HELLO or framing.is_answer(message):
                    return message
                continue
            self._await_arrival(deadline)
            try:
                chunk = self._sock.recv(_CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError as e:
                raise LostDaemon(f"lost the daemon: {e.strerror}") from None
            if not chunk:
                raise LostDaemon("the daemon closed the connection")
            whole = None
            if self._splitter.is_empty:
                whole = framing.whole_frame(chunk, framing.MAX_FRAME_BYTES)
            if whole is None:
                self._splitter.feed(chunk)
                continue
            message = framing.decode(whole)
            if message[0] == framing.HELLO or framing.is_answer(message):
                return message

    def _await_arrival(self, deadline: float | None) -> None:
        """Return when data can be received: without sleeping, if recent answers came quickly."""
        if self._sock.fileno() < 0:
            raise LostDaemon("this connection is closed")
        eagerness = self.eagerness
        if eagerness is None:
            self.sleeps += 1
            if not _is_ready(self._arrival, deadline):
                raise TimedOut("the daemon did not answer in time")
            return
        now = start = time.monotonic()
        has_arrived = False
        if eagerness.is_high:
            while not has_arrived and now - start < self._spin_s:
                has_arrived = bool(self._arrival.poll(0))
                now = time.monotonic()
        if not has_arrived:
            self.sleeps += 1
            if not _is_ready(self._arrival, deadline):
                raise TimedOut("the daemon did not answer in time")
            now = time.monotonic()
        eagerness.note(now - start)


def _connect(path: str, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except OSError as e:
        sock.close()
        raise unreachable(path, e) from None
    return sock


def _is_ready(events: select.poll, deadline: float | None) -> bool:
    """Wait for one of `events` until `deadline`; False if it passes first."""
    while True:
        if deadline is None:
            wait_ms = None
        else:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            wait_ms = math.ceil(min(left, _LONGEST_POLL_S) * 1000)
        if events.poll(wait_ms):
            return True
