"""Which channel moves to which link: a better link to the process of a connected peer.

A direct link is better than a relayed one. Channels on links of equal worth do not move, unless
the new link renews a relayed one that is about to end: `rivals` keeps one of them. Nor does a
channel whose peer does not know how, which retires as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from aitorrent_transport.peers.peer import Peer
from aitorrent_transport.routes.joining import Joining
from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.secure_link import SecureLink
from aitorrentd.api import AitorrentError, Busy, PeerId, Unavailable, short

MAX_JOINING: Final = 3
"Links to one peer about which nothing is decided yet."


class Moves:
    """The links to which channels are about to move.

    `find(peer)` is a connected peer, `begin(link)` makes an ordinary channel. `on_stalled(link)` is
    called for a new link that seems to drop large packets.
    """

    def __init__(
        self,
        me: PeerId,
        *,
        find: Callable[[PeerId], Peer | None],
        begin: Callable[[SecureLink], Channel],
    ) -> None:
        self._me = me
        self._find = find
        self._begin = begin
        self._joinings: dict[SecureLink, Joining] = {}
        self.on_stalled: Callable[[SecureLink], None] = lambda link: None

    def __len__(self) -> int:
        return len(self._joinings)

    def concerns(self, link: SecureLink) -> bool:
        """Whether a channel might move to a new link."""
        return bool(self._movable(link))

    def _movable(self, link: SecureLink) -> list[Channel]:
        """The channels that may move to `link`, the best one first."""
        peer = self._find(link.peer)
        if peer is None or not link.can_move or not link.instance:
            return []
        if link.route.is_relayed and not link.route.renews:
            return []
        same = [c for c in peer.ranked() if c.link.instance == link.instance]
        if any(not c.link.route.is_relayed for c in same):
            return []
        return [c for c in same if c.link.can_move and not (c.retired_here or c.retired_there)]

    async def settle(self, link: SecureLink) -> Channel | None:
        """What becomes of a link: a channel that moved to it, or a new one that greets.

        None if no channel can move: the link is untouched.

        Raises:
            Unavailable, TimedOut: the link ended. Busy, Denied: it is not admitted.
        """
        leads = self._me < link.peer
        while channels := self._movable(link):
            if leads and self._is_busy(channels[0]):
                await self._turn(link, channels[0])
                if channels[0].closed is None and not channels[0].link.route.is_relayed:
                    link.close("this node is already connected")
                    return channels[0]
                continue
            if sum(each.peer == link.peer for each in self._joinings) >= MAX_JOINING:
                link.close("too many channels between two nodes")
                raise Busy(f"too many links to {short(link.peer)} at once")
            return await self._joined(link, channels[0] if leads else None)
        return None

    def _is_busy(self, channel: Channel) -> bool:
        return channel.mover.is_moving or bool(self._offers(channel))

    def _offers(self, channel: Channel) -> set[asyncio.Future[Channel | AitorrentError]]:
        """The outcomes of the links to which a channel may be about to move."""
        return {j.outcome for j in self._joinings.values() if j.channel is channel}

    async def _turn(self, link: SecureLink, channel: Channel) -> None:
        """Wait while the channel moves, or may be about to move, to another link."""
        try:
            await channel.mover.settled()
            if offers := self._offers(channel):
                await asyncio.wait(offers)
        except asyncio.CancelledError:
            link.close("gave up")
            raise

    async def _joined(self, link: SecureLink, channel: Channel | None) -> Channel:
        joining = Joining(link, channel, find=partial(self._named, link), begin=self._begin)
        self._joinings[link] = joining
        try:
            joining.start()
            # Not awaited directly: the outcome must not be cancelled with this task.
            await asyncio.wait({joining.outcome})
            outcome = joining.outcome.result()
        finally:
            joining.end(Unavailable("gave up"))
            del self._joinings[link]
        if joining.is_stalled:
            self.on_stalled(link)
        for other in list(self._joinings.values()):
            if other.channel is outcome:
                other.end(Unavailable("the channel moved to another link"))
        if isinstance(outcome, AitorrentError):
            try:
                raise outcome
            finally:
                del outcome, joining  # otherwise error and frame form a reference cycle
        return outcome

    def _named(self, link: SecureLink, place: bytes) -> Channel | None:
        movable = self._movable(link)
        return next((c for c in movable if c.link.handshake_hash == place), None)

    def channel_closed(self, channel: Channel) -> None:
        """A channel ended; a link to which it was to move may replace it."""
        for joining in list(self._joinings.values()):
            if joining.channel is channel:
                joining.channel_closed()

    def drop(self, peer: PeerId | None, reason: str) -> None:
        """Close the links to `peer`, or all, about which nothing is decided yet."""
        for link, joining in list(self._joinings.items()):
            if peer in (None, link.peer):
                joining.end(Unavailable(reason))
