"""Two TCP connections joined: what arrives on one leaves on the other, in both directions.

The bytes stay in the kernel (splice(2)). A direction reads only what its limits allow, and only
while nothing waits for its receiver: a slow receiver slows its sender down, and costs one pipe. The
end of one direction is passed on, and the other continues.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from aitorrent_nat.relay.pipes import Pipe, Pipes

FLUSH_S: Final = 5.0
"How long a circuit that ends delivers what it has read."
HALF_CLOSED_S: Final = 60.0
"A circuit of which one direction ended is closed when the other is silent for this long."
KEEPALIVE_S: Final = 60
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Meter(Protocol):
    """What a circuit may pass."""

    def left(self) -> int:
        """Bytes that may pass now; 0 if it must wait."""

    def spend(self, n: int) -> None:
        """Count `n` bytes that passed."""

    def wait_s(self) -> float | None:
        """Seconds until more may pass; None if nothing may any more."""


class Splice:
    """Joins two connected, non-blocking sockets, which it owns.

    `on_end(reason)` is called once, after the sockets are closed; the reason is empty if both ends
    closed their connections. `on_spent()` is called when the meter allows nothing any more; the
    owner then calls `end`.
    """

    def __init__(
        self,
        one: socket.socket,
        other: socket.socket,
        pipes: Pipes,
        meter: Meter,
        *,
        on_end: Callable[[str], None],
        on_spent: Callable[[], None],
    ) -> None:
        self.passed = 0
        "Bytes in both directions."
        self.pipes = pipes
        self.meter = meter
        self.loop = asyncio.get_running_loop()
        self.is_ending = False
        self._on_end = on_end
        self._on_spent = on_spent
        self._sockets = (one, other)
        self._directions = [_Direction(self, one, other), _Direction(self, other, one)]
        self._reason = ""
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._seen = 0

    def start(self) -> None:
        """Begin to pass bytes."""
        for sock in self._sockets:
            with suppress(OSError):
                _tune(sock)
        for direction in self._directions:
            direction.read_on()

    def end(self, reason: str) -> None:
        """Read no more, deliver what was read for at most `FLUSH_S`, then close both sockets."""
        if self.is_ending:
            return
        self.is_ending = True
        self._reason = reason
        for direction in self._directions:
            direction.stop_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(FLUSH_S, self.close)
        self.advanced()

    def close(self) -> None:
        """Close both sockets now; what was read and not delivered is lost."""
        if self._closed:
            return
        self._closed = self.is_ending = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for direction in self._directions:
            direction.close()
        for sock in self._sockets:
            sock.close()
        self._directions.clear()  # they refer back
        on_end, self._on_end = self._on_end, _nobody
        on_end(self._reason)

    # For the directions

    def advanced(self) -> None:
        """A direction ended or delivered all that it had."""
        if self._closed:
            return
        if all(direction.is_over for direction in self._directions):
            self.close()
        elif self.is_ending:
            if not any(direction.holds for direction in self._directions):
                self.close()
        elif self._timer is None and any(direction.is_over for direction in self._directions):
            self._watch_half()

    def spent(self) -> None:
        """The meter allows no more."""
        if not self.is_ending:
            self._on_spent()

    def _watch_half(self) -> None:
        self._seen = self.passed
        self._timer = self.loop.call_later(HALF_CLOSED_S, self._check_half)

    def _check_half(self) -> None:
        if self.passed == self._seen:
            self.end("one end closed its connection, and the other kept silent")
        else:
            self._watch_half()


class _Direction:
    """Bytes from one socket to the other."""

    def __init__(self, splice: Splice, source: socket.socket, sink: socket.socket) -> None:
        self.is_over = False
        self._splice = splice
        self._source = source.fileno()
        self._sink = sink.fileno()
        self._sink_socket = sink
        self._pipe: Pipe | None = None
        self._held = 0
        self._is_reading = False
        self._is_writing = False
        self._pause: asyncio.TimerHandle | None = None

    @property
    def holds(self) -> bool:
        """Whether bytes wait for the receiver."""
        return self._held > 0

    def read_on(self) -> None:
        """Read whenever bytes arrive."""
        self._pause = None
        if not self._is_reading and not self.is_over and not self._splice.is_ending:
            self._is_reading = True
            self._splice.loop.add_reader(self._source, self._read)

    def stop_reading(self) -> None:
        """Read no more until `read_on`."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._is_reading:
            self._is_reading = False
            self._splice.loop.remove_reader(self._source)

    def close(self) -> None:
        """Stop; the sockets are about to be closed."""
        self.stop_reading()
        self._stop_writing()
        self._let_go()
        self.is_over = True

    def _read(self) -> None:
        left = self._splice.meter.left()
        if not left:
            self.stop_reading()
            wait_s = self._splice.meter.wait_s()
            if wait_s is None:
                self._splice.spent()
            else:
                self._pause = self._splice.loop.call_later(wait_s, self.read_on)
            return
        try:
            if self._pipe is None:
                self._pipe = self._splice.pipes.take()
            n = os.splice(
                self._source, self._pipe.writing, min(left, self._pipe.size), flags=_FLAGS
            )
        except BlockingIOError:
            self._let_go()
            return
        except OSError as e:
            self._let_go()
            self._splice.end(_lost(e))
            return
        if not n:
            self._let_go()
            self._finish()
            return
        self._held = n
        self._splice.passed += n
        self._splice.meter.spend(n)
        self._write()

    def _write(self) -> None:
        if self._pipe is None:
            return
        try:
            while self._held:
                self._held -= os.splice(self._pipe.reading, self._sink, self._held, flags=_FLAGS)
        except BlockingIOError:
            if not self._is_writing:
                self.stop_reading()
                self._is_writing = True
                self._splice.loop.add_writer(self._sink, self._write)
            return
        except OSError as e:
            self._stop_writing()
            self._let_go()
            self._splice.end(_lost(e))
            self._splice.advanced()
            return
        self._let_go()
        self._stop_writing()
        if self._splice.is_ending:
            self._splice.advanced()
        else:
            self.read_on()

    def _finish(self) -> None:
        """The source ended: tell the sink."""
        self.stop_reading()
        self.is_over = True
        with suppress(OSError):
            self._sink_socket.shutdown(socket.SHUT_WR)
        self._splice.advanced()

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._splice.loop.remove_writer(self._sink)

    def _let_go(self) -> None:
        if self._pipe is not None:
            self._splice.pipes.give_back(self._pipe, is_empty=not self._held)
            self._pipe = None
            self._held = 0


def _lost(error: OSError) -> str:
    return f"a connection was lost ({os.strerror(error.errno or 0).lower()})"


def _tune(sock: socket.socket) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S // 4)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def _nobody(reason: str) -> None:
    """Default of a callback."""
