"""The clock that jumps, which other tests stand on."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.support.clocks import LoopClock
from tests.support.nodes import wait_for

pytestmark = pytest.mark.jump_clock


async def test_an_hour_takes_no_time_and_keeps_the_order() -> None:
    clock, began, told = LoopClock(), time.monotonic(), []

    async def tell(after_s: float) -> None:
        await asyncio.sleep(after_s)
        told.append((after_s, clock.monotonic()))

    async with asyncio.TaskGroup() as tasks:
        for after_s in (3600.0, 0.5, 60.0):
            tasks.create_task(tell(after_s))
    assert told == [(0.5, 0.5), (60.0, 60.0), (3600.0, 3600.0)]
    assert time.monotonic() - began < 60


async def test_time_stands_still_while_somebody_can_go_on() -> None:
    clock = LoopClock()
    timer = asyncio.create_task(asyncio.sleep(1))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert clock.monotonic() == 0
    await timer
    assert clock.monotonic() == 1


async def test_time_stands_still_while_a_thread_works() -> None:
    clock = LoopClock()
    async with asyncio.timeout(0.001):
        await asyncio.to_thread(time.sleep, 0.05)
    assert clock.monotonic() == 0


async def test_what_never_comes_true_ends_a_wait() -> None:
    with pytest.raises(AssertionError, match="not true within 100 s"):
        await wait_for(lambda: False, 100)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 1000)


async def test_what_the_clock_cannot_see_is_refused() -> None:
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    with here, there, pytest.raises(RuntimeError, match="no sockets"):
        loop.add_reader(here, lambda: None)
