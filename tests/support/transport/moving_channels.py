"""Two channels with each other over socket pairs, which move from one pair to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aitorrent_transport.links.dial import link_in_process
from aitorrent_transport.links.link import LIMITS, Link, LinkLimits
from aitorrent_transport.routes.joining import Joining
from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.secure_link import SecureLink
from aitorrent_transport.streams.stream import ChannelStream
from aitorrent_transport.streams.windows import WindowBudget
from aitorrentd.api import AitorrentError, ProtocolError
from tests.support.clocks import LoopClock
from tests.support.transport.link_peers import make_credentials

Outcome = Channel | AitorrentError


class MovingChannels:
    """The ends of a channel: `leader` decides to move, `follower` agrees.

    `inbound` are the streams that the other end opened, by end; `ordinary` the channels that links
    became to which no channel moved; `faults` what an end accuses the other of.
    """

    def __init__(self, limits: LinkLimits = LIMITS, keepalive_s: float = 15.0) -> None:
        self.credentials = (make_credentials(), make_credentials())
        self.inbound: dict[Channel, asyncio.Queue[ChannelStream]] = {}
        self.moved: list[Channel] = []
        self.ordinary: list[Channel] = []
        self.faults: list[ProtocolError] = []
        self.links: list[tuple[Link, Link]] = []
        self.joinings: list[Joining] = []
        self._limits = limits
        self._keepalive_s = keepalive_s

    async def __aenter__(self) -> MovingChannels:
        near, far = await self.link_pair()
        self.leader, self.follower = self.channel(near), self.channel(far)
        self.leader.start()
        self.follower.start()
        await asyncio.gather(self.leader.greeted(5), self.follower.greeted(5))
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in [self.leader, self.follower, *self.ordinary]:
            channel.close("the test is over")
        for link in (each for pair in self.links for each in pair):
            link.abort()
        await asyncio.sleep(0.01)

    @property
    def ends(self) -> tuple[Channel, Channel]:
        return self.leader, self.follower

    async def link_pair(self, *, swapped: bool = False) -> tuple[Link, Link]:
        """The leader's and the follower's end of a new link; `swapped`: the follower dials."""
        a, b = self.credentials
        if swapped:
            far, near = await link_in_process(b, a, self._limits)
        else:
            near, far = await link_in_process(a, b, self._limits)
        self.links.append((near, far))
        return near, far

    def channel(self, link: SecureLink) -> Channel:
        channel = Channel(
            link,
            clock=LoopClock(),
            budget=WindowBudget(),
            keepalive_s=self._keepalive_s,
            greeting={"v": 1},
        )
        queue = self.inbound[channel] = asyncio.Queue()
        channel.on_stream = lambda at, state: queue.put_nowait(ChannelStream(state, at, at.peer))
        channel.on_moved = self.moved.append
        channel.on_closed = self._take_close
        return channel

    def _take_close(self, channel: Channel, reason: str, fault: ProtocolError | None) -> None:
        if fault is not None:
            self.faults.append(fault)
        for joining in self.joinings:
            if joining.channel is channel and not joining.outcome.done():
                joining.channel_closed()

    def begin(self, link: SecureLink) -> Channel:
        """Make an ordinary channel of a link."""
        channel = self.channel(link)
        self.ordinary.append(channel)
        channel.start()
        return channel

    def join(self, links: tuple[Link, Link]) -> tuple[Joining, Joining]:
        """Offer a new link to both ends."""
        near, far = links
        known = self.follower
        follows = Joining(
            far,
            None,
            find=lambda p: known if p == known.link.handshake_hash and not known.closed else None,
            begin=self.begin,
        )
        leads = Joining(near, self.leader, find=lambda p: None, begin=self.begin)
        self.joinings += [leads, follows]
        follows.start()
        leads.start()
        return leads, follows

    async def move(self, *, swapped: bool = False) -> Sequence[Outcome]:
        """Move both ends to a new link; return what became of it at either end."""
        joinings = self.join(await self.link_pair(swapped=swapped))
        return await asyncio.gather(*(each.outcome for each in joinings))
