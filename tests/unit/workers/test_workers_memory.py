"""What workers say of their memory, and what counts while they do not."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import Frame, Unavailable
from aitorrentd.workers.process import WorkerProcess
from aitorrentd.workers.running import PATIENCE_S, Workers
from tests.support.nodes import wait_for


class Silent:
    """A worker that answers when the test lets it."""

    pid = 7

    def __init__(self) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.asked = 0
        self.told: Any = 1000
        self.free = asyncio.Event()

    async def request(self, header: Any, tail: Any = b"", *, timeout_s: float = 60.0) -> Frame:
        self.asked += 1
        await self.free.wait()
        if self.closed.done():
            raise Unavailable("gone")
        return Frame({"rss_bytes": self.told})


async def silent(entry: str, **options: Any) -> Any:
    return Silent()


async def test_busy_worker_counts_with_what_it_said_and_is_asked_once() -> None:
    workers = Workers(silent, look_s=0.02)
    worker: Any = await workers.spawn("m:f", name="one")
    for _ in range(3):
        (seen,) = await workers.look()
        assert (seen.name, seen.pid, seen.rss_bytes) == ("one", 7, None)
    assert worker.asked == 1
    worker.free.set()
    (seen,) = await workers.look()
    assert seen.rss_bytes == 1000
    worker.free.clear()
    (seen,) = await workers.look()
    assert (seen.rss_bytes, worker.asked) == (1000, 2)
    worker.told = "much"  # strangers' code may say anything
    worker.free.set()
    (seen,) = await workers.look()
    assert seen.rss_bytes is None
    worker.closed.set_result("over")
    await asyncio.sleep(0)
    assert await workers.look() == []


async def test_worker_processes_tell_their_memory_while_and_after_they_work() -> None:
    workers = Workers()
    worker: Any = await workers.spawn("tests.support.workers:echo", name="echo")
    assert isinstance(worker, WorkerProcess)

    async def told() -> int:
        (seen,) = await workers.look()
        return seen.rss_bytes or 0

    found: int = await wait_for(told)
    pages = Path(f"/proc/{worker.pid}/statm").read_text(encoding="ascii").split()[1]
    assert abs(found - int(pages) * 4096) < 2**20
    assert (await worker.request({"op": "echo", "say": 1})).header["said"] == 1
    await worker.close()
    assert await workers.look() == []


async def test_look_does_not_keep_a_hung_worker_alive() -> None:
    assert PATIENCE_S <= 300
    workers = Workers(patience_s=0.3)
    worker: Any = await workers.spawn("tests.support.workers:echo", name="echo")
    await worker.request({"op": "echo"})
    os.kill(worker.pid, signal.SIGSTOP)
    await workers.look()
    with pytest.raises(Unavailable, match=r"worker echo is gone: it did not answer within 0\.3 s"):
        await asyncio.wait_for(worker.request({"op": "echo"}, timeout_s=3600), 20)
    await worker.close()
