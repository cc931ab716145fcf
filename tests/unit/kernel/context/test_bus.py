"""Events reach those who asked for them, and a slow reader costs bounded memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from aitorrentd.api import InvalidParams
from aitorrentd.api.events import Event, Lagged, PluginChanged
from aitorrentd.kernel.context.bus import EventBus


@dataclass(frozen=True, slots=True)
class Tick(Event):
    topic = "tick"
    n: int


async def rest(events: Any) -> list[Event]:
    return [event async for event in events]


async def test_subscriber_gets_only_its_kinds_in_order() -> None:
    bus = EventBus()
    with bus.subscribe(Tick) as ticks, bus.subscribe(Event) as everything:
        bus.publish(Tick(1))
        bus.publish(PluginChanged("a", "running"))
        bus.publish(Tick(2))
        assert [await anext(ticks), await anext(ticks)] == [Tick(1), Tick(2)]
        assert [await anext(everything) for _ in range(3)] == [
            Tick(1),
            PluginChanged("a", "running"),
            Tick(2),
        ]


async def test_slow_reader_gets_what_fitted_then_one_lagged_and_the_end() -> None:
    bus = EventBus()
    with bus.subscribe(Tick, max_queued=2) as events:
        for n in range(5):
            bus.publish(Tick(n))
        assert bus.statistics() == {
            "subscriptions": 1,
            "queued": 2,
            "dropped": 3,
            "published": 5,
        }
        assert await rest(events) == [Tick(0), Tick(1), Lagged(3)]
        bus.publish(Tick(9))
        assert await rest(events) == []


async def test_reader_that_waits_is_woken() -> None:
    bus = EventBus()
    with bus.subscribe(Tick) as events:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        bus.publish(Tick(7))
        assert await waiting == Tick(7)


async def test_end_of_the_block_ends_a_waiting_reader_and_forgets_it() -> None:
    bus = EventBus()
    with bus.subscribe(Tick) as events:
        waiting = asyncio.ensure_future(rest(events))
        await asyncio.sleep(0)
    assert await waiting == []
    assert bus.statistics()["subscriptions"] == 0


async def test_what_is_no_event_is_refused() -> None:
    bus = EventBus()
    with pytest.raises(InvalidParams, match="only events can be published, not dict"):
        bus.publish({})  # type: ignore[arg-type]
    with pytest.raises(InvalidParams, match="one or more event classes"), bus.subscribe():
        pass
    with (
        pytest.raises(InvalidParams, match="max_queued is 0; it must be 1 to 65,536"),
        bus.subscribe(Tick, max_queued=0),
    ):
        pass
