"""The exit codes of both programs.

Codes above 63 are those of sysexits.h; systemd and monitoring distinguish failures by them.
"""

from __future__ import annotations

from enum import IntEnum


class DaemonExit(IntEnum):
    """Exit codes of `aitorrentd`."""

    OK = 0
    "Stopped on request."
    USAGE = 64
    UNAVAILABLE = 69
    "A resource is in use, or the disk is full."
    SOFTWARE = 70
    "A required plugin failed."
    NOPERM = 77
    CONFIG = 78


class ExitCode(IntEnum):
    """Exit codes of `aitorrentctl`."""

    OK = 0
    ERROR = 1
    "The daemon answered with an error."
    USAGE = 2
    "A wrong command, option or value."
    NO_DAEMON = 69
    TRY_LATER = 75
    "Timeout, or the daemon is busy."
    DENIED = 77
    CONFIG = 78
    INTERRUPTED = 130
