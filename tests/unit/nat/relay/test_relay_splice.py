"""Two connections joined in the kernel."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from aitorrent_nat.relay import pipes as pipes_module
from aitorrent_nat.relay import splice as splice_module
from aitorrent_nat.relay.pipes import Pipes
from aitorrent_nat.relay.splice import Splice
from tests.support.nodes import Leaks, wait_for

MIB = 2**20


class Meter:
    """Allows `allowed` bytes; after that it waits for `pause_s`, or forever if that is None."""

    def __init__(self, allowed: int = 2**40, pause_s: float | None = None) -> None:
        self.allowed = allowed
        self.pause_s = pause_s
        self.passed = 0

    def left(self) -> int:
        return self.allowed - self.passed

    def spend(self, n: int) -> None:
        self.passed += n

    def wait_s(self) -> float | None:
        return self.pause_s


class Joined:
    """Two far ends, joined by a splice."""

    def __init__(self, one: socket.socket, other: socket.socket, meter: Meter) -> None:
        self.one, self.other = one, other
        self.meter = meter
        self.pipes = Pipes()
        self.ends: list[str] = []
        self.spent: Callable[[], None] = lambda: self.splice.end("spent")
        self.splice: Splice


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    for sock in (far, near):
        sock.setblocking(False)
    return far, near


@asynccontextmanager
async def joined(meter: Meter | None = None) -> AsyncIterator[Joined]:
    leaks = Leaks()
    far_one, near_one = tcp_pair()
    far_other, near_other = tcp_pair()
    test = Joined(far_one, far_other, meter or Meter())
    test.splice = Splice(
        near_one,
        near_other,
        test.pipes,
        test.meter,
        on_end=test.ends.append,
        on_spent=lambda: test.spent(),
    )
    test.splice.start()
    try:
        yield test
    finally:
        test.splice.close()
        test.pipes.close()
        far_one.close()
        far_other.close()
    await leaks.check()


async def send_all(sock: socket.socket, content: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, content)


async def read_all(sock: socket.socket) -> bytes:
    loop, parts = asyncio.get_running_loop(), []
    while part := await loop.sock_recv(sock, MIB):
        parts.append(part)
    return b"".join(parts)


async def read_exactly(sock: socket.socket, n: int) -> bytes:
    loop, found = asyncio.get_running_loop(), b""
    while len(found) < n:
        part = await loop.sock_recv(sock, n - len(found))
        assert part, f"ended after {len(found)} of {n} bytes"
        found += part
    return found


def pipes_open() -> int:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum(os.path.exists(each) and os.readlink(each).startswith("pipe:") for each in links)


async def test_bytes_arrive_whole_and_in_order_in_both_directions() -> None:
    there, back = os.urandom(5 * MIB), os.urandom(3 * MIB)
    async with joined() as test:
        sending = asyncio.gather(send_all(test.one, there), send_all(test.other, back))
        received = await asyncio.gather(
            read_exactly(test.other, len(there)), read_exactly(test.one, len(back))
        )
        await sending
        assert received[0] == there
        assert received[1] == back
        assert test.splice.passed == test.meter.passed == len(there) + len(back)
        assert test.ends == []


async def test_half_close_is_passed_on_and_the_other_direction_continues() -> None:
    async with joined() as test:
        await send_all(test.one, b"request")
        test.one.shutdown(socket.SHUT_WR)
        assert await read_all(test.other) == b"request"
        answer = os.urandom(MIB)
        sending = asyncio.gather(send_all(test.other, answer))
        assert await read_exactly(test.one, MIB) == answer
        await sending
        assert test.ends == []
        test.other.shutdown(socket.SHUT_WR)
        assert await read_all(test.one) == b""
        await wait_for(lambda: test.ends == [""])


async def test_a_slow_reader_stops_its_sender() -> None:
    async with joined() as test:
        sent = 0
        stalled_at = None
        for _ in range(1000):
            try:
                sent += test.one.send(bytes(64 * 1024))
                stalled_at = None
            except BlockingIOError:
                stalled_at = stalled_at or asyncio.get_running_loop().time()
                if asyncio.get_running_loop().time() - stalled_at > 0.3:
                    break
            await asyncio.sleep(0.005)
        else:
            pytest.fail(f"the sender was never stopped ({sent} bytes)")
        assert sent < 32 * MIB
        assert len(await read_exactly(test.other, sent)) == sent
        await send_all(test.one, b"on")
        assert await read_exactly(test.other, 2) == b"on"


async def test_pipes_are_held_only_while_a_receiver_is_slow() -> None:
    before = pipes_open()
    async with joined() as test:
        await send_all(test.one, b"x")
        await read_exactly(test.other, 1)
        assert pipes_open() - before == 2  # one, in the pool
        await send_all(test.other, b"y")
        await read_exactly(test.one, 1)
        assert pipes_open() - before == 2
    assert pipes_open() == before


async def test_only_some_pipes_are_big(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes_module, "MAX_BIG", 1)
    pool = Pipes()
    first, second = pool.take(), pool.take()
    assert first.size > second.size
    pool.give_back(first, is_empty=True)
    pool.give_back(second, is_empty=True)
    assert pool.take() is first
    pool.give_back(first, is_empty=False)  # bytes are left in it: it cannot be used again
    third = pool.take()
    assert third is second
    pool.give_back(third, is_empty=True)
    pool.close()


async def test_one_lost_connection_ends_the_other() -> None:
    async with joined() as test:
        await send_all(test.one, b"last words")
        assert await read_exactly(test.other, 10) == b"last words"
        test.one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        test.one.close()  # a reset
        assert await read_all(test.other) == b""
        await wait_for(lambda: test.ends != [])
        assert "connection was lost" in test.ends[0]


async def test_what_was_read_is_delivered_before_the_limit_ends_the_circuit() -> None:
    async with joined(Meter(allowed=3 * MIB)) as test:
        sending = asyncio.gather(send_all(test.one, bytes(5 * MIB)), return_exceptions=True)
        assert len(await read_all(test.other)) == 3 * MIB
        await wait_for(lambda: test.ends == ["spent"])
        await sending
        assert test.meter.passed == 3 * MIB


async def test_a_receiver_that_never_reads_delays_the_end_only_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(splice_module, "FLUSH_S", 0.2)
    async with joined() as test:
        with pytest.raises(BlockingIOError):
            for _ in range(1000):
                test.one.send(bytes(MIB))
                await asyncio.sleep(0)
        await wait_for(lambda: any(d.holds for d in test.splice._directions))
        test.splice.end("the time is over")
        assert test.ends == []
        await wait_for(lambda: test.ends == ["the time is over"])


async def test_the_meter_sets_the_pace() -> None:
    meter = Meter(allowed=MIB, pause_s=0.01)
    async with joined(meter) as test:
        sending = asyncio.gather(send_all(test.one, bytes(2 * MIB)))
        await read_exactly(test.other, MIB)
        with pytest.raises(BlockingIOError):
            test.other.recv(1)
        meter.allowed = 2 * MIB
        await read_exactly(test.other, MIB)
        await sending


async def test_a_half_closed_circuit_ends_when_the_other_end_keeps_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(splice_module, "HALF_CLOSED_S", 0.3)
    async with joined() as test:
        test.one.shutdown(socket.SHUT_WR)
        assert await read_all(test.other) == b""
        await wait_for(lambda: "kept silent" in "".join(test.ends))
        assert await read_all(test.one) == b""
