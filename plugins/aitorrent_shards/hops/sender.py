"""The sending end of a ring edge, which keeps what it sent; `receiver` is the other end.

Every sender keeps its messages for the life of the session, so a lost stage is replaced by linking
its neighbours to another holder. The new stage reports 0 positions and receives all of them in the
same messages as before, so its results are bit for bit the same; the stage after it reports m
positions and receives only the new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from aitorrent_shards.protocol.messages import (
    MAX_CONTROL_BYTES,
    PROTOCOL,
    Link,
    parse_have,
)
from aitorrentd.api import (
    AitorrentError,
    Conflict,
    PeerGone,
    Priority,
    ProtocolError,
    Stream,
    TimedOut,
    TooLarge,
    Transport,
    encode_frame,
    error_from_map,
    frame_head,
    read_frame,
)
from aitorrentd.api.tasks import Tasks

JOIN_BELOW: Final = 32 * 1024
"Tails shorter than this are appended to the header, which costs less than a second write."
STUCK_WRITE_S: Final = 600.0
"A receiver that accepts no byte for this long is dropped; the coordinator notices far earlier."
STUCK_CHECK_S: Final = 60.0


class HopMessage(NamedTuple):
    """Positions [pos, pos + n), sent to the next stage."""

    pos: int
    n: int
    header: dict[str, Any]
    tail: bytes | memoryview

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.pos + self.n


class Journal:
    """The messages that a sender produced in a session, in order, kept for replay.

    `last_only` keeps just the newest: enough for the last stage, whose messages are answers.
    """

    def __init__(self, *, max_bytes: int, last_only: bool = False) -> None:
        self.messages: list[HopMessage] = []
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._last_only = last_only

    def append(self, message: HopMessage) -> None:
        """Append a message.

        Raises:
            TooLarge: more than was admitted for the session.
        """
        if self._last_only:
            self.messages.clear()
            self.size_bytes = 0
        if self.size_bytes + len(message.tail) > self._max_bytes:
            raise TooLarge(f"the session sends more than its {self._max_bytes} bytes")
        self.messages.append(message)
        self.size_bytes += len(message.tail)

    def check(self, have: int) -> None:
        """Reject a position that splits a message.

        Raises:
            ProtocolError: `have` lies inside a message.
        """
        for message in reversed(self.messages):
            if message.end <= have:
                return
            if message.pos < have:
                raise ProtocolError(
                    f"position {have} is inside message {message.pos}-{message.end}"
                )


class HopSender:
    """Sends a session's messages to the next stage; can be linked to another receiver at any time.

    A message that cannot be sent now stays in the journal and is sent over the next link.
    `on_broken(reason)` is called when a link ends unexpectedly, even if nothing was being written:
    data in flight may be lost, and nothing else would notice.
    """

    def __init__(
        self,
        transport: Transport,
        tasks: Tasks,
        on_broken: Callable[[str], None],
        *,
        max_bytes: int,
        last_only: bool = False,
    ) -> None:
        """`max_bytes` and `last_only` are passed to `Journal`."""
        self.journal = Journal(max_bytes=max_bytes, last_only=last_only)
        self.have = 0
        "Positions that the receiver reported, or that were written to it."
        self._transport = transport
        self._tasks = tasks
        self._on_broken = on_broken
        self._stream: Stream | None = None
        self._cursor = 0
        self._flushing: Stream | None = None
        self._writing_since: float | None = None
        self._links = 0

    async def link(self, target: Link, *, timeout_s: float) -> int:
        """Connect to a session at a peer; returns how many positions it has.

        Nothing is sent before `flush` or the next `send`.

        Raises:
            Unavailable, Busy: not reachable. TimedOut: no answer. Conflict: superseded by another
            link. Other AitorrentErrors: the peer refused.
        """
        self.unlink("linked to another peer")
        self._links += 1
        mine = self._links
        stream: Stream | None = None
        try:
            async with asyncio.timeout(timeout_s):
                stream = await self._transport.open_stream(
                    target.peer,
                    PROTOCOL,
                    timeout_s=timeout_s,
                    priority=Priority.TENSOR,
                    addresses=target.addresses,
                )
                await stream.write(encode_frame({"op": "hop", "session": target.session}))
                header = (await read_frame(stream, max_bytes=MAX_CONTROL_BYTES)).header
            if "error" in header:
                raise error_from_map(header["error"])
            have = parse_have(header)
            self.journal.check(have)
            if mine != self._links:
                raise Conflict("the hop was linked again meanwhile")
        except TimeoutError:
            if stream is not None:
                stream.reset("no answer to hop")
            raise TimedOut(f"no answer to a hop within {timeout_s:g} s") from None
        except BaseException:
            if stream is not None:
                stream.reset("hop failed")
            raise
        self._stream, self._cursor, self.have = stream, 0, have
        self._tasks.spawn(self._watch(stream), "shards-hop")
        return have

    async def _watch(self, stream: Stream) -> None:
        """Detect the end of a link, even while idle, and a write that makes no progress; a deadline
        for each write would cost a timer per token."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(STUCK_CHECK_S):
                    await stream.read(1)
                reason = "the receiver closed it"  # it sends nothing after its answer
            except PeerGone as e:
                reason = e.message
            except TimeoutError:
                since = self._writing_since
                if since is None or loop.time() - since < STUCK_WRITE_S:
                    continue
                reason = "a write timed out"
            self._broke(stream, reason)
            return

    def _broke(self, stream: Stream, reason: str) -> None:
        if stream is self._stream:
            self._stream = None
            stream.reset("hop failed")
            self._on_broken(reason)

    def unlink(self, reason: str) -> None:
        """Disconnect from the receiver; messages are kept."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.reset(reason)

    def send(self, message: HopMessage) -> None:
        """Append a message, and write it if the hop is linked; a broken link is not an error.

        It is written at once, or in the background when others are queued or the window is full.

        Raises:
            TooLarge: more than was admitted for the session.
        """
        self.journal.append(message)
        stream, messages = self._stream, self.journal.messages
        if stream is None:
            return
        if messages[0] is message:
            self._cursor = 0
        if self._flushing is stream:
            return  # the running writer will get to it
        try:
            if (
                self._cursor == len(messages) - 1
                and message.end > self.have
                and stream.write_now(frame_head(message.header, len(message.tail)), message.tail)
            ):
                self._cursor += 1
                self.have = message.end
                return
        except AitorrentError as e:
            self._broke(stream, e.message)
            return
        self._tasks.spawn(self.flush(), "shards-flush")

    async def flush(self) -> None:
        """Write what the receiver does not have yet; returns at once if a write is in progress."""
        stream = self._stream
        if stream is None or self._flushing is stream:
            return
        self._flushing = stream
        loop = asyncio.get_running_loop()
        try:
            while stream is self._stream and self._cursor < len(self.journal.messages):
                message = self.journal.messages[self._cursor]
                self._cursor += 1
                if message.end > self.have:
                    self._writing_since = loop.time()
                    await _write(stream, message)
                    self.have = max(self.have, message.end)
        except AitorrentError as e:
            self._broke(stream, e.message)
        finally:
            if self._flushing is stream:
                self._flushing = self._writing_since = None


async def _write(stream: Stream, message: HopMessage) -> None:
    head = frame_head(message.header, len(message.tail))
    if len(message.tail) < JOIN_BELOW:
        await stream.write(b"".join((head, message.tail)))
    else:
        await stream.write(head)
        await stream.write(message.tail)
