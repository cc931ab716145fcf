"""QUIC as an asyncio transport: delivery, back-pressure both ways, and every kind of end."""

from __future__ import annotations

import asyncio
import random

import pytest

from aitorrent_nat.punch.paths import quic, quic_transport
from aitorrent_nat.punch.paths.quic_transport import QuicTransport
from aitorrentd.api import Unavailable
from tests.support.nat.paths import BufferedRecorder, Recorder, Weather, connected, paths
from tests.support.nodes import wait_for

pytestmark = pytest.mark.slow

MB = 1_000_000


def some(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


async def test_both_ends_send_and_receive() -> None:
    async with paths() as ends:
        one, other = await connected(ends)
        one.transport.write(b"to the server")
        other.transport.write(b"to the client")
        await wait_for(lambda: other.received == b"to the server")
        await wait_for(lambda: one.received == b"to the client")
        assert one.transport.get_extra_info("peername") == ends[0].remote
        assert one.transport.get_extra_info("sockname") == ends[0].local
        assert one.transport.get_extra_info("socket") is None


async def test_the_server_may_write_first() -> None:
    async with paths() as ends:
        one, other = await connected(ends)
        other.transport.write(b"first")
        await wait_for(lambda: one.received == b"first")


async def test_fifty_megabytes_arrive_whole(figures: dict[str, str]) -> None:
    data = some(50 * MB)
    async with paths() as ends:
        one, other = await connected(ends, server=BufferedRecorder, datagram_bytes=8972)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await one.send(data)
        await wait_for(lambda: len(other.received) == len(data), 120)
        figures["QUIC, 50 MB in one process"] = f"{50 / (loop.time() - began):.0f} MB/s"
        assert other.received == data
        assert one.pauses > 10


@pytest.mark.parametrize(("loss", "jitter_s"), [(0.03, 0.0), (0.0, 0.01), (0.02, 0.005)])
async def test_lost_and_reordered_datagrams_change_nothing(loss: float, jitter_s: float) -> None:
    data = some(400_000)
    async with paths(Weather(loss=loss, delay_s=0.005, jitter_s=jitter_s)) as ends:
        one, other = await connected(ends, rtt_s=0.02)
        await asyncio.gather(one.send(data), other.send(data[::-1]))
        await wait_for(lambda: len(other.received) == len(one.received) == len(data), 60)
        assert other.received == data
        assert one.received == data[::-1]


async def test_a_writer_is_paused_and_holds_little() -> None:
    weather = Weather(delay_s=0.02)
    async with paths(weather) as ends:
        one, other = await connected(ends, rtt_s=0.04)
        most = 0
        for _ in range(60):
            one.transport.write(some(65_536))
            most = max(most, one.transport.get_write_buffer_size())
            await one.can_write.wait()
        assert one.pauses > 0
        assert most <= quic_transport.HIGH_WATER_BYTES + 65_536
        await wait_for(lambda: len(other.received) == 60 * 65_536, 30)


async def test_a_mark_of_zero_pauses_until_quic_has_everything() -> None:
    """As the transport's link sets it: it reuses its buffer once nothing waits."""
    async with paths(Weather(delay_s=0.01)) as ends:
        one, _ = await connected(ends)
        one.transport.set_write_buffer_limits(high=0)
        one.transport.write(some(2 * MB))
        assert not one.can_write.is_set()
        await one.can_write.wait()
        assert one.transport.get_write_buffer_size() == 0


async def test_written_bytes_may_be_overwritten_at_once() -> None:
    async with paths() as ends:
        one, other = await connected(ends)
        data = some(500_000)
        reused = bytearray(data)
        one.transport.write(memoryview(reused))
        reused[:] = bytes(len(reused))
        await wait_for(lambda: len(other.received) == len(data), 20)
        assert other.received == data


async def test_a_reader_that_pauses_stops_the_peer() -> None:
    weather = Weather()
    async with paths(weather) as ends:
        one, other = await connected(ends, server=BufferedRecorder, datagram_bytes=8972)
        other.stop_at = 1
        data = some(3 * quic.WINDOW_BYTES)
        sending = asyncio.create_task(one.send(data))
        before = -1
        while before != weather.passed_bytes:  # until nothing moves any more
            before = weather.passed_bytes
            await asyncio.sleep(0.3)
        assert not sending.done()
        assert weather.passed_bytes < 1.3 * quic.WINDOW_BYTES
        other.stop_at = None
        other.transport.resume_reading()
        await sending
        await wait_for(lambda: len(other.received) == len(data), 60)
        assert other.received == data


async def test_a_peer_that_ignores_the_window_is_cut_off() -> None:
    async with paths() as ends:
        one, other = await connected(ends, server=Recorder, datagram_bytes=8972)
        other.transport.pause_reading()
        cheat = one.transport._quic
        cheat._remote_max_data = 10**9
        for stream in cheat._streams.values():
            stream.max_stream_data_remote = 10**9
        sending = asyncio.create_task(one.send(some(3 * quic.WINDOW_BYTES)))
        lost = await asyncio.wait_for(one.lost, 20)
        assert isinstance(lost, ConnectionResetError)
        assert "data limit" in str(lost)
        await wait_for(lambda: other.lost.done(), 20)
        sending.cancel()


async def test_close_delivers_what_was_written() -> None:
    data = some(MB)
    async with paths(Weather(loss=0.01, delay_s=0.005)) as ends:
        one, other = await connected(ends)
        one.transport.write(data)
        one.transport.close()
        assert await asyncio.wait_for(one.lost, 30) is None
        assert await asyncio.wait_for(other.lost, 30) is None
        assert other.received == data
        assert other.ended


async def test_half_close_leaves_the_other_direction_open() -> None:
    async with paths() as ends:
        one, other = await connected(ends)
        other.keep_open = True
        one.transport.write(b"request")
        one.transport.write_eof()
        with pytest.raises(RuntimeError, match="after the end"):
            one.transport.write(b"more")
        await wait_for(lambda: other.ended)
        assert other.received == b"request"
        other.transport.write(b"reply")
        other.transport.close()
        await wait_for(lambda: one.received == b"reply")
        assert await asyncio.wait_for(one.lost, 10) is None


async def test_abort_is_a_reset_at_the_other_end() -> None:
    async with paths() as ends:
        one, other = await connected(ends)
        one.transport.write(some(MB))
        one.transport.abort()
        assert await asyncio.wait_for(one.lost, 5) is None
        assert isinstance(await asyncio.wait_for(other.lost, 10), ConnectionResetError)


async def test_a_peer_that_vanished_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quic, "IDLE_S", 1.0)
    monkeypatch.setattr(quic_transport, "KEEPALIVE_S", 0.2)
    weather = Weather()
    async with paths(weather) as ends:
        one, _ = await connected(ends)
        await asyncio.sleep(1.5)
        assert not one.lost.done()  # kept alive without any data
        weather.loss = 1.0
        assert isinstance(await asyncio.wait_for(one.lost, 10), ConnectionResetError)


async def test_close_of_a_peer_that_vanished_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quic_transport, "LINGER_S", 0.3)
    weather = Weather()
    async with paths(weather) as ends:
        one, _ = await connected(ends)
        weather.loss = 1.0
        one.transport.write(b"nobody hears")
        one.transport.close()
        assert await asyncio.wait_for(one.lost, 5) is None


async def test_garbage_on_the_path_changes_nothing() -> None:
    async with paths() as ends:
        draws = random.Random(7)
        for _ in range(50):
            ends[0].send(draws.randbytes(draws.randrange(1, 1400)))
        one, other = await connected(ends)
        for _ in range(200):
            ends[0].send(draws.randbytes(draws.randrange(1, 1400)))
            ends[1].send(draws.randbytes(draws.randrange(1, 1400)))
        one.transport.write(b"still here")
        await wait_for(lambda: other.received == b"still here")


async def test_a_handshake_without_a_peer_ends_with_its_caller() -> None:
    async with paths(Weather(loss=1.0)) as ends:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await QuicTransport.over(ends[0], Recorder, is_client=True)


async def test_a_path_that_is_lost_ends_the_handshake() -> None:
    async with paths(Weather(loss=1.0)) as ends:
        work = asyncio.create_task(QuicTransport.over(ends[0], Recorder, is_client=True))
        await asyncio.sleep(0.05)
        ends[0]._on_lost("the cable was pulled")
        with pytest.raises(Unavailable, match="the cable was pulled"):
            await work
