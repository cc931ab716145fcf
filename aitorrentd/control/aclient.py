"""An asyncio client of the control API: calls may overlap and are sent without waiting.

async with await AsyncClient.connect(path) as client:
    status = await client.call("node.status")
    async for event in client.stream("node.events"):
        ...
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, cast

from aitorrentd import __version__
from aitorrentd.control import framing
from aitorrentd.control.answers import (
    GRACE_S,
    NOT_READY,
    LostDaemon,
    OnProgress,
    as_map,
    unreachable,
)
from aitorrentd.errors import (
    AitorrentError,
    InvalidParams,
    ProtocolError,
    TimedOut,
    TooLarge,
    VersionMismatch,
    error_from_map,
)


class _Wire(asyncio.Protocol):
    """Frames in and out; delivers each message to the waiter for its id."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.hello: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.waiting: dict[int, _Waiter] = {}
        self.error: AitorrentError | None = None
        self._splitter = framing.FrameSplitter(framing.MAX_FRAME_BYTES)
        self._can_write = asyncio.Event()
        self._can_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            whole = None
            if self._splitter.is_empty:
                whole = framing.whole_frame(data, framing.MAX_FRAME_BYTES)
            if whole is not None:
                self._take(framing.decode(whole))
                return
            self._splitter.feed(data)
            while (body := self._splitter.take()) is not None:
                self._take(framing.decode(body))
        except (ProtocolError, TooLarge) as e:
            self.end(e)

    def connection_lost(self, exc: Exception | None) -> None:
        is_ready = self.hello.done()
        self.end(LostDaemon("the daemon closed the connection" if is_ready else NOT_READY))
        self._can_write.set()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    async def send(self, frame: bytes) -> None:
        await self._can_write.wait()
        if self.error is not None or self.transport is None:
            raise self.error or LostDaemon("not connected")
        self.transport.write(frame)

    def send_now(self, frame: bytes) -> None:
        if self.error is None and self.transport is not None:
            self.transport.write(frame)

    def end(self, error: AitorrentError) -> None:
        """Close the connection; every waiter gets `error`."""
        if self.error is None:
            self.error = error
        if not self.hello.done():
            self.hello.set_exception(self.error)
            self.hello.exception()  # `send` may have told the caller already
        waiting, self.waiting = self.waiting, {}
        for waiter in waiting.values():
            waiter.fail(self.error)
        if self.transport is not None:
            self.transport.close()

    def _take(self, message: list[Any]) -> None:
        kind = message[0]
        if kind == framing.HELLO:
            hello = message[1] if len(message) > 1 else None
            if framing.common_proto(hello) is None:
                self.end(VersionMismatch("the daemon speaks another protocol version"))
            elif not self.hello.done():
                self.hello.set_result(hello if isinstance(hello, dict) else {})
        elif framing.is_answer(message):
            if message[1] == 0 and kind == framing.ERROR:
                self.end(error_from_map(message[2]))
                return
            waiter = self.waiting.get(message[1])
            if waiter is not None:
                waiter.take(message)


class _Waiter:
    """Messages for one call; bounded by the credit of a stream."""

    def __init__(self) -> None:
        self._messages: deque[list[Any]] = deque()
        self._error: AitorrentError | None = None
        self._arrived = asyncio.Event()

    def take(self, message: list[Any]) -> None:
        self._messages.append(message)
        self._arrived.set()

    def fail(self, error: AitorrentError) -> None:
        self._error = error
        self._arrived.set()

    async def next(self, timeout: float | None) -> list[Any]:
        while not self._messages:
            if self._error is not None:
                raise self._error
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
            except TimeoutError:
                raise TimedOut("the daemon did not answer in time") from None
        return self._messages.popleft()


class AsyncClient:
    """A connection to a daemon; created by `connect`."""

    def __init__(self, wire: _Wire, hello: Mapping[str, Any], timeout: float | None) -> None:
        self.hello = hello
        "The daemon's hello."
        self.timeout = timeout
        self._wire = wire
        self._next_id = 0

    @classmethod
    async def connect(
        cls,
        path: str | os.PathLike[str],
        timeout: float | None = 30.0,
        *,
        agent: str = f"aitorrentd-client/{__version__}",
    ) -> Self:
        """Connect and exchange hellos.

        `timeout` in seconds applies to the hello, and to each call unless the call overrides it.

        Raises:
            NoDaemon, NoAccess: cannot connect. VersionMismatch, Busy, TimedOut: no usable hello.
        """
        loop = asyncio.get_running_loop()
        name = os.fspath(path)
        try:
            async with asyncio.timeout(timeout):
                _, wire = await loop.create_unix_connection(_Wire, name)
        except OSError as e:  # TimeoutError is an OSError
            raise unreachable(name, e) from None
        try:
            offer = {"proto": list(framing.PROTO), "client": agent, "features": []}
            await wire.send(framing.encode(framing.HELLO, offer))
            async with asyncio.timeout(timeout):
                hello = await wire.hello
        except TimeoutError:
            wire.end(TimedOut("no hello"))
            raise TimedOut(
                f"{name} did not answer with a hello; is it a control socket of aitorrentd?"
            ) from None
        return cls(wire, hello, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def is_closed(self) -> bool:
        """Whether the connection ended, by whomever."""
        return self._wire.error is not None

    async def close(self) -> None:
        """Close the connection; the daemon cancels what is still open."""
        self._wire.end(LostDaemon("this client was closed"))
        await self._wire.closed

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        progress: OnProgress | None = None,
    ) -> dict[str, Any]:
        """Call a method and wait for its result; cancelling the task cancels the call.

        Raises:
            AitorrentError: the daemon's error, as its class. TimedOut: none in time.
        """
        timeout = self.timeout if timeout is None else timeout
        meta = {} if timeout is None else {"deadline_s": min(timeout, framing.MAX_DEADLINE_S)}
        patience = None if timeout is None else timeout + GRACE_S
        ident, waiter = self._open()
        try:
            await self._wire.send(framing.encode(framing.CALL, ident, method, params or {}, meta))
            while True:
                message = await waiter.next(patience)
                kind = message[0]
                if kind == framing.RESULT:
                    return as_map(message[2])
                if kind == framing.ERROR:
                    raise error_from_map(message[2])
                if kind == framing.PROGRESS and progress is not None:
                    progress(as_map(message[2]))
                elif kind in (framing.ITEM, framing.END):
                    self._wire.send_now(framing.encode(framing.CANCEL, ident))
                    raise InvalidParams(f"{method} answers with a stream")
        except (asyncio.CancelledError, TimedOut):
            self._wire.send_now(framing.encode(framing.CANCEL, ident))
            raise
        finally:
            self._wire.waiting.pop(ident, None)

    async def stream(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        credit: int = framing.DEFAULT_CREDIT,
        timeout: float | None = None,
        progress: OnProgress | None = None,
        summary: dict[str, Any] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """The items of a streaming method.

        The daemon sends at most `credit` items ahead of the reader. `timeout` in seconds is the
        longest silence allowed. The stream's summary is stored in `summary`.
        """
        ident, waiter = self._open()
        taken, is_over = 0, False
        try:
            meta = {"credit": credit}
            await self._wire.send(framing.encode(framing.CALL, ident, method, params or {}, meta))
            while True:
                message = await waiter.next(timeout)
                kind = message[0]
                if kind == framing.ITEM and len(message) > 3:
                    taken += 1
                    if taken >= max(1, credit // 2):
                        await self._wire.send(framing.encode(framing.CREDIT, ident, taken))
                        taken = 0
                    yield as_map(message[3])
                elif kind == framing.PROGRESS and progress is not None:
                    progress(as_map(message[2]))
                elif kind == framing.END:
                    is_over = True
                    if summary is not None:
                        summary.update(as_map(message[2]))
                    return
                elif kind == framing.ERROR:
                    is_over = True
                    raise error_from_map(message[2])
                elif kind == framing.RESULT:
                    is_over = True
                    raise InvalidParams(f"{method} answers once, not with a stream")
        finally:
            self._wire.waiting.pop(ident, None)
            if not is_over:
                self._wire.send_now(framing.encode(framing.CANCEL, ident))

    def _open(self) -> tuple[int, _Waiter]:
        if self._wire.error is not None:
            raise self._wire.error
        self._next_id = self._next_id % framing.MAX_ID + 1
        waiter = self._wire.waiting[self._next_id] = _Waiter()
        return self._next_id, waiter
