"""A new link to a connected peer, until both sides agree what becomes of it.

Either a channel moves to it (`streams.moving`), or it becomes an ordinary channel. The node with
the smaller peer id leads: it names the channel in a JOIN frame, and the other one confirms. A side
that does not have that channel greets instead, which makes the link an ordinary channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.frames import Kind, first_frame, join_frame, read_place
from aitorrent_transport.streams.moving import MOVE_S
from aitorrent_transport.streams.secure_link import SecureLink
from aitorrentd.api import AitorrentError, ProtocolError, TimedOut, Unavailable, short

JOIN_S: Final = 5.0
"Time for the peer's answer to JOIN; the channel stays on its link meanwhile."
HOLD_S: Final = 15.0
"Time for the leader to speak first; it may have to finish with another link."


def _ignore(*_: object) -> None:
    """For the callbacks of a link that was given away."""


class Joining:
    """Decides about `link`, which is authenticated and not started.

    `outcome` becomes the channel that moved to the link, the ordinary channel that `begin(link)`
    made, or the error. `find(place)` is the channel that may move and whose link has that handshake
    hash. `channel` is what the leader moves, None at the other side.
    """

    def __init__(
        self,
        link: SecureLink,
        channel: Channel | None,
        *,
        find: Callable[[bytes], Channel | None],
        begin: Callable[[SecureLink], Channel],
    ) -> None:
        self.link = link
        self.channel = channel
        self._leads = channel is not None
        self._find = find
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Channel | AitorrentError] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self.is_stalled = False
        "Whether the link seems to drop large packets."

    def start(self) -> None:
        """Speak first, or wait for the leader."""
        link = self.link
        link.on_record = self._take
        link.on_lost = self._take_loss
        self._limit(JOIN_S if self._leads else HOLD_S)
        if self.channel is not None:
            self._say_join(self.channel)
        link.start()

    def _limit(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._expire)

    def _say_join(self, channel: Channel) -> None:
        self.link.send(join_frame(channel.link.handshake_hash))
        self.link.flush()

    def _take(self, record: memoryview) -> None:
        try:
            self._decide(record)
        except ProtocolError as e:
            self.end(e)

    def _decide(self, record: memoryview) -> None:
        kind, payload = first_frame(record)
        if kind == Kind.HELLO:
            if self._become_ordinary():
                self.link.on_record(record)
        elif kind != Kind.JOIN:
            self._take_early(kind)
        elif self._leads:
            self._move(read_place(payload))
        else:
            self._agree(read_place(payload))

    def _move(self, place: bytes) -> None:
        channel = self.channel
        if channel is None or channel.link.handshake_hash != place:
            raise ProtocolError("the peer agreed to move another channel")
        if channel.closed is not None:
            self._become_ordinary()
            return
        self.link.pause_reading()
        self._settle(channel)
        channel.mover.move(self.link)

    def _agree(self, place: bytes) -> None:
        channel = self._find(place)
        if channel is None:
            self._become_ordinary()
            return
        self.channel = channel
        # What the leader sends next follows its MOVE, which comes on the other link.
        self.link.pause_reading()
        self._limit(MOVE_S)
        channel.mover.agree(self.link, lambda: self._settle(channel))
        self._say_join(channel)

    def _take_early(self, kind: int) -> None:
        if self.channel is None or self.channel.closed is None:
            raise ProtocolError(f"frame of kind {kind} on a link without a channel")
        self.end(Unavailable(f"the channel that was to move ended: {self.channel.closed}"))

    def channel_closed(self) -> None:
        """The channel that was to move ended; the link may replace it."""
        if self._leads:
            self._become_ordinary()
        else:
            self._limit(JOIN_S)
            self.link.resume_reading()  # the leader may have greeted meanwhile

    def _become_ordinary(self) -> bool:
        self._let_go()
        try:
            channel = self._begin(self.link)
        except AitorrentError as e:
            self._resolve(e)
            return False
        self._resolve(channel)
        return True

    def _settle(self, channel: Channel) -> None:
        self._let_go()
        self._resolve(channel)

    def end(self, error: AitorrentError) -> None:
        """Close the link, if nothing is decided yet."""
        if not self.outcome.done():
            self._let_go()
            self.link.close(error.message)
            self._resolve(error)

    def _take_loss(self, reason: str) -> None:
        self._let_go()
        self._resolve(Unavailable(f"{short(self.link.peer)}: {reason}"))

    def _expire(self) -> None:
        self.is_stalled = self.link.is_stalled()
        self.end(TimedOut(f"{short(self.link.peer)} did not take up the new link in time"))

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.channel is not None:
            self.channel.mover.disagree(self.link)
        self.link.on_record = self.link.on_lost = _ignore

    def _resolve(self, outcome: Channel | AitorrentError) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)
