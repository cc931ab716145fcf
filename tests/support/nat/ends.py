"""Ends of punching sessions in network namespaces, all in this process.

A thread that has entered a namespace runs an event loop, so that every socket it makes lives on a
host of the lab:

    with End(host) as end:
        end.run(punch())
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from aitorrent_nat.punch.mirror import Mirror

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000


class End:
    """An event loop on a host of a lab."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=f"end in {namespace}")
        self._stopping = asyncio.Event()
        self._entered: concurrent.futures.Future[None] = concurrent.futures.Future()

    def __enter__(self) -> End:
        self._thread.start()
        self._entered.result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self.loop.close()

    def _serve(self) -> None:
        try:
            fd = os.open(Path("/run/netns") / self._namespace, os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(fd)
        except OSError as e:
            self._entered.set_exception(e)
            return
        self._entered.set_result(None)
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._stopping.wait())

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `work` on the host."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 60.0) -> T:
        """The result of `work` on the host."""
        return self.start(work).result(timeout_s)


@asynccontextmanager
async def mirror_server(
    mirror: Mirror, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[tuple[str, int]]:
    """A TCP port that serves the mirror, as the peer port does; yields its address."""

    class Front(asyncio.Protocol):
        """Hands over to the mirror once it knows the remote end."""

        def connection_made(self, transport: Any) -> None:
            self._inner = mirror.serve(transport.get_extra_info("peername")[:2], lambda: None)
            self._inner.connection_made(transport)

        def data_received(self, data: bytes) -> None:
            self._inner.data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self._inner.connection_lost(exc)

    server = await asyncio.get_running_loop().create_server(Front, host, port)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
