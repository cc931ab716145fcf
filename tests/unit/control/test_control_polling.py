"""Busy polling pays where answers come at once, and costs nothing where they do not."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from aitorrentd.api.plugin import CallContext, Method, NoParams
from aitorrentd.control.aclient import AsyncClient
from aitorrentd.control.client import Client
from aitorrentd.control.polling import QUICK_S, SPIN_S, Eagerness, Polling, WakefulLoop
from aitorrentd.control.server import ControlServer
from aitorrentd.errors import TimedOut
from tests.support.control_server import Methods, ServerThread, eventually

LOOPS = pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
LONG_S = 20.0
"Longer than any wait of these tests, whatever else the machine does."
ALL_IS_QUICK = Polling(spin_s=LONG_S, quick_s=LONG_S, processors=2)


def ping(call: CallContext, params: NoParams) -> dict[str, Any]:
    return {"pong": True}


async def later(call: CallContext, params: NoParams) -> dict[str, Any]:
    return {"pong": True}


async def forever(call: CallContext, params: NoParams) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def count(call: CallContext, params: NoParams) -> AsyncIterator[Any]:
    for n in itertools.count():
        yield {"n": n}


METHODS = (
    Method("a.ping", ping, "Ping."),
    Method("a.later", later, "Ping in a task."),
    Method("a.forever", forever, "Wait."),
    Method("a.count", count, "Count.", stream=True),
)


def eager() -> Eagerness:
    eagerness = Eagerness()
    for _ in range(4):
        eagerness.note(QUICK_S)
    assert eagerness.is_high
    return eagerness


def test_nobody_is_eager_before_four_short_waits_in_a_row() -> None:
    eagerness = Eagerness()
    for wait_s in (QUICK_S, QUICK_S, QUICK_S, QUICK_S * 1.01, QUICK_S, QUICK_S, QUICK_S):
        eagerness.note(wait_s)
        assert not eagerness.is_high
    eagerness.note(QUICK_S)
    assert eagerness.is_high


def test_a_wait_longer_than_the_bound_ends_eagerness_for_32_short_ones() -> None:
    eagerness = eager()
    eagerness.note(SPIN_S)
    assert eagerness.is_high
    eagerness.note(SPIN_S * 1.01)
    for _ in range(31):
        eagerness.note(0.0)
        assert not eagerness.is_high
    eagerness.note(0.0)
    assert eagerness.is_high


def test_waits_just_beyond_the_bound_are_spun_for_once_in_33() -> None:
    eagerness = eager()
    spun = 0
    for _ in range(33 * 10):
        spun += eagerness.is_high
        eagerness.note(SPIN_S * 1.5)
    assert spun == 10


def test_slow_waits_are_never_spun_for_again() -> None:
    eagerness = eager()
    eagerness.note(1.0)
    for _ in range(1000):
        eagerness.note(QUICK_S * 2)
        assert not eagerness.is_high


@contextmanager
def serving(path: Path, polling: Polling) -> Iterator[tuple[ControlServer, Client]]:
    """A server and a client that poll in this way."""
    with (
        ServerThread(path, *METHODS, polling=polling) as thread,
        Client(path, polling=polling) as client,
    ):
        assert thread.server is not None
        yield thread.server, client


def test_one_processor_is_left_to_the_other_end(tmp_path: Path) -> None:
    with serving(tmp_path / "c.sock", Polling(processors=1)) as (server, client):
        for _ in range(50):
            assert client.call("a.ping") == {"pong": True}
        assert server.awake is None
        assert client._connection.eagerness is None


@LOOPS
def test_a_loop_stays_awake_for_the_bound_and_then_sleeps(new_loop: Any) -> None:
    now = 100.0

    async def scene() -> None:
        nonlocal now
        awake = WakefulLoop(asyncio.get_running_loop(), clock=lambda: now)
        awake.extend(now)
        now += SPIN_S * 0.9
        await eventually(lambda: awake.turns > 10)
        assert awake.is_awake
        awake.extend(now)
        now += SPIN_S * 0.9
        before = awake.turns
        await eventually(lambda: awake.turns > before + 10)
        assert awake.is_awake
        now += SPIN_S * 0.2
        await eventually(lambda: not awake.is_awake)
        turns = awake.turns
        for _ in range(10):
            await asyncio.sleep(0)
        assert awake.turns == turns

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scene())


class CountingSelector(selectors.DefaultSelector):
    """Remembers how the loop waited."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float | None] = []

    def select(self, timeout: float | None = None) -> Any:
        self.timeouts.append(timeout)
        return super().select(timeout)


def test_an_idle_connection_leaves_the_loop_asleep(tmp_path: Path) -> None:
    selector = CountingSelector()

    async def scene() -> None:
        server = ControlServer(Methods(*METHODS), agent="aitorrentd/0.1.0")
        server.awake = WakefulLoop(asyncio.get_running_loop())
        await server.listen(tmp_path / "c.sock")
        async with await AsyncClient.connect(tmp_path / "c.sock", 5.0) as client:
            for method in ("a.ping", "a.later"):
                async with asyncio.timeout(60):  # on the busiest machine some waits are short
                    while not server.awake.turns:
                        await client.call(method)
                await eventually(lambda: server.awake is not None and not server.awake.is_awake)
                selector.timeouts.clear()
                turns, server.awake.turns = server.awake.turns, 0
                await asyncio.sleep(0.3)  # idle: what the loop does meanwhile is what is tested
                assert turns > 0
                assert server.awake.turns == 0
                assert len(selector.timeouts) < 5
                assert max(t for t in selector.timeouts if t is not None) > 0.2
        await server.close()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(scene())


@pytest.mark.parametrize("method", ["a.ping", "a.later"])
def test_both_ends_stay_awake_between_calls_back_to_back(method: str, tmp_path: Path) -> None:
    with serving(tmp_path / "c.sock", ALL_IS_QUICK) as (server, client):
        assert server.awake is not None
        for _ in range(3):  # the hello was the first wait
            client.call(method)
        assert server.awake.turns == 0
        client.call(method)
        slept = client._connection.sleeps
        client.call(method)
        assert server.awake.is_awake
        turns = server.awake.turns
        for _ in range(20):
            assert client.call(method) == {"pong": True}
        assert server.awake.turns > turns
        assert client._connection.sleeps == slept


def test_a_stream_keeps_nobody_awake(tmp_path: Path) -> None:
    with serving(tmp_path / "c.sock", ALL_IS_QUICK) as (server, client):
        with client.stream("a.count") as items:
            assert [next(items)["n"] for _ in range(1000)] == list(range(1000))
        assert server.awake is not None
        assert server.awake.turns == 0


@LOOPS
def test_a_wakeful_loop_serves_other_connections_and_timers(new_loop: Any, tmp_path: Path) -> None:
    async def scene() -> None:
        server = ControlServer(Methods(*METHODS), agent="aitorrentd/0.1.0", polling=ALL_IS_QUICK)
        await server.listen(tmp_path / "c.sock")
        assert server.awake is not None
        path = tmp_path / "c.sock"
        async with (
            await AsyncClient.connect(path, 5.0) as greedy,
            await AsyncClient.connect(path, 5.0) as other,
        ):
            for _ in range(8):
                await greedy.call("a.ping")
            assert server.awake.is_awake
            found = [item["n"] async for item in _first(other.stream("a.count"), 300)]
            assert found == list(range(300))
            for _ in range(100):
                assert await other.call("a.later") == {"pong": True}
            with pytest.raises(TimedOut):
                await other.call("a.forever", timeout=0.05)
            assert server.awake.is_awake
        await server.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scene())


async def _first(items: AsyncIterator[Any], n: int) -> AsyncIterator[Any]:
    seen = 0
    async for item in items:
        yield item
        seen += 1
        if seen == n:
            return


def test_an_eager_client_gives_up_in_time_and_sleeps_meanwhile(tmp_path: Path) -> None:
    polling = Polling(quick_s=LONG_S, processors=2)
    with serving(tmp_path / "c.sock", polling) as (_, client):
        assert client._connection.eagerness is not None
        while not client._connection.eagerness.is_high:
            client.call("a.ping")
        slept = client._connection.sleeps
        with pytest.raises(TimedOut, match="did not finish within"):
            client.call("a.forever", timeout=0.05)
        assert client._connection.sleeps > slept
        assert not client._connection.eagerness.is_high
