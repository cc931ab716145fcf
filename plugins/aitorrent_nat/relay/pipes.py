"""Kernel pipes through which bytes move from socket to socket without being copied.

splice(2) needs a pipe between two sockets. A direction holds one only while its receiver is slower
than its sender, so that a circuit costs no more descriptors than its two sockets most of the time.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

BIG_BYTES: Final = 1024 * 1024
"""One wakeup then moves up to 1 MiB. Per CPU-second that passes twice the bytes of recv_into and
send, where the 64 KiB of a new pipe pass about as many."""
MAX_BIG: Final = 8
"Pipes of that size: slow receivers must not make the kernel hold much."
MAX_SPARE: Final = 16


@dataclass(frozen=True, slots=True)
class Pipe:
    """A pipe, empty whenever it is in the pool."""

    reading: int
    writing: int
    size: int
    "Bytes that it holds at most."

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reading)
        os.close(self.writing)


class Pipes:
    """The pool of spare pipes."""

    def __init__(self) -> None:
        self._spare: list[Pipe] = []
        self._big = 0
        self._closed = False

    def take(self) -> Pipe:
        """An empty pipe.

        Raises:
            OSError: the process has no file descriptors left.
        """
        if self._spare:
            return self._spare.pop()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        if self._big < MAX_BIG:
            # If that is beyond what this user may have (pipe(7)), the default size also works.
            with suppress(OSError):
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, BIG_BYTES)
        size = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
        self._big += size >= BIG_BYTES
        return Pipe(reading, writing, size)

    def give_back(self, pipe: Pipe, *, is_empty: bool) -> None:
        """Return a pipe; one that still holds bytes is closed."""
        if is_empty and not self._closed and len(self._spare) < MAX_SPARE:
            self._spare.append(pipe)
            self._spare.sort(key=lambda each: each.size)  # the biggest is taken first
            return
        self._big -= pipe.size >= BIG_BYTES
        pipe.close()

    def close(self) -> None:
        """Close the spare pipes; those in use are closed when they are returned."""
        self._closed = True
        for pipe in self._spare:
            pipe.close()
        self._spare.clear()
