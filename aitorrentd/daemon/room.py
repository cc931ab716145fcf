"""Checks that the process has room for a node: file descriptors and threads.

A limit that is met in the middle of a start shows as a traceback of some library, or as a plugin
that cannot be imported.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import ExitStack
from typing import Final

from aitorrentd.api.descriptors import limit
from aitorrentd.errors import Unavailable

_DESCRIPTORS: Final = 24
"A node without peers opens about as many."
_THREADS: Final = 12
"For the log, the event loop's executor, and each database."


def check_room() -> None:
    """Check that a node can start.

    Raises:
        Unavailable: this process may not open enough files, or not start enough threads.
    """
    _check_descriptors()
    _check_threads()


def _check_descriptors() -> None:
    try:
        with ExitStack() as stack:
            for _ in range(_DESCRIPTORS):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as e:
        if e.errno == errno.ENFILE:
            text, remedy = "the machine has no free file descriptor", "raise fs.file-max (sysctl)"
        else:
            text = f"this process may open only {limit()} files"
            remedy = "raise LimitNOFILE= in the daemon's unit, or ulimit -n where it is started"
        raise Unavailable(f"cannot start: {text}; {remedy}") from None


def _check_threads() -> None:
    checked = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(_THREADS):
            thread = threading.Thread(target=checked.wait, name="room", daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise Unavailable(
            f"cannot start: only {len(started)} of {_THREADS} threads can be created; raise "
            "TasksMax= in the daemon's unit, the container's pids limit, or ulimit -u"
        ) from None
    finally:
        checked.set()
        for thread in started:
            thread.join()
