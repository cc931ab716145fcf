"""Signs of life: only while the loop keeps up and the control socket answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aitorrentd.api.plugin import Method
from aitorrentd.control.server import ControlServer
from aitorrentd.daemon.watchdog import Watchdog
from aitorrentd.errors import MethodNotFound
from aitorrentd.runtime.loop_lag import LoopLag
from aitorrentd.system.systemd import Notifier
from tests.support.nodes import Notify, short_dir, wait_for

LOG = logging.getLogger("aitorrentd.test_watchdog")


class Pings:
    def method(self, name: str) -> tuple[str, Method]:
        if name != "rpc.ping":
            raise MethodNotFound(name)
        return "core", Method(name, lambda call, params: {"pong": True}, "Answer.")


@pytest.fixture
async def directory() -> AsyncIterator[Path]:
    made = short_dir()
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def manager(directory: Path) -> AsyncIterator[Notify]:
    notify = Notify(directory / "notify")
    yield notify
    notify.close()


def watchdog(manager: Notify, lag: LoopLag, socket: Path | None) -> Watchdog:
    notifier = Notifier({"NOTIFY_SOCKET": str(manager.path)})
    return Watchdog(notifier, lag, interval_s=0.1, socket=socket, log=LOG)


async def test_pings_come_twice_per_interval(manager: Notify) -> None:
    task = asyncio.create_task(watchdog(manager, LoopLag(LOG), None).run())
    await wait_for(lambda: manager.count("WATCHDOG=1") >= 4, 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_late_loop_is_no_sign_of_life_until_it_has_caught_up(
    manager: Notify, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    lag = LoopLag(LOG, monotonic=lambda: now)
    dog = watchdog(manager, lag, None)
    lag.record(6.0)
    assert not await dog.is_well()
    assert "withholding the watchdog ping: the event loop was late by 6.0 s" in caplog.text
    now += 1
    assert await dog.is_well()


async def test_no_ping_goes_out_while_the_daemon_is_not_well(manager: Notify) -> None:
    class Told(Watchdog):
        asked, well = 0, False

        async def is_well(self) -> bool:
            self.asked += 1
            return self.well

    notifier = Notifier({"NOTIFY_SOCKET": str(manager.path)})
    dog = Told(notifier, LoopLag(LOG), interval_s=0.1, socket=None, log=LOG)
    task = asyncio.create_task(dog.run())
    await wait_for(lambda: dog.asked >= 3, 5)
    assert manager.count("WATCHDOG=1") == 0
    dog.well = True
    await wait_for(lambda: manager.count("WATCHDOG=1") >= 1, 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_control_socket_must_answer(manager: Notify, directory: Path) -> None:
    path = directory / "control.sock"
    dog = watchdog(manager, LoopLag(LOG), path)
    assert not await dog.is_well(), "nobody listens"
    server = ControlServer(Pings(), agent="test")
    await server.listen(path)
    assert await dog.is_well()
    assert await dog.is_well(), "over the connection that is open already"
    await server.close(grace_s=0)
    assert not await dog.is_well(), "the server is gone"
    await dog.close()


async def test_full_control_server_is_alive(manager: Notify, directory: Path) -> None:
    path = directory / "control.sock"
    server = ControlServer(Pings(), agent="test", max_connections=1)
    await server.listen(path)
    first = watchdog(manager, LoopLag(LOG), path)
    assert await first.is_well()
    second = watchdog(manager, LoopLag(LOG), path)
    assert await second.is_well(), "it was told that the server is full"
    await first.close()
    await second.close()
    await server.close(grace_s=0)
