"""Drain: what is counted, what is refused, and how long is waited."""

from __future__ import annotations

import asyncio

import pytest

from aitorrentd.errors import ShuttingDown
from aitorrentd.kernel.context.drain import Drain, Work, work_text


def test_work_is_counted_by_plugin_and_kind() -> None:
    drain = Drain()
    with drain.work("b", "session"), drain.work("a", "answer"), drain.work("a", "answer"):
        assert drain.under_way() == (Work("a", "answer", 2), Work("b", "session", 1))
        assert work_text(drain.under_way()) == "2 answers, 1 session"
    assert drain.under_way() == ()
    assert work_text(()) == "nothing"


def test_work_that_fails_is_not_counted_any_more() -> None:
    drain = Drain()
    with pytest.raises(ValueError, match="wrong"), drain.work("a", "answer"):
        raise ValueError("wrong")
    assert drain.under_way() == ()


def test_draining_refuses_new_work_and_leaves_the_old() -> None:
    drain = Drain()
    with drain.work("a", "answer"):
        drain.switch(True)
        with pytest.raises(ShuttingDown, match="draining and takes no new work"):
            drain.work("a", "answer").__enter__()
        assert drain.under_way() == (Work("a", "answer", 1),)
    drain.switch(False)
    with drain.work("a", "answer"):
        assert drain.under_way() == (Work("a", "answer", 1),)


async def test_wait_ends_with_the_last_piece_of_work() -> None:
    drain, heard = Drain(), []
    drain.switch(False)
    first, second = drain.work("a", "answer"), drain.work("a", "answer")
    first.__enter__()
    second.__enter__()
    drain.switch(True)
    waiting = asyncio.create_task(drain.ended(10.0, lambda works: heard.append(work_text(works))))
    await asyncio.sleep(0)
    first.__exit__(None, None, None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    second.__exit__(None, None, None)
    assert await waiting
    assert heard == ["2 answers", "1 answer", "nothing"]


async def test_wait_ends_after_its_time_with_what_is_left() -> None:
    drain = Drain()
    with drain.work("a", "answer"):
        drain.switch(True)
        assert not await drain.ended(0.01)
        assert drain.active


async def test_calling_a_drain_off_ends_the_wait() -> None:
    drain = Drain()
    with drain.work("a", "answer"):
        drain.switch(True)
        waiting = asyncio.create_task(drain.ended(10.0))
        await asyncio.sleep(0)
        drain.switch(False)
        assert not await waiting
