"""The BitTorrent peer ids of this node: as far as possible, another one for each connection.

libtorrent takes the peer id of a connection from the setting `peer_fingerprint`, which may be all
of it, when it dials or is dialled, and never tells which one that was. So the setting changes
whenever a connection appears, and a connection has one of the few that were set shortly before.
Its ends know both peer ids; nobody else is told them.
"""

from __future__ import annotations

import secrets
import string
from collections import deque
from typing import Final

LENGTH: Final = 20
PREFIX_LENGTH: Final = 8
"Which program it is: the rest is random, 71 bits."
HANDSHAKE_S: Final = 15.0
"A connection is known at most this long after its peer id was set."
MOST: Final = 32
_LETTERS: Final = string.ascii_letters + string.digits


class Names:
    """The peer ids that were set of late; callers pass `now`, in seconds."""

    def __init__(self, prefix: str, now: float) -> None:
        self._prefix = prefix[:PREFIX_LENGTH].ljust(PREFIX_LENGTH, "-")
        self._set: deque[tuple[bytes, float]] = deque(maxlen=MOST)
        self.renew(now)

    def renew(self, now: float) -> str:
        """The next peer id, which is set from now on."""
        letters = (secrets.choice(_LETTERS) for _ in range(LENGTH - PREFIX_LENGTH))
        name = self._prefix + "".join(letters)
        self._set.append((name.encode(), now))
        return name

    def possible(self, now: float) -> tuple[bytes, ...]:
        """Those that a connection may have that appeared now."""
        names: list[bytes] = []
        for name, since in reversed(self._set):
            names.append(name)
            if since <= now - HANDSHAKE_S:
                break
        return tuple(names)
