"""What all clients share: an unreachable daemon, a lost one, and its answers.

It imports neither asyncio nor pydantic.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from aitorrentd.errors import AitorrentError, Denied, ProtocolError, TimedOut, Unavailable

if TYPE_CHECKING:
    from aitorrentd.system.unit import Systemd

OnProgress = Callable[[Mapping[str, Any]], None]
"Receives {text, done, total, unit}; done and total may be None."

GRACE_S: Final = 1.0
"The daemon knows the deadline too, and its error says more than the client's own."


class NoDaemon(Unavailable):
    """No process listens on the control socket."""


class NoAccess(Denied):
    """The control socket exists, but this user may not connect."""


class LostDaemon(Unavailable):
    """The connection ended before the answer."""


# As when systemd holds the socket for a daemon that does not start.
NOT_READY: Final = "the daemon ended before it was ready; see aitorrentctl doctor"


def unreachable(path: str, error: OSError, *, systemd: Systemd | None = None) -> AitorrentError:
    """Why connecting to the control socket at `path` failed, and the remedy."""
    if isinstance(error, PermissionError):
        return NoAccess(
            f"cannot reach {path}: permission denied; "
            "join the group: sudo adduser $USER aitorrent, then log in again"
        )
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return TimedOut(f"cannot reach {path}: the daemon does not accept connections")
    from aitorrentd.system import unit

    is_managed = (systemd or unit.SYSTEM).serves(path)
    way_out = "see systemctl status aitorrentd" if is_managed else "start one: aitorrentd"
    is_absent = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
    cause = (
        f"no daemon at {path}" if is_absent else f"cannot reach {path}: {error.strerror or error}"
    )
    return NoDaemon(f"{cause}; {way_out}, or name its socket: --socket PATH or AITORRENT_SOCKET")


def as_map(value: Any) -> dict[str, Any]:
    """A part of an answer that is always a map.

    Raises:
        ProtocolError: it is not a map.
    """
    if not isinstance(value, dict):
        raise ProtocolError(f"expected a map from the daemon, got {type(value).__name__}")
    return value
