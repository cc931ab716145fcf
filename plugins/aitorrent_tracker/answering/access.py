"""Who may announce what."""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from aitorrent_tracker.wire.refusals import Refused

ANNOUNCE: Final = b"announce"
SCRAPE: Final = b"scrape"


class Access:
    """Which info-hashes are served, and which announce keys open the tracker.

    Without keys, the tracker is for everyone. `torrents` None means any info-hash.
    """

    def __init__(self, torrents: Iterable[bytes] | None, keys: Iterable[str]) -> None:
        self.torrents = None if torrents is None else frozenset(torrents)
        self._published: set[bytes] = set()
        # Looking up a keyed hash takes no time that depends on how much of a key was guessed.
        self._secret = os.urandom(32)
        self._keys = frozenset(self._hashed(key.encode()) for key in keys)
        self.is_private = bool(self._keys)
        "Whether clients need an announce key."

    def _hashed(self, key: bytes) -> bytes:
        return blake2b(key, digest_size=16, key=self._secret).digest()

    def publish(self, info_hashes: Iterable[bytes]) -> None:
        """Serve these, too."""
        self._published.update(info_hashes)

    def withdraw(self, info_hashes: Iterable[bytes]) -> None:
        """Serve these no longer, except those that are configured."""
        self._published.difference_update(info_hashes)

    def is_listed(self, info_hash: bytes) -> bool:
        """Whether the torrent is served."""
        torrents = self.torrents
        return torrents is None or info_hash in torrents or info_hash in self._published

    def is_key(self, key: str) -> bool:
        """Whether this is an announce key."""
        return self._hashed(key.encode()) in self._keys

    def action(self, path: bytes) -> bytes:
        """`announce` or `scrape`, from the path of a URL: `/announce`, or `/KEY/announce`.

        Raises:
            Refused: the path is another one, or its key is missing or wrong.
        """
        if not self._keys and path in (b"/announce", b"/scrape"):
            return path[1:]
        root, _, rest = path.partition(b"/")
        key, slash, action = rest.rpartition(b"/")
        if root or action not in (ANNOUNCE, SCRAPE) or (slash and not self._keys):
            raise Refused("path", "not found; announce to /announce")
        if self._hashed(key) not in self._keys:
            problem = "unknown announce key" if key else "announce to /KEY/announce, with your key"
            raise Refused("key", problem)
        return action
