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


class Move:
    """One side of a move from link `old` to `new`, beginning with this side's MOVE.

    `has_arrived` says whether the peer's MOVE arrived; until it does, `new` is paused. Ends with
    one call: `on_done()`, or `on_failed(reason)`, in which case the owner ends the channel.
    """

    def __init__(
        self,
        old: SecureLink,
        new: SecureLink,
        *,
        has_arrived: bool,
        on_done: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self.old = old
        self.new = new
        self.has_arrived = has_arrived
        self._on_done = on_done
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(MOVE_S, self._expire)
        old.on_writable = _ignore
        old.on_lost = self._take_loss
        old.send(frame(Kind.MOVE, 0, new.handshake_hash))
        old.flush()
        if has_arrived:
            self._switch()

    def arrive(self, place: bytes) -> None:
        """The peer's MOVE arrived on the old link.

        Raises:
            ProtocolError: for the second time, or it names another link.
        """
        if self.has_arrived or place != self.new.handshake_hash:
            raise ProtocolError("the peer moved the channel to two links")
        self.has_arrived = True
        self._switch()
        self.close(_DONE)
        self._on_done()

    def _switch(self) -> None:
        self.old.on_record = self._refuse
        # Not at once: this is called while the multiplexer takes a record of the old link.
        self._loop.call_soon(self.new.resume_reading)

    def _refuse(self, record: memoryview) -> None:
        raise ProtocolError(f"a record of {len(record)} bytes after the channel moved")

    def _take_loss(self, reason: str) -> None:
        self._let_go()
        if self.has_arrived:
            self._on_done()
        else:
            self._on_failed(f"the old connection ended before the move was complete: {reason}")

    def _expire(self) -> None:
        if self.has_arrived:
            self.close(_DONE)
            self._on_done()
        else:
            self._on_failed(f"the peer did not complete its move within {MOVE_S:g} s")

    def close(self, reason: str) -> None:
        """Close the old link after what was sent on it."""
        self._let_go()
        self.old.close(reason)

    def abort(self) -> None:
        """Close the old link at once."""
        self._let_go()
        self.old.abort()

    def _let_go(self) -> None:
        self._timer.cancel()
        self.old.on_record = self.old.on_lost = _ignore
