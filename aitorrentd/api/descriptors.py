"""File descriptors of this process: how many may be open, and a reserve kept from peers.

A new descriptor gets the lowest free number (POSIX, `open`), so that number shows whether the table
is nearly full, without counting: see `is_scarce`.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

_MOST: Final = 65_536
"Some systems allow 2^30 descriptors; nothing here needs them, and children may close each one."
_LEAST_RESERVE: Final = 16
_MOST_RESERVE: Final = 128


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Open descriptors of a process, and its limit."""

    used: int
    limit: int


def limit() -> int:
    """How many descriptors this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if soft == resource.RLIM_INFINITY else soft


def reserve(allowed: int) -> int:
    """Descriptors out of `allowed` reserved for control connections, databases and workers."""
    return max(_LEAST_RESERVE, min(_MOST_RESERVE, allowed // 4))


def is_scarce(descriptor: int, *, reserved: int | None = None) -> bool:
    """Whether `descriptor`, just opened, is one of the last `reserved` (by default `reserve`)."""
    allowed = limit()
    return descriptor >= allowed - (reserve(allowed) if reserved is None else reserved)


def raise_limit() -> None:
    """Raise this process's descriptor limit to its hard limit.

    The soft limit is low for the sake of programs that use select(2); this one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # a container may forbid it, which only costs peers
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def of_process(pid: int) -> Descriptors:
    """The descriptors of process `pid`.

    Raises:
        OSError: the process does not exist, or this user may not inspect it.
    """
    soft = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    used = len(os.listdir(f"/proc/{pid}/fd"))
    if pid == os.getpid():
        used -= 1  # the one that lists them
    return Descriptors(used, _MOST if soft == resource.RLIM_INFINITY else soft)
