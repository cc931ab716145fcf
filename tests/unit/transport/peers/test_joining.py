"""Two nodes agree what becomes of a new link between them."""

from __future__ import annotations

import asyncio

import pytest

from aitorrent_transport.routes.joining import HOLD_S, JOIN_S, Joining
from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.frames import JOIN_BYTES, Kind, frame, join_frame
from aitorrent_transport.streams.moving import MOVE_S
from aitorrent_transport.streams.secure_link import SecureLink
from aitorrent_transport.streams.windows import WindowBudget
from aitorrentd.api import PeerGone, PeerId, Priority, ProtocolError, TimedOut, Unavailable
from tests.support.clocks import LoopClock
from tests.support.nodes import wait_for
from tests.support.transport.transport_links import link_pair

pytestmark = pytest.mark.jump_clock

A, B = PeerId("12D3KooWaaaaaaaa"), PeerId("12D3KooWbbbbbbbb")
OLD, NEW = b"o" * 32, b"n" * 32


class Ends:
    """A channel between two nodes, and a new link on which one side is played by the test."""

    def __init__(self) -> None:
        self.old = link_pair(A, B, shaken=OLD)
        self.new = link_pair(A, B, shaken=NEW)
        self.near, self.far = (self.channel(link) for link in self.old)
        self.ordinary: list[Channel] = []
        self.heard: list[bytes] = []
        self.new[1].on_record = lambda record: self.heard.append(bytes(record))
        self.new[1].start()

    def channel(self, link: SecureLink) -> Channel:
        return Channel(
            link, clock=LoopClock(), budget=WindowBudget(), keepalive_s=600.0, greeting={"v": 1}
        )

    def begin(self, link: SecureLink) -> Channel:
        channel = self.channel(link)
        self.ordinary.append(channel)
        channel.start()
        return channel

    def find(self, place: bytes) -> Channel | None:
        return self.near if place == OLD and self.near.closed is None else None

    async def join(self, *, leads: bool) -> Joining:
        joining = Joining(
            self.new[0], self.near if leads else None, find=self.find, begin=self.begin
        )
        joining.start()
        await asyncio.sleep(0.01)
        return joining

    def say(self, *frames: bytes) -> None:
        """What the other side of the new link sends."""
        for each in frames:
            self.new[1].send(each)

    def kinds(self) -> list[int]:
        """What the other side of the new link heard first in each record."""
        return [record[0] for record in self.heard]

    async def __aenter__(self) -> Ends:
        self.near.start()
        self.far.start()
        await self.near.greeted(1)
        await self.far.greeted(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in (self.near, self.far, *self.ordinary):
            channel.close("the test is over")
        await asyncio.sleep(0)


async def test_leader_offers_with_packets_of_full_size() -> None:
    async with Ends() as ends:
        await ends.join(leads=True)
        assert ends.kinds() == [Kind.JOIN]
        assert len(ends.heard[0]) > JOIN_BYTES > 2 * 1500


async def test_channel_stays_where_it_is_unless_the_new_link_answers() -> None:
    async with Ends() as ends:
        began = LoopClock().monotonic()
        joining = await ends.join(leads=True)
        assert isinstance(await joining.outcome, TimedOut)
        assert LoopClock().monotonic() - began == pytest.approx(JOIN_S, abs=0.1)
        assert ends.near.link is ends.old[0]
        assert await ends.near.ping(1) >= 0


async def test_follower_waits_for_the_leader_only_so_long() -> None:
    async with Ends() as ends:
        began = LoopClock().monotonic()
        joining = await ends.join(leads=False)
        assert ends.heard == []
        assert isinstance(await joining.outcome, TimedOut)
        assert LoopClock().monotonic() - began == pytest.approx(HOLD_S, abs=0.1)
        assert await ends.near.ping(1) >= 0


async def test_follower_that_agreed_stays_if_the_leader_never_moves() -> None:
    async with Ends() as ends:
        joining = await ends.join(leads=False)
        ends.say(join_frame(OLD))
        await wait_for(lambda: ends.kinds() == [Kind.JOIN])
        assert isinstance(await joining.outcome, TimedOut)
        assert ends.near.link is ends.old[0]
        assert await ends.near.ping(1) >= 0


@pytest.mark.parametrize("leads", [True, False])
async def test_peer_that_greets_gets_an_ordinary_channel(leads: bool) -> None:
    async with Ends() as ends:
        joining = await ends.join(leads=leads)
        other = ends.begin(ends.new[1])
        assert await joining.outcome is ends.ordinary[1]
        assert await other.greeted(1) == {"v": 1}
        assert await ends.ordinary[1].greeted(1) == {"v": 1}
        assert ends.near.closed is None


async def test_follower_greets_a_leader_that_names_an_unknown_channel() -> None:
    async with Ends() as ends:
        joining = await ends.join(leads=False)
        ends.say(join_frame(b"x" * 32))
        assert await joining.outcome is ends.ordinary[0]
        await wait_for(lambda: ends.kinds() == [Kind.HELLO])


async def test_new_link_takes_the_place_of_a_channel_that_ends_before_the_answer() -> None:
    async with Ends() as ends:
        joining = await ends.join(leads=True)
        ends.near.lose("the relay is gone")
        joining.channel_closed()
        assert await joining.outcome is ends.ordinary[0]
        await wait_for(lambda: ends.kinds() == [Kind.JOIN, Kind.HELLO])


@pytest.mark.parametrize("says", [frame(Kind.HELLO, 0, b"\x80"), frame(Kind.PING, 0, bytes(8))])
async def test_follower_that_agreed_and_lost_its_channel_reads_what_the_leader_said(
    says: bytes,
) -> None:
    async with Ends() as ends:
        joining = await ends.join(leads=False)
        ends.say(join_frame(OLD))
        await wait_for(lambda: ends.kinds() == [Kind.JOIN])
        ends.say(says)
        await asyncio.sleep(1)
        assert not joining.outcome.done()
        ends.near.lose("the relay is gone")
        joining.channel_closed()
        outcome = await joining.outcome
        assert isinstance(outcome, Channel if says[0] == Kind.HELLO else Unavailable)


@pytest.mark.parametrize("leads", [True, False])
@pytest.mark.parametrize(
    "record",
    [
        b"\x00",
        frame(Kind.JOIN, 0, b"short"),
        frame(Kind.DATA, 1, b"early"),
        frame(Kind.JOIN, 0, OLD)[:-1],
        frame(Kind.MOVE, 0, NEW),
    ],
)
async def test_nonsense_on_a_new_link_ends_it_and_not_the_channel(
    record: bytes, leads: bool
) -> None:
    async with Ends() as ends:
        joining = await ends.join(leads=leads)
        ends.say(record)
        assert isinstance(await joining.outcome, ProtocolError)
        assert await ends.near.ping(1) >= 0


async def test_leader_does_not_move_another_channel_than_it_offered() -> None:
    async with Ends() as ends:
        joining = await ends.join(leads=True)
        ends.say(join_frame(b"x" * 32))
        assert isinstance(await joining.outcome, ProtocolError)
        assert ends.near.link is ends.old[0]


async def test_move_that_the_peer_does_not_complete_ends_the_channel_in_time() -> None:
    async with Ends() as ends:
        joining = await ends.join(leads=True)
        stream = ends.near.open("/test/1", Priority.CONTROL)
        ends.old[1].hold = True
        ends.say(join_frame(OLD))
        assert await joining.outcome is ends.near
        began = LoopClock().monotonic()
        with pytest.raises(PeerGone, match=f"did not complete its move within {MOVE_S:g} s"):
            await stream.read()
        assert LoopClock().monotonic() - began == pytest.approx(MOVE_S, abs=1)


@pytest.mark.parametrize("place", [NEW, b"x" * 32])
async def test_move_to_an_unknown_link_ends_the_channel(place: bytes) -> None:
    async with Ends() as ends:
        ends.old[1].send(frame(Kind.MOVE, 0, place))
        await wait_for(lambda: ends.near.closed)
        assert "no longer exists" in str(ends.near.closed)
        assert ends.near.fault is None


async def test_records_on_the_old_link_after_the_move_are_not_delivered() -> None:
    async with Ends() as ends:
        joining = await ends.join(leads=False)
        ends.say(join_frame(OLD))
        await wait_for(lambda: ends.kinds() == [Kind.JOIN])
        ends.old[1].send(frame(Kind.MOVE, 0, NEW))
        assert await joining.outcome is ends.near
        before = len(ends.near.mux)
        with pytest.raises(ProtocolError, match="after the channel moved"):
            ends.old[0].on_record(memoryview(frame(Kind.OPEN, 2, b"/test/late")))
        assert len(ends.near.mux) == before
