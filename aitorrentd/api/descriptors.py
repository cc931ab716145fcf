"""File descriptors of this process: how many may be open, and a reserve that peers never take.

Descriptors are numbered from the lowest free one (POSIX, `open`), so the number of a new one says
whether the table is nearly full without counting: see `is_scarce`.
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
    """Open descriptors of one process, and its limit."""

    used: int
    limit: int


def limit() -> int:
    """How many descriptors this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if soft == resource.RLIM_INFINITY else soft


def reserve(allowed: int) -> int:
    """Descriptors out of `allowed` that are kept for control connections, databases and workers."""
    return max(_LEAST_RESERVE, min(_MOST_RESERVE, allowed // 4))


def is_scarce(descriptor: int, *, reserved: int | None = None) -> bool:
    """Whether `descriptor`, just opened, is one of the last `reserved` (by default `reserve`)."""
    allowed = limit()
    return descriptor >= allowed - (reserve(allowed) if reserved is None else reserved)


def raise_limit() -> None:
    """Allow this process as many descriptors as its hard limit does.

    The soft limit is low for programs that use select(2), which this one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # a container may forbid it, which costs peers only
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def of_process(pid: int) -> Descriptors:
    """The descriptors of process `pid`.

    Raises:
        OSError: there is no such process, or it is not for this user to see.
    """
    soft = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    used = len(os.listdir(f"/proc/{pid}/fd"))
    if pid == os.getpid():
        used -= 1  # the one that lists them
    return Descriptors(used, _MOST if soft == resource.RLIM_INFINITY else soft)
