"""The connections of a torrent, and what went through each of them, also through those that ended.

libtorrent counts the payload of each connection that there is, and tells nothing of one that is
gone. So it is asked at intervals, and what a torrent exchanged beyond that belongs to the
connection that ended meanwhile, if it was one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from aitorrentd.api import PeerId

Place = tuple[str, int]
KEEP_S: Final = 120.0
"How long a connection that ended is remembered, so that its node can still be found."
MOST_ENDED: Final = 512
NOBODY: Final = bytes(20)
"The peer id before a handshake."


@dataclass(frozen=True, slots=True)
class PeerCounts:
    """A connection as libtorrent counts it; bytes of payload."""

    place: Place
    name: bytes
    "Its peer id."
    received: int
    sent: int
    owed: int
    "Bytes that were asked for and have not come."


@dataclass(frozen=True, slots=True)
class Totals:
    """What a torrent exchanged since it was started; bytes of payload."""

    received: int = 0
    sent: int = 0
    failed: int = 0
    "Received bytes of pieces whose hash was wrong."


@dataclass(frozen=True, slots=True)
class Sample:
    """The connections of a torrent at a moment, and its totals just before and after."""

    peers: tuple[PeerCounts, ...]
    before: Totals
    after: Totals


@dataclass(slots=True, eq=False)
class Link:
    """A connection to a BitTorrent peer; bytes of payload."""

    place: Place
    own_names: tuple[bytes, ...]
    "Peer ids, one of which this node has in it."
    since: float
    name: bytes = NOBODY
    "The peer's peer id in it."
    received: int = 0
    sent: int = 0
    owed: int = 0
    failed: int = 0
    "Bytes of pieces whose hash was wrong, if that is this peer's fault."
    counted: dict[str, int] = field(default_factory=dict)
    "Bytes for which accounts were credited already, by direction."
    node: PeerId | None = None
    "The node at the other end, if that is proven."
    ended_at: float | None = None
    left: bool = False
    "Whether the peer, or the network, ended it."
    was_refused: bool = False
    "Whether it was never made, since nobody listens there."
    was_banned: bool = False
    "Whether the peer sent corrupt pieces."
    was_seen_ending: bool = False
    was_judged: bool = False
    "Whether it was told how it ended, if that was a failure."
    tries: int = 0
    "How often its node was looked for."

    @property
    def has_met(self) -> bool:
        """Whether there was a handshake."""
        return self.name != NOBODY


class Links:
    """The connections of a torrent; callers pass `now`, in seconds of one clock."""

    def __init__(self) -> None:
        self._live: dict[Place, Link] = {}
        self._ended: list[Link] = []
        self._closed: list[Link] = []
        self._totals = Totals()
        self._blamed = 0
        "Of the bytes that failed, those that a peer was banned for."
        self.has_changed = False
        "Whether connections appeared or ended since the last sample."
        self.corrupt: set[PeerId] = set()
        "Nodes that were told of because they sent corrupt pieces."

    def __iter__(self) -> Iterator[Link]:
        """Those that there are, and those that ended of late."""
        return iter([*self._live.values(), *self._ended])

    @property
    def live(self) -> int:
        """How many there are."""
        return len(self._live)

    def connected(self, place: Place, own_names: tuple[bytes, ...], now: float) -> None:
        """A connection was made, or is about to be."""
        self._end(place, now)
        self._live[place] = Link(place, own_names, now)
        self.has_changed = True

    def banned(self, place: Place, name: bytes) -> None:
        """libtorrent found that the peer sent corrupt pieces."""
        if link := self._live.get(place):
            link.was_banned = True
            link.name = link.name if name == NOBODY else name

    def ended(
        self, place: Place, name: bytes, now: float, *, left: bool = False, refused: bool = False
    ) -> None:
        """A connection ended, or was never made."""
        if link := self._live.get(place):
            link.name = link.name if name == NOBODY else name
            link.left, link.was_refused = left, refused
            self._end(place, now)

    def _end(self, place: Place, now: float) -> None:
        if link := self._live.pop(place, None):
            link.ended_at = now
            self.has_changed = True
            if link.has_met or link.was_refused:
                self._ended.append(link)
                del self._ended[:-MOST_ENDED]
            if link.has_met:
                self._closed.append(link)
                del self._closed[:-MOST_ENDED]

    def sampled(self, sample: Sample, own_names: tuple[bytes, ...], at: float) -> None:
        """Count what went through each. `at` is a moment before libtorrent was asked."""
        moved_in = moved_out = 0
        there = set()
        for peer in sample.peers:
            link = self._link_of(peer, own_names, at)
            moved_in += peer.received - link.received
            moved_out += peer.sent - link.sent
            link.received, link.sent, link.owed = peer.received, peer.sent, peer.owed
            there.add(link)
        for link in [one for one in self._live.values() if one not in there and one.since < at]:
            self._end(link.place, at)
        started_anew = sample.before.received < self._totals.received or (
            sample.before.sent < self._totals.sent
        )
        last = Totals() if started_anew else self._totals
        if sample.before.failed < self._blamed:
            self._blamed = 0
        gone = [link for link in self._closed if link not in there]
        if len(gone) == 1:
            gone[0].received += max(0, sample.before.received - last.received - moved_in)
            gone[0].sent += max(0, sample.before.sent - last.sent - moved_out)
        for link in gone:
            if link.was_banned:
                link.failed = max(0, sample.before.failed - self._blamed)
                self._blamed = sample.before.failed
        self._closed = [link for link in self._closed if link in there]
        self._totals = sample.after
        self.has_changed = bool(self._closed)

    def _link_of(self, peer: PeerCounts, own_names: tuple[bytes, ...], at: float) -> Link:
        """The connection that libtorrent means: alerts may say earlier, or later, what became of
        it."""
        found = self._live.get(peer.place)
        if found and found.since <= at and (not found.has_met or peer.name in (found.name, NOBODY)):
            found.name = found.name if peer.name == NOBODY else peer.name
            return found
        for link in self._closed:
            if link.place == peer.place and link.name == peer.name:
                return link
        self._end(peer.place, at)
        made = self._live[peer.place] = Link(peer.place, own_names, at, peer.name)
        return made

    def forget(self, now: float) -> None:
        """Forget what ended long ago."""
        oldest = now - KEEP_S
        self._ended = [one for one in self._ended if one.ended_at and one.ended_at > oldest]
