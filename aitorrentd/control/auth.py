"""Identifies the peer of a Unix socket and its role.

The kernel vouches for the credentials as of connect(2): SO_PEERCRED and SO_PEERGROUPS, see unix(7)
and socket(7). /etc/group is not consulted about the caller: it may have changed since.
"""

from __future__ import annotations

import grp
import socket
import struct
from dataclasses import dataclass
from typing import Final, Protocol

from aitorrentd.api.plugin import Role

_SO_PEERGROUPS: Final = 59  # Linux 4.13; the socket module does not define it
_UCRED: Final = struct.Struct("3i")
_MAX_GROUP_BYTES: Final = 1024  # the most that Python's getsockopt accepts: 256 groups


class _Options(Protocol):
    def getsockopt(self, level: int, option: int, length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """A process, as of its connect(2)."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]
    "Supplementary groups; empty if the process is in more than 256 of them."


def peer_credentials(sock: _Options) -> Credentials:
    """The process at the other end of a connected Unix socket.

    Raises:
        OSError: not a Unix socket, or the other end is gone.
    """
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUP_BYTES)
    except OSError:
        # More groups than fit, or a kernel without the option: the primary group still counts.
        raw = b""
    return Credentials(pid, uid, gid, frozenset(struct.unpack(f"{len(raw) // 4}I", raw)))


def role_of(caller: Credentials, *, own_uid: int, operate_gid: int | None) -> Role:
    """ADMIN for root and the daemon's user, OPERATE for the group, READ for everyone else."""
    if caller.uid in (0, own_uid):
        return Role.ADMIN
    if operate_gid is not None and (caller.gid == operate_gid or operate_gid in caller.groups):
        return Role.OPERATE
    return Role.READ


def group_id(name: str) -> int | None:
    """The number of a group given by name or number; None if it does not exist."""
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        return None
