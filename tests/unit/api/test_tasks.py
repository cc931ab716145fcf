"""Background tasks with an owner."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aitorrentd.api.network.datagrams import open_datagrams
from aitorrentd.api.tasks import Tasks, beside, uninterrupted
from aitorrentd.kernel.run import PluginTasks
from tests.support.nodes import Leaks

LOG = logging.getLogger("test.tasks")


async def fail() -> None:
    raise ZeroDivisionError("a bug")


async def test_error_in_a_group_fails_the_group() -> None:
    with pytest.raises(ExceptionGroup) as failed:
        async with asyncio.TaskGroup() as group:
            tasks = Tasks(group)
            other = tasks.spawn(asyncio.Event().wait(), "other")
            tasks.spawn(fail(), "broken")
    assert failed.group_contains(ZeroDivisionError, match="a bug")
    assert other.cancelled()


async def test_tasks_of_a_plugin_are_in_its_group_from_the_first_on() -> None:
    async with PluginTasks("weather") as group:
        task = Tasks(group).spawn(asyncio.sleep(0), "forecast")
        assert len(group) == 1
        assert task.get_name() == "weather:forecast"


async def test_error_with_a_logger_is_logged_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = Tasks(LOG)
    goes_on = asyncio.Event()
    other = tasks.spawn(goes_on.wait(), "other")
    await asyncio.wait({tasks.spawn(fail(), "broken")})
    assert [r.getMessage() for r in caplog.records] == ["task broken failed"]
    assert "ZeroDivisionError: a bug" in caplog.text
    caplog.clear()
    assert len(tasks) == 1
    goes_on.set()
    assert await other
    assert len(tasks) == 0


@pytest.mark.parametrize("in_group", [True, False])
async def test_closing_ends_every_task_and_those_spawned_later(in_group: bool) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = Tasks(group if in_group else LOG)
        ended = []

        async def run() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        first = tasks.spawn(run(), "first")
        await asyncio.sleep(0)
        await tasks.close()
        assert (first.cancelled(), ended) == (True, [True])
        late = tasks.spawn(run(), "late")
        await asyncio.wait({late})
        assert late.cancelled()
        assert len(tasks) == 0


async def test_closing_does_not_wait_for_a_task_that_refuses_to_end() -> None:
    tasks = Tasks(LOG)
    may_end = asyncio.Event()

    async def stubborn() -> None:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    task = tasks.spawn(stubborn(), "stubborn")
    await asyncio.sleep(0)
    await tasks.close(timeout_s=0.01)
    assert not task.done()
    may_end.set()
    await task


async def test_what_runs_beside_a_block_has_ended_after_it() -> None:
    async with beside(asyncio.Event().wait(), "waits") as task:
        assert not task.done()
    assert task.cancelled()
    async with beside(fail(), "fails") as failed:
        await asyncio.wait({failed})
    with pytest.raises(ZeroDivisionError, match="a bug"):
        failed.result()


async def test_work_that_is_not_interrupted_is_undone_before_the_cancellation_goes_on() -> None:
    undone: list[str] = []
    may_end = asyncio.Event()

    async def make() -> str:
        await may_end.wait()
        return "made"

    cancelled = asyncio.create_task(uninterrupted(make(), undone.append))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.sleep(0)
    assert not cancelled.done()
    may_end.set()
    await asyncio.wait({cancelled})
    assert (cancelled.cancelled(), undone) == (True, ["made"])
    assert await uninterrupted(make(), undone.append) == "made"
    assert undone == ["made"]
    with pytest.raises(ZeroDivisionError):
        await uninterrupted(fail(), lambda made: None)


@pytest.mark.parametrize("turns", range(4))
async def test_a_socket_whose_opening_is_cancelled_is_closed(turns: int) -> None:
    leaks = Leaks()
    opening = asyncio.create_task(open_datagrams(asyncio.DatagramProtocol, local=("127.0.0.1", 0)))
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait({opening})
    if not opening.cancelled():
        opening.result()[0].close()
    await leaks.check()
