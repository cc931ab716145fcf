"""Waits for the control socket of a daemon that has just been started, with a limit.

If a young `aitorrentd` process is running, wait until it listens. If none is visible (it may be
about to start, or be in another container), the wait is short.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aitorrentd.errors import AitorrentError

if TYPE_CHECKING:
    from aitorrentd.control.client import Client

SHORT_S: Final = 1.5
"When nothing shows that a daemon is starting."
LONG_S: Final = 10.0
"When a daemon process younger than this is visible."
_TELL_AFTER_S: Final = 0.5
_RETRY_S: Final = 0.1
_PROC: Final = Path("/proc")


def daemon_is_starting(proc: Path = _PROC, *, young_s: float = LONG_S) -> bool:
    """Whether a daemon process is running that started less than `young_s` seconds ago."""
    try:
        up_s = float((proc / "uptime").read_text().split()[0])
        processes = [entry for entry in os.listdir(proc) if entry.isdecimal()]
    except (OSError, ValueError, IndexError):
        return False
    return any(_is_daemon(proc / p) and up_s - _began_s(proc / p) < young_s for p in processes)


def _is_daemon(process: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:  # it has just ended, or is not visible to us
        return False
    # `aitorrentd …`, a Python script, or `python -m aitorrentd.main`
    names = [word.rpartition(b"/")[2] for word in words[:3]]
    return b"aitorrentd" in names[:2] or names[1:] == [b"-m", b"aitorrentd.main"]


def _began_s(process: Path) -> float:
    """Seconds from the machine's start to the process's (proc_pid_stat(5), field 22)."""
    try:
        # The second field is a name in parentheses, which may itself contain parentheses.
        fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return float("-inf")


def connect_when_up(
    connect: Callable[[], Client],
    limit_s: float | None,
    *,
    seems_starting: Callable[[], bool] = daemon_is_starting,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Client:
    """The result of `connect`, once the daemon listens; `limit_s` is the user's own --timeout.

    Raises:
        AitorrentError: from the last attempt.
    """
    from aitorrentd.control.client import NoDaemon

    began = now()
    has_told = False
    while True:
        try:
            return connect()
        except NoDaemon as e:
            waited_s = now() - began
            is_starting = seems_starting()
            patience_s = LONG_S if is_starting else SHORT_S
            if waited_s >= (patience_s if limit_s is None else min(patience_s, limit_s)):
                raise _late(e, waited_s) if is_starting else e from None
        if waited_s >= _TELL_AFTER_S and not has_told:
            has_told = True
            sys.stderr.write("[waiting for the daemon to listen]\n")
            sys.stderr.flush()
        sleep(_RETRY_S)


def _late(error: AitorrentError, waited_s: float) -> AitorrentError:
    cause = error.message.partition("; ")[0]
    return type(error)(
        f"{cause}; a daemon is starting, but is not listening after {waited_s:.0f} s; see its log"
    )
