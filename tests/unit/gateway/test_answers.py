"""Answers that are made ahead of their readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from aitorrent_gateway.core.answers import REST_S, ahead

pytestmark = pytest.mark.jump_clock


async def numbers(count: int, pause_s: float) -> AsyncGenerator[int]:
    for n in range(count):
        if n:
            await asyncio.sleep(pause_s)
        yield n


async def batches(pause_s: float) -> list[tuple[float, list[int]]]:
    """Each batch of a hundred numbers, and when it came."""
    loop = asyncio.get_running_loop()
    began, found = loop.time(), list[tuple[float, list[int]]]()
    async with ahead(numbers(100, pause_s)) as pieces:
        while not found or found[-1][1][-1] < 99:
            batch = await pieces.batch()
            found.append((loop.time() - began, batch))
    assert [n for _, batch in found for n in batch] == [*range(100)]
    return found


async def test_fast_stream_comes_in_larger_pieces_its_first_one_at_once() -> None:
    found = await batches(REST_S / 10)
    assert found[0] == (0, [0])
    assert len(found) < 20
    assert found[-1][0] < 100 * REST_S / 10  # nor does the end wait


async def test_pieces_of_a_slow_stream_are_not_delayed() -> None:
    found = await batches(REST_S * 2)
    assert [batch for _, batch in found] == [[n] for n in range(100)]
    assert [at for at, _ in found] == pytest.approx([n * REST_S * 2 for n in range(100)])


async def test_stream_that_turns_slow_is_not_delayed_for_long() -> None:
    loop = asyncio.get_running_loop()
    made: list[float] = []

    async def both() -> AsyncGenerator[int]:
        for n in range(150):
            await asyncio.sleep(REST_S / 10 if n < 100 else REST_S * 2)
            made.append(loop.time())
            yield n

    late = list[float]()
    async with ahead(both()) as pieces:
        while len(late) < 150:
            batch = await pieces.batch()
            late += [loop.time() - made[len(late) + i] for i in range(len(batch))]
    assert max(late) <= REST_S * 2
    assert late[-40:] == pytest.approx([0] * 40)
