"""Moving a channel to a better link without losing a stream or a byte.

The node with the smaller peer id leads. On the new link both sides first exchange JOIN, which
proves that the link carries packets of full size in both directions. Then the leader sends MOVE as
its last frame on the old link and continues on the new one; the other side follows when that MOVE
arrives. Each side reads the new link only after the other's MOVE arrived on the old one, so frames
stay in order; until then reading is paused, which bounds the memory. The leader closes the old
link when the second MOVE arrives: then nothing is under way on it.

A channel that loses the old link before its peer's MOVE, or the new one after its own, is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aitorrent_transport.streams.frames import Kind, frame
from aitorrent_transport.streams.secure_link import SecureLink
from aitorrentd.api import ProtocolError

MOVE_S: Final = 60.0
"Time for what is under way on the old link; a relay may be slow."
_DONE: Final = "the channel moved to a better connection"


def _ignore(*_: object) -> None:
    """For the callbacks of a link that no longer matters."""


class Mover:
    """Moves a channel from `link`, the one that it uses, to others.

    `use(link)` makes the channel send and receive there. `on_moved()` is called when both
    directions continue on the new link, `on_failed(reason)` when the channel is lost.
    """

    def __init__(
        self,
        link: SecureLink,
        *,
        use: Callable[[SecureLink], None],
        on_moved: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self._link = link
        self._use = use
        self._on_moved = on_moved
        self._on_failed = on_failed
        self._old: SecureLink | None = None
        self._has_arrived = False
        self._agreed: tuple[SecureLink, Callable[[], None]] | None = None
        self._loop = asyncio.get_running_loop()
        self._past_in = 0
        self._past_out = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Future[None] | None = None

    @property
    def is_moving(self) -> bool:
        """Whether the old link is still needed."""
        return self._old is not None

    @property
    def earlier_in(self) -> int:
        """Bytes received on earlier links."""
        return self._past_in + (self._old.bytes_in if self._old is not None else 0)

    @property
    def earlier_out(self) -> int:
        """Bytes sent on earlier links."""
        return self._past_out + (self._old.bytes_out if self._old is not None else 0)

    def agree(self, link: SecureLink, leave: Callable[[], None]) -> None:
        """Follow the peer to `link`, which is paused, once it moves there; call `leave` before.

        The last such link counts.
        """
        self._agreed = (link, leave)

    def disagree(self, link: SecureLink) -> None:
        """Do not follow the peer to `link`, because it ended."""
        if self._agreed is not None and self._agreed[0] is link:
            self._agreed = None
            self._wake()

    async def settled(self) -> None:
        """Wait while the peer's answers may be held up by a move."""
        while self._agreed is not None or self._old is not None:
            if self._waiting is None:
                self._waiting = self._loop.create_future()
            await asyncio.wait({self._waiting})

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.set_result(None)
            self._waiting = None

    def move(self, link: SecureLink) -> None:
        """Continue on `link`, which is paused, and where the peer agreed to follow."""
        self._move(link, has_arrived=False)

    def take_move(self, place: bytes) -> None:
        """The peer's MOVE arrived; it continues on the link with that handshake hash.

        Raises:
            ProtocolError: this side moved to another link.
        """
        if self._old is not None and not self._has_arrived:
            if place != self._link.handshake_hash:
                raise ProtocolError("the two sides moved a channel to different links")
            self._has_arrived = True
            self._read_on(self._old)
            self._finish()
        elif not self._follow(place):
            self._on_failed("the connection to which the peer moved no longer exists")
            return
        self._on_moved()

    def _follow(self, place: bytes) -> bool:
        agreed, self._agreed = self._agreed, None
        if agreed is None or agreed[0].handshake_hash != place:
            return False
        link, leave = agreed
        leave()
        if self._old is not None:
            self._finish()
        self._move(link, has_arrived=True)
        return True

    def _move(self, link: SecureLink, *, has_arrived: bool) -> None:
        self._old = old = self._link
        self._link = link
        self._has_arrived = has_arrived
        self._timer = self._loop.call_later(MOVE_S, self._expire)
        old.on_writable = _ignore
        old.on_lost = self._take_loss
        old.send(frame(Kind.MOVE, 0, link.handshake_hash))
        old.flush()
        self._use(link)
        if has_arrived:
            self._read_on(old)

    def _read_on(self, old: SecureLink) -> None:
        old.on_record = _refuse
        # Not at once: the multiplexer is still busy with a record of the old link.
        self._loop.call_soon(self._link.resume_reading)

    def _take_loss(self, reason: str) -> None:
        if self._has_arrived:
            self._finish()
        else:
            self._on_failed(f"the old connection ended before the move was complete: {reason}")

    def _expire(self) -> None:
        if self._has_arrived:
            self._finish()
        else:
            self._on_failed(f"the peer did not complete its move within {MOVE_S:g} s")

    def _finish(self, reason: str = _DONE) -> None:
        """Close the old link after what was sent on it."""
        old = self._let_go()
        if old is not None:
            old.close(reason)
            self._past_in += old.bytes_in
            self._past_out += old.bytes_out

    def close(self, reason: str) -> None:
        """The channel is being closed: deliver what was sent on the old link, too."""
        self._finish(reason)
        self.end()

    def end(self) -> None:
        """The channel ended: close the old link at once, and drop back references."""
        self._agreed = None
        old = self._let_go()
        if old is not None:
            old.abort()
        self._use = self._on_moved = self._on_failed = _ignore

    def _let_go(self) -> SecureLink | None:
        old, self._old = self._old, None
        if old is not None:
            old.on_record = old.on_lost = _ignore
        if self._timer is not None:
            self._timer.cancel()
        self._wake()
        return old


def _refuse(record: memoryview) -> None:
    raise ProtocolError(f"a record of {len(record)} bytes after the channel moved")
