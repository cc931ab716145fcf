"""Control servers for tests: methods by name, on a loop in a separate thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from aitorrentd.api.plugin import Method
from aitorrentd.control import framing
from aitorrentd.control.server import ControlServer
from aitorrentd.errors import MethodNotFound

T = TypeVar("T")


class Methods:
    """A source of methods, like the kernel."""

    def __init__(self, *methods: Method) -> None:
        self.by_name = {m.name: m for m in methods}

    def add(self, method: Method) -> None:
        self.by_name[method.name] = method

    def method(self, name: str) -> tuple[str, Method]:
        if name not in self.by_name:
            raise MethodNotFound(f"no method {name}")
        return name.partition(".")[0], self.by_name[name]


class ServerThread:
    """A control server in a thread, for blocking clients; stops with its `with` block."""

    def __init__(self, path: Path, *methods: Method, **options: Any) -> None:
        self.path = path
        self.source = Methods(*methods)
        self.options = {"agent": "aitorrentd/0.1.0"} | options
        self.server: ControlServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="control-server")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_ready.wait(10)
        if self._failure is not None:
            self._thread.join(10)
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the server's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(20)

    def statistics(self) -> dict[str, int]:
        assert self.server is not None
        return self.server.statistics()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as e:
            self._failure = e
            self._is_ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.server = ControlServer(self.source, **self.options)
        await self.server.listen(self.path)
        self._is_ready.set()
        await self._stop.wait()
        await self.server.close(grace_s=0.2)


async def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait until `condition()` holds, or fail."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.005)


async def settled(count: Callable[[], int], still_s: float = 0.05) -> int:
    """The value of `count()` once it has been stable for `still_s`."""
    before, now = -1, count()
    while before != now:
        await asyncio.sleep(still_s)
        before, now = now, count()
    return now


async def within(awaitable: Awaitable[T], timeout_s: float = 5.0) -> T:
    """The awaited value, or a failure after `timeout_s`."""
    return await asyncio.wait_for(awaitable, timeout_s)


class RawPeer:
    """A client that writes arbitrary bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path, *, greet: bool = True) -> Self:
        peer = cls(*await asyncio.open_unix_connection(str(path)))
        if greet:
            peer.send(framing.HELLO, {"proto": [1, 1], "client": "test"})
            assert (await peer.receive())[0] == framing.HELLO
        return peer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def send(self, *fields: Any) -> None:
        self.writer.write(framing.encode(*fields))

    def send_bytes(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def receive(self, timeout_s: float = 5.0) -> list[Any]:
        async with asyncio.timeout(timeout_s):
            head = await self._reader.readexactly(4)
            return framing.decode(await self._reader.readexactly(int.from_bytes(head, "big")))

    async def until_closed(self, timeout_s: float = 5.0) -> list[list[Any]]:
        """Everything received until the server closes the connection."""
        found = []
        try:
            while True:
                found.append(await self.receive(timeout_s))
        except (asyncio.IncompleteReadError, ConnectionError):
            return found

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):  # the server may have closed it first
            await self.writer.wait_closed()
