"""Torrents of one small file, and libtorrent as a client."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final, NamedTuple

import libtorrent as lt

from tests.support.nat.namespaces import within

QUIET: Final[dict[str, Any]] = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    # It would pause all but a few.
    "active_seeds": -1,
    "active_limit": -1,
    "allow_multiple_connections_per_ip": True,
    # How long the end of a session waits for the tracker.
    "stop_tracker_timeout": 1,
}
NAME: Final = "weights.bin"


class Torrent(NamedTuple):
    """A .torrent file, and the content that it describes."""

    metainfo: bytes
    info_hash: str
    "In hexadecimal."
    content: bytes


def torrent(folder: Path, tracker: str, *, seed: int, size: int) -> Torrent:
    """A private torrent of `weights.bin` in the new `folder`; `seed` decides its content."""
    content = random.Random(seed).randbytes(size)
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(content)
    files = lt.list_files(str(folder / NAME))
    made = lt.create_torrent(files, piece_size=65_536, flags=lt.create_torrent.v1_only)
    made.add_tracker(tracker)
    made.set_priv(True)
    lt.set_piece_hashes(made, str(folder))
    metainfo = lt.bencode(made.generate())
    return Torrent(metainfo, str(lt.torrent_info(metainfo).info_hash()), content)


class Libtorrent:
    """A session in this process; `stop` it, which blocks for a second.

    Its sockets are at `address` in a network namespace, if one is given.
    """

    def __init__(self, address: str, namespace: str = "") -> None:
        place = f"[{address}]:0" if ":" in address else f"{address}:0"
        settings: Any = {**QUIET, "listen_interfaces": place}

        def start() -> Any:
            return lt.session(settings)

        self._session: Any = within(namespace, start) if namespace else start()

    def add(self, torrent: bytes, folder: Path) -> None:
        """Share a torrent whose file is, or is to be, in `folder`."""
        params = lt.add_torrent_params()
        params.ti = lt.torrent_info(torrent)
        params.save_path = str(folder)
        if self._session is not None:
            self._session.add_torrent(params)

    def complete(self) -> set[str]:
        """The info-hashes of which it has everything, in hexadecimal."""
        handles = self._session.get_torrents() if self._session is not None else []
        return {str(handle.info_hash()) for handle in handles if handle.status().is_seeding}

    def remove(self) -> None:
        """Stop sharing."""
        if self._session is not None:
            for handle in self._session.get_torrents():
                self._session.remove_torrent(handle)

    def stop(self) -> None:
        """Tell the trackers, and end."""
        self._session = None
