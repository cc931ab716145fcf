"""Standard output belongs to the result of a command; all other output goes to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress


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
