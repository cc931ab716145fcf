"""Output that never blocks its writer: a bounded queue and a thread that drains it.

An unread pipe, a terminal stopped with Ctrl-S or a stopped journal can block write(2) indefinitely.
Here it only blocks a dedicated thread; lines that do not fit into the queue are dropped and
counted.
"""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

QUEUE_BYTES: Final = 4 * 1024 * 1024
_WRITE_BYTES: Final = 64 * 1024


class LineWriter:
    """Writes to a descriptor, which it does not own, in the order of `put`.

    `resumed` is called on the thread with the number of dropped lines, once the queue is empty
    again. Lines that cannot be written, because the other end is gone or the disk is full, are
    counted as dropped, too; nobody is told about them before a later write succeeds.
    """

    def __init__(self, fd: int, *, resumed: Callable[[int], None] = lambda count: None) -> None:
        self._fd = fd
        self._resumed = resumed
        self._queued: deque[bytes] = deque()
        self._queued_bytes = 0
        "Includes the line being written."
        self._dropped = 0
        self._failure = ""
        self._is_closing = False
        self._changed = threading.Condition()
        # A daemon thread: the process can exit while it waits in write(2).
        self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> bool:
        """Queue `line`; False if it was dropped. Never waits."""
        with self._changed:
            if self._is_closing or self._queued_bytes + len(line) > QUEUE_BYTES:
                self._dropped += 1
                return False
            self._queued.append(line)
            self._queued_bytes += len(line)
            self._changed.notify_all()
        return True

    @property
    def dropped(self) -> int:
        """Lines dropped since the writer last kept up."""
        return self._dropped

    @property
    def failure(self) -> str:
        """Why the last write failed; empty if it did not."""
        return self._failure

    def flush(self, timeout_s: float) -> bool:
        """Wait for the queue to empty; whether it did within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queued_bytes, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Accept no more lines; whether everything was written within `timeout_s`.

        Unwritten lines are lost when the process exits.
        """
        until = time.monotonic() + timeout_s
        is_written = self.flush(timeout_s)
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if is_written:
            self._thread.join(max(0.0, until - time.monotonic()))
        return is_written

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queued or self._is_closing)
                if not self._queued:
                    return
                batch = [self._queued.popleft()]
                size = len(batch[0])
                while self._queued and size + len(self._queued[0]) <= _WRITE_BYTES:
                    batch.append(self._queued.popleft())
                    size += len(batch[-1])
            failure = self._write(b"".join(batch))
            with self._changed:
                self._queued_bytes -= size
                self._failure = failure
                self._dropped += len(batch) if failure else 0
                dropped = 0
                if not self._queued and not failure:
                    dropped, self._dropped = self._dropped, 0
                self._changed.notify_all()
            if dropped:
                self._resumed(dropped)

    def _write(self, content: bytes) -> str:
        """Write all of `content`; why that failed, or an empty string."""
        rest = memoryview(content)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # Another holder of the open file made it non-blocking.
                ready = select.poll()
                ready.register(self._fd, select.POLLOUT)
                ready.poll()
            except OSError as e:
                return e.strerror or str(e)
        return ""


class QueuedStream(io.TextIOBase):
    """A text stream over a LineWriter, for print() and tracebacks.

    `behind` is the stream whose descriptor the writer writes to.
    """

    encoding = "utf-8"

    def __init__(self, writer: LineWriter, behind: TextIO) -> None:
        self._writer = writer
        self._behind = behind

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor that the writer writes to."""
        return self._behind.fileno()

    def write(self, text: str) -> int:
        """Queue `text`, or drop it."""
        self._writer.put(text.encode(self.encoding, "backslashreplace"))
        return len(text)


def write_within(stream: TextIO, text: str, *, timeout_s: float) -> bool:
    """Write `text` to a stream that may be blocked; False if not written within `timeout_s`."""
    try:
        writer = LineWriter(stream.fileno())
    except (OSError, RuntimeError):  # it has no descriptor, or no thread can be created
        stream.write(text)
        stream.flush()
        return True
    writer.put(text.encode(stream.encoding, "backslashreplace"))
    return writer.close(timeout_s)
