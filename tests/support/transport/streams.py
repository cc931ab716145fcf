"""Two ends of an in-memory peer stream with a window, as specified by `aitorrentd.api.Stream`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aitorrentd.api import Frame, PeerGone, PeerId, TooLarge, check_length, decode_frame

CLIENT = PeerId("12D3KooWCLIENT")
SERVER = PeerId("12D3KooWSERVER")


class _Pipe:
    """One direction: holds at most `window` bytes."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.buffer = bytearray()
        self.ended = False
        self.changed = asyncio.Condition()
        self.on_change: Callable[[], None] | None = None

    async def tell(self) -> None:
        if self.on_change is not None:
            self.on_change()
        async with self.changed:
            self.changed.notify_all()


class MemoryStream:
    """One end of an in-memory stream."""

    def __init__(self, peer: PeerId, protocol: str, inbound: _Pipe, outbound: _Pipe) -> None:
        self._peer = peer
        self._protocol = protocol
        self._in = inbound
        self._out = outbound
        self.other: MemoryStream
        self.reset_reason: str | None = None
        self.closed = False
        self._telling: set[asyncio.Task[None]] = set()
        self._frame = bytearray()

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def protocol(self) -> str:
        return self._protocol

    def _check(self) -> None:
        if self.reset_reason is not None:
            raise PeerGone(f"the stream was reset: {self.reset_reason}")

    async def write(self, data: bytes | memoryview) -> None:
        self._check()
        if self._out.ended:
            raise PeerGone("the stream is closed for writing")
        view = memoryview(data)
        while len(view):
            async with self._out.changed:
                await self._out.changed.wait_for(
                    lambda: (
                        len(self._out.buffer) < self._out.window or self.reset_reason is not None
                    )
                )
            self._check()
            room = self._out.window - len(self._out.buffer)
            self._out.buffer += view[:room]
            view = view[room:]
            await self._out.tell()

    async def _more(self, have: int) -> bool:
        async with self._in.changed:
            await self._in.changed.wait_for(
                lambda: (
                    len(self._in.buffer) > have or self._in.ended or self.reset_reason is not None
                )
            )
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
        self._check()
        if self._in.buffer:
            self._frame += self._in.buffer
            self._in.buffer.clear()
            self._tell(self._in)
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
        assert self._in.on_change is None, "two readers"

        def changed() -> None:
            if self._in.buffer or self._in.ended or self.reset_reason is not None:
                self._in.on_change = None
                wake()

        self._in.on_change = changed

    def write_now(self, *parts: bytes | memoryview) -> bool:
        self._check()
        if self._out.ended:
            raise PeerGone("the stream is closed for writing")
        if len(self._out.buffer) + sum(map(len, parts)) > self._out.window:
            return False
        for part in parts:
            self._out.buffer += part
        self._tell(self._out)
        return True

    def _tell(self, pipe: _Pipe) -> None:
        task = asyncio.get_running_loop().create_task(pipe.tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def close_write(self) -> None:
        self._check()
        self._out.ended = True
        await self._out.tell()

    async def close(self) -> None:
        self.closed = True
        if self.reset_reason is None:
            self._out.ended = True
            await self._out.tell()

    def reset(self, reason: str = "") -> None:
        if self.reset_reason is not None:
            return
        for end in (self, self.other):
            end.reset_reason = reason or "no reason"
        for pipe in (self._in, self._out):
            self._tell(pipe)


def stream_pair(
    protocol: str = "/test/1",
    *,
    window: int = 65_536,
    client: PeerId = CLIENT,
    server: PeerId = SERVER,
) -> tuple[MemoryStream, MemoryStream]:
    """(the client's end, the server's end); each direction holds at most `window` bytes."""
    there, back = _Pipe(window), _Pipe(window)
    ours = MemoryStream(server, protocol, back, there)
    theirs = MemoryStream(client, protocol, there, back)
    ours.other, theirs.other = theirs, ours
    return ours, theirs
