"""The service manager's side of the daemon: sd_notify(3), sd_listen_fds(3), the watchdog.

Without systemd every function does nothing, so callers need no special case.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

from aitorrentd.errors import ConfigError

_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_MAX_STATUS_CHARS: Final = 512
_RUNTIME: Final = "/run/aitorrent"


class Notifier:
    """Sends state changes to the service manager that $NOTIFY_SOCKET names."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL of an abstract socket; any other non-path address is unsupported.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._usable = address.startswith(("/", "@"))

    def __bool__(self) -> bool:
        return self._usable

    def send(self, *assignments: str) -> bool:
        """Send `KEY=value` lines in one datagram; False if it was not delivered."""
        if not self._usable:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.connect(self._address)
                sock.sendall("\n".join(assignments).encode())
        except OSError:
            # The manager is gone or its queue is full; the next ping repeats the message.
            return False
        return True

    def ready(self, status: str = "") -> bool:
        """The service is up, or a reload is complete."""
        return self.send("READY=1", *self._status(status))

    def reloading(self) -> bool:
        """A reload began; `ready` must follow."""
        return self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> bool:
        """The service began to stop."""
        return self.send("STOPPING=1", *self._status(status))

    def watchdog(self) -> bool:
        """The service is alive."""
        return self.send("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self.send(*self._status(text))

    def extend_timeout(self, seconds: float) -> bool:
        """Starting or stopping takes up to `seconds` more from now."""
        return self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    @staticmethod
    def _status(text: str) -> list[str]:
        return [f"STATUS={' '.join(text.split())[:_MAX_STATUS_CHARS]}"] if text else []


def listen_fds(
    environ: MutableMapping[str, str] = os.environ, *, pid: int | None = None
) -> dict[str, list[socket.socket]]:
    """Sockets that the service manager opened for this process, by their FileDescriptorName.

    The variables are removed, so that worker processes do not claim the sockets.

    Raises:
        ConfigError: a descriptor that was announced is not a socket.
    """
    for_pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if for_pid != str(pid or os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, list[socket.socket]] = {}
    for i in range(int(count)):
        try:
            sock = socket.socket(fileno=_FIRST_FD + i)
        except OSError as e:
            raise ConfigError(
                f"$LISTEN_FDS announces {int(count)} sockets from the service manager, but "
                f"descriptor {_FIRST_FD + i} is not a socket ({e.strerror}); pass the sockets, or "
                "unset "
                "LISTEN_FDS and LISTEN_PID"
            ) from None
        sock.set_inheritable(False)
        name = names[i] if i < len(names) and names[i] else "unknown"
        found.setdefault(name, []).append(sock)
    return found


def watchdog_interval_s(
    environ: Mapping[str, str] = os.environ, *, pid: int | None = None
) -> float | None:
    """Seconds within which the manager expects a ping, or None if it expects none."""
    usec = environ.get("WATCHDOG_USEC", "")
    for_pid = environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0:
        return None
    if for_pid and for_pid != str(pid or os.getpid()):
        return None
    return int(usec) / 1_000_000


def unit_socket(
    name: str, environ: Mapping[str, str] = os.environ, *, runtime: str = _RUNTIME
) -> Path | None:
    """The socket `name`.sock, whose connections start processes in their own units.

    None unless systemd runs this process as the system's service and the socket unit is up; with
    None they are child processes.
    """
    if not environ.get("INVOCATION_ID") or environ.get("RUNTIME_DIRECTORY") != runtime:
        return None
    at = Path(runtime, f"{name}.sock")
    return at if at.is_socket() else None


def is_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `fd` is the journal, which understands `<6>` priority prefixes (sd-daemon(3))."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not (device.isdecimal() and inode.isdecimal()):
        return False
    try:
        stat = os.fstat(fd)
    except OSError:
        return False
    return (stat.st_dev, stat.st_ino) == (int(device), int(inode))
