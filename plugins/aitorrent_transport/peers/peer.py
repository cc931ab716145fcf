"""A connected peer: its channels, and which of them is best."""

from __future__ import annotations

import asyncio

from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.secure_link import SecureLink
from aitorrentd.api import PeerGone, PeerId, PeerView, short
from aitorrentd.api.network.addresses import host_port


class Peer:
    """A connected peer and its channels."""

    def __init__(self, peer: PeerId, me: PeerId, now: float) -> None:
        self.id = peer
        self.since = now
        self.name = ""
        "The name it claims."
        self.channels: list[Channel] = []
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        "Resolves, with the reason, when the last channel ended."
        self._me = me

    def _rank(self, channel: Channel) -> tuple[bool, bool, str, bytes]:
        dialer = self._me if channel.link.outbound else self.id
        link = channel.link
        return channel.suspect, link.route.is_relayed, dialer, link.handshake_hash

    def of_other_instance(self, channel: Channel) -> Channel | None:
        """A channel to a different process than that of `channel`, or None."""
        told = channel.link.instance
        others = (c for c in self.channels if b"" != c.link.instance != told != b"")
        return next(others, None)

    def has_as_good(self, link: SecureLink) -> bool:
        """Whether a channel not under suspicion makes a new link to the same process needless."""
        same = (c for c in self.channels if not c.suspect and c.link.instance == link.instance)
        return any(link.route.is_relayed or not c.link.route.is_relayed for c in same)

    @property
    def is_relayed(self) -> bool:
        """Whether the peer is reached through a relay only."""
        return self.best.link.route.is_relayed

    def ranked(self) -> list[Channel]:
        """The channels, the best one first."""
        return sorted(self.channels, key=self._rank)

    @property
    def best(self) -> Channel:
        """The channel on which to open streams.

        Raises:
            PeerGone: the last channel ended.
        """
        if not self.channels:
            raise PeerGone(
                f"{short(self.id)} left: {self.gone.result() if self.gone.done() else ''}"
            )
        return min(self.channels, key=self._rank)

    def view(self, now: float) -> PeerView:
        """A snapshot of the peer."""
        best = self.best
        return PeerView(
            id=self.id,
            address=location(best.link),
            outbound=best.link.outbound,
            connected_s=now - self.since,
            rtt_s=best.srtt_s,
            streams=sum(len(c.mux) for c in self.channels),
            bytes_in=sum(c.bytes_in for c in self.channels),
            bytes_out=sum(c.bytes_out for c in self.channels),
            agent=best.link.agent,
            name=self.name,
            route=best.link.route.name,
            host=best.link.route.host,
            observed=host_port(*best.link.observed) if best.link.observed else "",
        )


def location(link: SecureLink) -> str:
    """The remote address of a link, as a multiaddr without /p2p."""
    return link.route.location
