"""What a tracker keeps, as an interface: swarms, by info-hash.

Calls never wait: an implementation that shares its swarms with other processes answers from what
it holds, and exchanges changes in the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

make_tuple: Final = tuple.__new__
"""Makes a named tuple in a third of the time that calling its class takes; announces make several.
`make_tuple(Counts, (1, 2, 3))`"""
HASH_BYTES = 20
"An info-hash: SHA-1, or the first 20 bytes of the SHA-256 of a v2 torrent (BEP 52)."


class Event(IntEnum):
    """Why a peer announces itself, with the numbers of BEP 15."""

    NONE = 0
    COMPLETED = 1
    STARTED = 2
    STOPPED = 3


class Announce(NamedTuple):
    """A peer that announces itself; checked by whoever read it."""

    info_hash: bytes
    peer_id: bytes
    "20 bytes."
    host: bytes
    "4 bytes for IPv4, 16 for IPv6; where the request came from."
    port: int
    "1 to 65535; 0 only with `STOPPED`."
    event: Event
    is_seed: bool
    wanted: int
    "How many peers it wants at most, 0 or more."


class Counts(NamedTuple):
    """Peers of a swarm, and how many downloads were completed."""

    seeds: int
    leechers: int
    completed: int


class Found(NamedTuple):
    """What an announce is answered with. Peers are compact: address, then port (BEP 23, BEP 7)."""

    seeds: int
    leechers: int
    completed: int
    peers4: bytes
    "6 bytes for each peer."
    peers6: bytes
    "18 bytes for each peer."


class Full(Exception):
    """There is no room for another swarm."""


class Statistics(NamedTuple):
    """How much is stored."""

    swarms: int
    seeds: int
    leechers: int
    completed: int
    unlisted: int
    "Announces of peers that were not stored because of a limit."
    expired: int


class Storage(Protocol):
    """Swarms. `now` is monotonic time in seconds."""

    def announce(self, announce: Announce, now: float) -> Found:
        """Store the announce and pick peers for it.

        Raises:
            Full: the swarm is new and there is no room for it.
        """

    def counts(self, info_hash: bytes) -> Counts:
        """Counts of a swarm; zeros if there is none."""

    def peers(self, info_hash: bytes) -> Iterator[tuple[bytes, bytes, bool, float]]:
        """Compact address, id, whether it is a seed, and when it announced itself, of every peer of
        a swarm."""

    def peer_id(self, info_hash: bytes, entry: bytes) -> bytes:
        """The id with which the peer at this compact address announced itself; empty if unknown."""

    def expire(self, now: float) -> Sequence[tuple[bytes, bytes]]:
        """Remove peers that have not announced themselves for too long; call it often.

        Returns their info-hashes and compact addresses.
        """

    def statistics(self) -> Statistics:
        """How much is stored."""
