"""Standard output belongs to the result of a command; all other output goes to stderr."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress


def fill_standard_descriptors() -> None:
    """Open /dev/null as each of descriptors 0, 1 and 2 that our parent process closed.

    Otherwise a socket or database would get that number, and whatever a library prints would be
    written into it. libuv even aborts the process.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def append_to_file(descriptor: int) -> None:
    """If `descriptor` is a file, always write at its end, wherever that is by then.

    After `daemon 2> log`, a log rotation that truncates the file (copytruncate of logrotate(8))
    would otherwise leave a hole of NULs as long as what was there before.
    """
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Redirect the block's standard output to standard error, child processes included.

    For importing third-party code: with --json, standard output must contain only JSON. Not safe
    while other threads write results.
    """
    _flush()
    try:
        saved, own = os.dup(1), os.dup2(2, 1)
    except OSError:  # one of the two is closed
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _flush()  # what was written through a saved reference
        os.dup2(saved, own)
        os.close(saved)


def _flush() -> None:
    if sys.stdout is not None:  # closed by our parent process
        with suppress(OSError, ValueError):
            sys.stdout.flush()
