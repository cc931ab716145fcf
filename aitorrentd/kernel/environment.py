"""Which failures are the environment's, so that the same code may succeed later.

A full or read-only disk, a lock, a network or a server that is not there: a plugin that meets one
is restarted for as long as it lasts. Everything else may be a bug, and its restarts are limited.
"""

from __future__ import annotations

import errno
import socket
import sqlite3
from typing import Final

from aitorrentd.errors import AitorrentError, Busy, TimedOut, Unavailable
from aitorrentd.kernel.reasons import leaves

_DISK: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN}
)
"ESTALE, ENODEV and ENOTCONN: a network or FUSE file system whose server is gone."
_LOCKS: Final = frozenset({errno.EAGAIN, errno.EBUSY, errno.ENOLCK, errno.ETXTBSY})
_NETWORK: Final = frozenset(
    {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH}
    | {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ECONNREFUSED, errno.ECONNRESET}
    | {errno.ECONNABORTED, errno.ETIMEDOUT, errno.EPIPE}
)
_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_PASSING: Final = _DISK | _LOCKS | _NETWORK | _RESOURCES
_PASSING_SQLITE: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
    | {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
    | {sqlite3.SQLITE_NOMEM}
)
"Primary result codes (sqlite.org/rescode.html)."
_NO_THREAD: Final = "can't start new thread"
"How Python words it when pthread_create(3) fails with EAGAIN."
_MAX_CAUSES: Final = 16


def may_pass(error: BaseException) -> bool:
    """Whether every error in `error` comes from the environment, itself or by its cause."""
    return all(_is_passing(leaf, _MAX_CAUSES) for leaf in leaves(error))


def _is_passing(error: BaseException, causes_left: int) -> bool:
    if isinstance(error, AitorrentError):
        return isinstance(error, Busy | TimedOut | Unavailable)
    if isinstance(error, sqlite3.Error):
        # The low byte is the primary code.
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING_SQLITE
    if isinstance(error, ConnectionError | socket.gaierror):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return True
    cause = error.__cause__
    return (
        cause is not None
        and causes_left > 0
        and all(_is_passing(leaf, causes_left - 1) for leaf in leaves(cause))
    )
