"""Two ends of an in-memory peer stream with a window, as specified by `aitorrentd.api.Stream`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aitorrentd.api import Frame, PeerGone, PeerId, TooLarge, check_length, decode_frame

CLIENT = PeerId("12D3KooWCLIENT")
SERVER = PeerId("12D3KooWSERVER")


def _awake() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


class _Pipe:
    """One direction: holds at most `window` bytes, those under way for `delay_s` included."""

    def __init__(self, window: int, delay_s: float) -> None:
        self.window = window
        self.delay_s = delay_s
        self.buffer = bytearray()
        self.under_way: deque[bytes | None] = deque()
        "None is the end."
        self.ending = self.ended = False
        self.changed = asyncio.Condition()
        self.on_change: Callable[[], None] | None = None

    @property
    def room(self) -> int:
        return self.window - len(self.buffer) - sum(len(part or b"") for part in self.under_way)

    def put(self, part: bytes | memoryview) -> bool:
        """Send some bytes, which fit; whether they have arrived."""
        return self._send(bytes(part))

    def end(self) -> bool:
        """Nothing follows; whether the other side knows."""
        self.ending = True
        return self._send(None)

    def _send(self, part: bytes | None) -> bool:
        self.under_way.append(part)
        if self.delay_s:
            asyncio.get_running_loop().call_later(self.delay_s, self._arrive)
        else:
            self._take_in()
        return not self.delay_s

    def _take_in(self) -> None:
        part = self.under_way.popleft()
        self.ended = part is None
        self.buffer += part or b""

    def _arrive(self) -> None:
        self._take_in()
        self.tell_soon()

    async def tell(self) -> None:
        if self.on_change is not None:
            self.on_change()
        async with self.changed:
            self.changed.notify_all()

    def tell_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self.tell())
        _telling.add(task)
        task.add_done_callback(_telling.discard)


_telling: set[asyncio.Task[None]] = set()


class MemoryStream:
    """One end of an in-memory stream. While `awake` is not set, its node hangs."""

    def __init__(
        self, peer: PeerId, protocol: str, inbound: _Pipe, outbound: _Pipe, awake: asyncio.Event
    ) -> None:
        self._peer = peer
        self._protocol = protocol
        self._in = inbound
        self._out = outbound
        self._awake = awake
        self.other: MemoryStream
        self.reset_reason: str | None = None
        self.closed = False
        self.on_written: Callable[[MemoryStream, bytes], None] | None = None
        "Called after each write with its bytes; it may reset the stream."
        self.is_swallowed: Callable[[MemoryStream, bytes], bool] | None = None
        "Whether the other node takes these bytes and forgets them."
        self._waking: set[asyncio.Task[None]] = set()
        self._frame = bytearray()

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def protocol(self) -> str:
        return self._protocol

    @property
    def is_over(self) -> bool:
        """Whether both ends closed it, or it was reset."""
        return self.reset_reason is not None or (self.closed and self.other.closed)

    def _check(self) -> None:
        if self.reset_reason is not None:
            raise PeerGone(f"the stream was reset: {self.reset_reason}")

    def _check_writable(self) -> None:
        self._check()
        if self._out.ending:
            raise PeerGone("the stream is closed for writing")

    async def write(self, data: bytes | memoryview) -> None:
        await self._awake.wait()
        self._check_writable()
        if self.is_swallowed is not None and self.is_swallowed(self, bytes(data)):
            return
        view = memoryview(data)
        while len(view):
            async with self._out.changed:
                await self._out.changed.wait_for(
                    lambda: self._out.room > 0 or self.reset_reason is not None
                )
            self._check()
            room = self._out.room
            if self._out.put(view[:room]):
                await self._out.tell()
            view = view[room:]
        self._written(bytes(data))

    async def _more(self, have: int) -> bool:
        async with self._in.changed:
            await self._in.changed.wait_for(
                lambda: (
                    len(self._in.buffer) > have or self._in.ended or self.reset_reason is not None
                )
            )
        await self._awake.wait()
        self._check()
        return len(self._in.buffer) > have

    async def _take(self, n: int) -> bytes:
        taken = bytes(self._in.buffer[:n])
        del self._in.buffer[:n]
        await self._in.tell()
        return taken

    async def read(self, max_bytes: int = 65_536) -> bytes:
        await self._more(0)
        return await self._take(max_bytes)

    async def read_exactly(self, n: int) -> bytes:
        out = bytearray()
        while len(out) < n:
            part = await self.read(n - len(out))
            if not part:
                raise PeerGone("the stream ended early")
            out += part
        return bytes(out)

    async def read_line(self, max_bytes: int = 65_536) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            if not await self._more(0):
                return bytes(line)
            newline = self._in.buffer.find(b"\n")
            line += await self._take(newline + 1 if newline >= 0 else len(self._in.buffer))
            if len(line) > max_bytes:
                raise TooLarge(f"a line of over {max_bytes} bytes")
        return bytes(line)

    def take_frame(self, *, max_bytes: int) -> Frame | None:
        if not self._awake.is_set():
            return None
        self._check()
        if self._in.buffer:
            self._frame += self._in.buffer
            self._in.buffer.clear()
            self._in.tell_soon()
        if len(self._frame) >= 4:
            end = 4 + int.from_bytes(self._frame[:4], "big")
            check_length(end - 4, max_bytes)
            if len(self._frame) >= end:
                body, self._in.buffer[:0] = bytes(self._frame[4:end]), self._frame[end:]
                self._frame.clear()
                return decode_frame(body)
        if self._in.ended:
            raise PeerGone("the stream ended early")
        return None

    def when_frame(self, wake: Callable[[], None]) -> None:
        if not self._awake.is_set():
            self._wake(wake)
            return
        assert self._in.on_change is None, "two readers"

        def changed() -> None:
            if self._in.buffer or self._in.ended or self.reset_reason is not None:
                self._in.on_change = None
                self._wake(wake)

        self._in.on_change = changed

    def _wake(self, wake: Callable[[], None]) -> None:
        if self._awake.is_set():
            wake()
            return

        async def later() -> None:
            await self._awake.wait()
            wake()

        task = asyncio.get_running_loop().create_task(later())
        self._waking.add(task)
        task.add_done_callback(self._waking.discard)

    def write_now(self, *parts: bytes | memoryview) -> bool:
        if not self._awake.is_set():
            return False
        self._check_writable()
        joined = b"".join(parts)
        if self.is_swallowed is not None and self.is_swallowed(self, joined):
            return True
        if len(joined) > self._out.room:
            return False
        if self._out.put(joined):
            self._out.tell_soon()
        self._written(joined)
        return True

    def _written(self, data: bytes) -> None:
        if self.on_written is not None:
            self.on_written(self, data)

    async def close_write(self) -> None:
        self._check()
        await self._end()

    async def _end(self) -> None:
        if not self._out.ending and self._out.end():
            await self._out.tell()

    async def close(self) -> None:
        self.closed = True
        if self.reset_reason is None:
            await self._end()

    def reset(self, reason: str = "") -> None:
        if self.reset_reason is not None:
            return
        for end in (self, self.other):
            end.reset_reason = reason or "no reason"
        for pipe in (self._in, self._out):
            pipe.tell_soon()


def stream_pair(
    protocol: str = "/test/1",
    *,
    window: int = 65_536,
    client: PeerId = CLIENT,
    server: PeerId = SERVER,
    delay_s: float = 0.0,
    awake: tuple[asyncio.Event, asyncio.Event] | None = None,
) -> tuple[MemoryStream, MemoryStream]:
    """(the client's end, the server's end).

    Each direction holds at most `window` bytes and takes `delay_s`. An end hangs while its event of
    `awake` is not set.
    """
    there, back = _Pipe(window, delay_s), _Pipe(window, delay_s)
    near, far = awake or (_awake(), _awake())
    ours = MemoryStream(server, protocol, back, there, near)
    theirs = MemoryStream(client, protocol, there, back, far)
    ours.other, theirs.other = theirs, ours
    return ours, theirs
