"""Links over real sockets on loopback."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request

from aitorrent_transport.links import listener
from aitorrent_transport.links.dial import dial, link_in_process
from aitorrent_transport.links.link import HIGH_WATER_BYTES, UNSENT_BYTES, Link, LinkLimits
from aitorrent_transport.links.listener import MAX_REFUSED, Listener
from aitorrent_transport.protection.limits import Limits
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.secure.handshake import Handshake, Refusal
from aitorrent_transport.secure.records import READ_BUFFER_BYTES, RecordReader
from aitorrentd.api import Busy, ProtocolError, Route, TimedOut, TooLarge, Unavailable
from tests.support.transport.link_peers import (
    Watch,
    eventually,
    make_credentials,
    shake_hands,
    turns,
)


class Server:
    """A listener that echoes, and what it saw."""

    def __init__(self, credentials: Credentials, max_half_open: int, **options: Any) -> None:
        self.credentials = credentials
        self.watches: list[Watch] = []
        self.arrived = asyncio.Event()
        self.listener = Listener(
            credentials, self._on_link, limits=Limits(half_open=max_half_open), **options
        )
        self.host, self.port = "", 0

    def _on_link(self, link: Link) -> None:
        self.watches.append(Watch(link, echo=True))
        self.arrived.set()

    async def until(self, condition: Callable[[dict[str, int]], bool]) -> None:
        """Waits for the listener's counters."""
        await eventually(lambda: condition(self.listener.statistics()))

    async def raw(self, first: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(first)
        return reader, writer


@asynccontextmanager
async def serving(
    credentials: Credentials | None = None, *, max_half_open: int = 64, **options: Any
) -> AsyncIterator[Server]:
    options = {"deadline_s": 5.0} | options
    server = Server(credentials or make_credentials(), max_half_open, **options)
    server.host, server.port = await server.listener.listen("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.listener.close()
        for watch in server.watches:
            watch.link.abort()
            await watch.lost()


@asynccontextmanager
async def linked(server: Server, **options: Any) -> AsyncIterator[Watch]:
    link = await dial(server.host, server.port, make_credentials(), **options)
    watch = Watch(link)
    try:
        yield watch
    finally:
        link.abort()
        await watch.lost()


masked_or_not = pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])


@masked_or_not
async def test_records_go_both_ways_and_both_know_each_other(masked: bool) -> None:
    async with serving() as server, linked(server, masked=masked) as watch:
        await asyncio.wait_for(server.arrived.wait(), 5)
        theirs = server.watches[0].link
        ours = watch.link
        assert ours.peer == server.credentials.signer.peer_id
        assert ours.outbound
        assert not theirs.outbound
        assert ours.remote == (server.host, server.port)
        assert ours.observed == theirs.remote
        assert theirs.observed == ours.remote
        assert ours.handshake_hash == theirs.handshake_hash
        assert ours.agent == "test/1"
        ours.send(b"hello ", memoryview(b"world"))
        big = os.urandom(65_536)
        ours.send(big)
        await watch.until(lambda w: len(w.records) == 2)
        assert watch.records == [b"hello world", big]
        assert (ours.records_out, ours.records_in) == (2, 2)
        assert ours.bytes_out == theirs.bytes_in == 2 * (4 + 1 + 16) + 11 + 65_536


@masked_or_not
async def test_close_delivers_what_was_sent_and_says_why(masked: bool) -> None:
    async with serving() as server:
        async with linked(server, masked=masked) as watch:
            for _ in range(20):
                watch.link.send(bytes(60_000))
            watch.link.close("a duplicate")
            watch.link.send(b"after the end")
            assert await watch.lost() == "a duplicate"
        await server.watches[0].until(lambda w: w.reasons)
        assert server.watches[0].reasons == ["closed by the peer: a duplicate"]
        assert len(server.watches[0].records) == 20


async def test_cut_connection_is_not_taken_for_a_close() -> None:
    async with serving() as server, linked(server) as watch:
        await asyncio.wait_for(server.arrived.wait(), 5)
        server.watches[0].link.abort()
        assert (await watch.lost()).startswith("the connection was lost")
        assert await server.watches[0].lost() == "aborted by this node"


async def test_hostile_close_reason_is_made_harmless() -> None:
    one, other = await link_in_process(make_credentials(), make_credentials())
    watch, theirs = Watch(one), Watch(other)
    other.close("\x1b[31mred\n" + "x" * 500)
    reason = await watch.lost()
    assert reason.startswith("closed by the peer: ?[31mred?xxx")
    assert len(reason) < 250
    await theirs.lost()


async def test_record_that_is_too_large_is_refused_and_the_link_goes_on() -> None:
    async with serving() as server, linked(server) as watch:
        with pytest.raises(TooLarge, match="limit is 65536"):
            watch.link.send(bytes(65_537))
        watch.link.send(b"fine")
        await watch.until(lambda w: w.records == [b"fine"])


@masked_or_not
async def test_paused_link_delivers_nothing_until_it_resumes(masked: bool) -> None:
    async with serving() as server, linked(server, masked=masked) as watch:
        await asyncio.wait_for(server.arrived.wait(), 5)
        link, sender = watch.link, server.watches[0].link
        original = link.on_record

        def one_at_a_time(view: memoryview) -> None:
            link.pause_reading()
            original(view)

        link.on_record = one_at_a_time
        for i in range(5):
            sender.send(b"%d" % i)
        for i in range(5):
            await watch.until(lambda w, i=i: len(w.records) == i + 1)  # type: ignore[misc]
            await turns()
            assert len(watch.records) == i + 1
            link.resume_reading()
        assert watch.records == [b"0", b"1", b"2", b"3", b"4"]


@masked_or_not
async def test_slow_reader_stops_the_writer_and_later_lets_it_go_on(masked: bool) -> None:
    async with serving() as server, linked(server, masked=masked) as watch:
        await asyncio.wait_for(server.arrived.wait(), 5)
        link, reader = watch.link, server.watches[0]
        reader.echo = False
        reader.link.pause_reading()
        drained = asyncio.Event()
        link.on_writable = drained.set
        sent = 0
        while link.writable:
            link.send(bytes(60_000))
            sent += 1
            await asyncio.sleep(0)
            assert sent < 1000, "the write buffer has no bound"
        assert link.statistics()["write_buffered"] <= HIGH_WATER_BYTES + 70_000
        reader.link.resume_reading()
        await asyncio.wait_for(drained.wait(), 5)
        assert link.writable
        await reader.until(lambda w: len(w.records) == sent)


class NotingTransport(asyncio.Transport):
    """Takes what is written to it, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        return None

    def abort(self) -> None:
        return None


async def test_large_records_leave_together_and_small_ones_at_once() -> None:
    us = Handshake(make_credentials(), dialer=True)
    them = Handshake(make_credentials(), dialer=False)
    shake_hands(us, them)
    assert us.result is not None
    transport = NotingTransport()
    link = Link(transport, us.result, outbound=True, remote=("", 0), route=Route("direct", ""))
    wire = 4 + 1 + 60_000 + 16
    link.send(b"a question")
    assert [len(w) for w in transport.writes] == [4 + 1 + 10 + 16]
    for _ in range(12):
        link.send(bytes(60_000))
    assert [len(w) for w in transport.writes[1:]] == 2 * [5 * wire], "a batch is full"
    assert link.statistics()["write_buffered"] == 2 * wire
    await asyncio.sleep(0)
    assert [len(w) for w in transport.writes[3:]] == [2 * wire], "the pass of the loop is over"
    link.send(bytes(60_000))
    link.flush()
    assert [len(w) for w in transport.writes[4:]] == [wire]
    link.abort()
    link.connection_lost(None)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_records_behind_unsent_bytes_of_the_handshake_arrive_whole(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    us = Handshake(make_credentials(), dialer=True)
    them = Handshake(make_credentials(), dialer=False)
    shake_hands(us, them)
    ours_session, session = us.result, them.result
    assert ours_session is not None
    assert session is not None
    sent = [bytes([n]) * 100 for n in range(5)]

    async def send() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with theirs:
            running = asyncio.get_running_loop()
            transport, _ = await running.create_connection(asyncio.Protocol, sock=ours)
            before = 0
            while not transport.get_write_buffer_size():
                transport.write(bytes(4096))
                before += 4096
            link = Link(
                transport, ours_session, outbound=True, remote=("", 0), route=Route("direct", "")
            )
            assert not link.writable
            for record in sent:
                link.send(record)
            got = b""
            while len(got) < before + len(sent) * (4 + 1 + 100 + 16):
                got += await running.sock_recv(theirs, 65_536)
            reader = RecordReader(session.receiving, running.time, session.suite)
            reader.space()[: len(got) - before] = got[before:]
            reader.feed(len(got) - before)
            for record in sent:
                found = reader.next()
                assert found is not None
                assert bytes(found.payload) == record
            await eventually(lambda: link.writable)
            link.abort()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(send())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_small_record_is_in_the_kernel_when_send_returns(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """A token that goes from stage to stage waits for no other work of the event loop."""
    us = Handshake(make_credentials(), dialer=True)
    shake_hands(us, Handshake(make_credentials(), dialer=False))
    session = us.result
    assert session is not None

    async def send() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            running = asyncio.get_running_loop()
            transport, _ = await running.create_connection(asyncio.Protocol, sock=ours)
            link = Link(
                transport, session, outbound=True, remote=("", 0), route=Route("direct", "")
            )
            link.send(b"a token")
            assert len(theirs.recv(1000, socket.MSG_DONTWAIT)) == 4 + 1 + 7 + 16
            link.abort()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(send())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_bytes_arrive_as_sent_while_the_reader_stalls_now_and_then(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Records wait in the socket's queue while others are sealed into the same memory."""
    draw = random.Random(3)
    records = [draw.randbytes(draw.choice((10, 30_000, 65_536))) for _ in range(400)]

    async def transfer() -> None:
        async with serving() as server, linked(server) as watch:
            await asyncio.wait_for(server.arrived.wait(), 5)
            reader = server.watches[0]
            reader.echo = False
            writable = asyncio.Event()
            watch.link.on_writable = writable.set
            for i, record in enumerate(records):
                if i % 50 == 0:
                    reader.link.pause_reading()
                if i % 50 == 25:
                    reader.link.resume_reading()
                if not watch.link.writable and i % 50 >= 25:
                    writable.clear()
                    await asyncio.wait_for(writable.wait(), 5)
                watch.link.send(record)
            await reader.until(lambda w: len(w.records) == len(records))
            assert reader.records == records

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(transfer())


def test_others_get_their_turn_while_much_arrives() -> None:
    """libuv reads up to 32 buffers in one pass of the loop, if it is let."""

    async def transfer() -> None:
        async with serving() as server, linked(server) as watch:
            await asyncio.wait_for(server.arrived.wait(), 5)
            reader = server.watches[0]
            reader.echo = False
            reader.link.pause_reading()
            sock = reader.link._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
            sent = 0
            while sent < 60 and watch.link.statistics()["write_buffered"] < 500_000:
                watch.link.send(bytes(60_000))
                sent += 1
                await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            passes = [0]

            def next_pass() -> None:
                if passes[-1] < 8_000_000 and not reader.reasons:
                    passes.append(reader.link.bytes_in)
                    loop.call_soon(next_pass)

            next_pass()
            reader.link.resume_reading()
            await reader.until(lambda w: len(w.records) == sent)
            reader.reasons.append("enough")
            steps = [b - a for a, b in itertools.pairwise(passes)]
            assert sum(steps) > 1_000_000, "the kernel held too little to tell"
            assert max(steps) <= READ_BUFFER_BYTES
            reader.reasons.clear()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(transfer())


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="Linux and macOS have it")
async def test_kernel_keeps_little_that_is_not_under_way() -> None:
    async with serving() as server, linked(server) as watch:
        sock = watch.link._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES


async def test_a_link_is_writable_only_while_the_kernel_takes_everything() -> None:
    """What waited here could not be overtaken by frames that are more urgent."""
    async with serving() as server, linked(server) as watch:
        await asyncio.wait_for(server.arrived.wait(), 5)
        server.watches[0].link.pause_reading()
        sent = 0
        while watch.link.writable:
            watch.link.send(bytes(10_000))
            sent += 1
            await asyncio.sleep(0)
        assert sent > 10
        assert 0 < watch.link.statistics()["write_buffered"] <= 10_000 + 21
        server.watches[0].link.resume_reading()
        await server.watches[0].until(lambda w: len(w.records) == sent)
        watch.link.abort()


async def test_peer_that_reads_nothing_cannot_make_the_buffer_grow_without_end() -> None:
    limits = LinkLimits(write_buffer_bytes=2**20)
    async with serving() as server, linked(server, limits=limits) as watch:
        await asyncio.wait_for(server.arrived.wait(), 5)
        server.watches[0].link.pause_reading()
        for _ in range(1000):
            watch.link.send(bytes(60_000))
            if watch.reasons:
                break
        assert await watch.lost() == "the peer has stopped reading"


async def test_close_towards_a_hung_peer_is_bounded() -> None:
    async with serving() as server, linked(server, limits=LinkLimits(close_s=0.1)) as watch:
        await asyncio.wait_for(server.arrived.wait(), 5)
        server.watches[0].link.pause_reading()
        while watch.link.writable:
            watch.link.send(bytes(60_000))
        watch.link.close("enough")
        assert await watch.lost() == "enough"


async def test_error_of_the_owner_in_on_record_ends_the_link_with_its_message() -> None:
    one, other = await link_in_process(make_credentials(), make_credentials())
    watch, theirs = Watch(one), Watch(other)

    def refuse(view: memoryview) -> None:
        raise ProtocolError("frame 7 is unknown")

    one.on_record = refuse
    other.send(b"x")
    assert await watch.lost() == "frame 7 is unknown"
    await theirs.lost()


async def test_link_rekeys_by_count_and_by_time() -> None:
    limits = LinkLimits(rekey_s=0.05, min_peer_rekey_s=0)
    one, other = await link_in_process(make_credentials(), make_credentials(), limits)
    watch, theirs = Watch(one), Watch(other)
    one._writer._rekey_at = 10
    for i in range(30):
        one.send(b"%d" % i)
    await theirs.until(lambda w: len(w.records) == 30)
    assert one.statistics()["rekeys_out"] >= 1
    await eventually(lambda: other.statistics()["rekeys_out"] >= 2)
    other.send(b"under a later key")
    await watch.until(lambda w: w.records == [b"under a later key"])
    for w in (watch, theirs):
        w.link.abort()
        await w.lost()


async def test_garbage_after_the_handshake_ends_the_link() -> None:
    async with serving() as server, linked(server) as watch:
        await asyncio.wait_for(server.arrived.wait(), 5)
        watch.link._transport.write(b"\0\0\0\x20" + bytes(32))
        assert await server.watches[0].lost() == "a record failed authentication"


async def test_dialling_a_closed_port_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"127.0.0.1:{port} cannot .*\(ECONNREFUSED\)"):
            await dial("127.0.0.1", port, make_credentials())


async def test_dialling_a_name_that_does_not_resolve_says_so() -> None:
    with pytest.raises(Unavailable, match="the name does not resolve"):
        await dial("no-such-host.invalid", 1, make_credentials())


async def test_listening_on_a_taken_port_says_what_to_do() -> None:
    async with serving() as server:
        listener = Listener(make_credentials(), lambda link: None)
        with pytest.raises(Unavailable, match=r"taken \(EADDRINUSE\); set plugins.transport.port"):
            await listener.listen("127.0.0.1", server.port)
        with pytest.raises(Unavailable, match="not an address of this machine"):
            await listener.listen("192.0.2.1", 0)
        await listener.close()


@masked_or_not
async def test_wrong_peer_self_and_other_psk_are_told_apart(masked: bool) -> None:
    async with serving() as server:
        wanted = make_credentials().signer.peer_id
        with pytest.raises(Unavailable, match=f"the peer at that address is 12D3.*, not {wanted}"):
            await dial(server.host, server.port, make_credentials(), expected=wanted, masked=masked)
        with pytest.raises(Unavailable, match="the peer at that address is this node itself"):
            await dial(server.host, server.port, server.credentials, masked=masked)
        with pytest.raises(ProtocolError, match="failed authentication"):
            await dial(server.host, server.port, make_credentials("other"), masked=masked)
        with pytest.raises(Unavailable, match="another pre-shared key"):
            await dial(server.host, server.port, make_credentials(psk=b"p" * 32), masked=masked)
        await server.until(lambda s: s["failed"] == 4 and s["half_open"] == 0)
        assert not server.watches


async def test_listener_that_never_answers_is_given_up() -> None:
    left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TimedOut, match="did not finish the handshake in time"):
            await dial("127.0.0.1", port, make_credentials(), timeout_s=0.1)
        await asyncio.wait_for(left.wait(), 5)


async def test_slow_loris_hits_the_deadline() -> None:
    async with serving(deadline_s=0.2) as server:
        reader, writer = await server.raw()
        loop = asyncio.get_running_loop()
        began = loop.time()
        ended = asyncio.create_task(_read_to_end(reader))
        for byte in b"AIT1\0\x22" + bytes(34):
            writer.write(bytes([byte]))
            if (await asyncio.wait([ended], timeout=0.05))[0]:
                break
        assert await ended == Refusal.LATE.encode()
        assert loop.time() - began < 2
        writer.close()
        assert server.listener.statistics()["failed"] == 1
        async with linked(server) as watch:
            watch.link.send(b"others come in")
            await watch.until(lambda w: w.records)


async def test_failed_handshakes_get_no_answer() -> None:
    async with serving() as server:
        for garbage in (b"SSH-2.0-x\r\n", b"AIT1\xff\xff", b"AIT1\0\x22\1\1" + bytes(32)):
            reader, writer = await server.raw(garbage)
            assert await _read_to_end(reader) == b""
            writer.close()
        await server.until(lambda s: s["failed"] == 3 and s["half_open"] == 0)


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except (ConnectionResetError, BrokenPipeError):
        return b""


async def test_newcomer_gets_in_at_the_cost_of_the_oldest_half_open_connection() -> None:
    async with serving(deadline_s=60, max_half_open=3) as server:
        held = [await server.raw(b"AIT1") for _ in range(3)]
        await server.until(lambda s: s["half_open"] == 3)
        async with linked(server) as watch:
            watch.link.send(b"in")
            await watch.until(lambda w: w.records)
        assert await _read_to_end(held[0][0]) == Refusal.CROWDED.encode()
        assert server.listener.statistics()["refused"] == 1
        assert server.listener.statistics()["half_open"] == 2
        for _, writer in held:
            writer.close()


async def test_masked_connection_that_is_cut_for_others_is_told_inside_the_websocket() -> None:
    async with serving(deadline_s=60, max_half_open=1) as server:
        upgrade = WSConnection(ConnectionType.CLIENT).send(Request(host="x", target="/"))
        reader, writer = await server.raw(upgrade)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        _, other = await server.raw()
        assert (await _read_to_end(reader))[:9] == b"\x82\x07" + Refusal.CROWDED.encode()
        for each in (writer, other):
            each.close()


@pytest.mark.parametrize("refusal", Refusal)
def test_dialer_names_the_reason_for_which_it_is_refused(refusal: Refusal) -> None:
    dialer = Handshake(make_credentials(), dialer=True)
    dialer.start()
    *parts, last = refusal.encode()
    for part in parts:
        assert dialer.receive(bytes([part])) == b""
    with pytest.raises(Busy, match=f"temporarily refuses connections: {refusal.text}"):
        dialer.receive(bytes([last]))


@masked_or_not
async def test_listener_without_descriptors_says_so_and_keeps_its_reserve(
    masked: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "REFUSED_S", 10.0)
    async with serving(is_scarce=lambda descriptor: True) as server:
        said = "too busy" if masked else "no file descriptors left"
        for _ in range(3):
            with pytest.raises(Busy, match=said):
                await dial(server.host, server.port, make_credentials(), masked=masked)
        silent = [await server.raw() for _ in range(MAX_REFUSED + 1)]
        await server.until(lambda s: s["refused"] == 3 + MAX_REFUSED + 1)
        assert await asyncio.wait_for(silent[-1][0].read(), 5) == b""
        assert server.listener.statistics()["half_open"] == 0
        for _, writer in silent:
            writer.close()
    warned = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 1
    assert "no file descriptors left" in warned[0].getMessage()


async def test_late_handshake_is_told_that_it_is_late() -> None:
    async with serving(deadline_s=0.05) as server:
        reader, writer = await server.raw(b"AIT1")
        assert await _read_to_end(reader) == Refusal.LATE.encode()
        await server.until(lambda s: s["failed"] == 1 and s["half_open"] == 0)
        writer.close()


@pytest.mark.slow
async def test_flood_of_half_open_connections_keeps_memory_bounded_and_peers_get_in() -> None:
    async with serving(deadline_s=0.5) as server:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        loop = asyncio.get_running_loop()
        for _ in range(15):
            socks = []
            for _ in range(200):
                sock = socket.socket()
                sock.setblocking(False)
                await loop.sock_connect(sock, (server.host, server.port))
                socks.append(sock)
            assert server.listener.statistics()["half_open"] <= 64
            for sock in socks:
                sock.close()
        statistics = server.listener.statistics()
        assert statistics["refused"] > 1000
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
        await server.until(lambda s: s["half_open"] == 0)
        async with linked(server) as watch:
            watch.link.send(b"a real peer")
            await watch.until(lambda w: w.records == [b"a real peer"])


@pytest.mark.slow
async def test_ten_thousand_random_chunks_leave_the_listener_alive() -> None:
    draw = random.Random(7)
    heads = (b"", b"AIT1", b"AIT1\0\x40\1\1", b"GET / HTTP/1.1\r\n", b"GET ")
    sent = 0
    async with serving() as server:
        while sent < 10_000:
            reader, writer = await server.raw()
            try:
                for _ in range(draw.randrange(1, 60)):
                    writer.write(draw.choice(heads) + draw.randbytes(draw.randrange(200)))
                    sent += 1
                writer.write_eof()
                await asyncio.wait_for(reader.read(), 5)
            except OSError:
                continue  # the listener cut it while we wrote
            finally:
                writer.close()
        await server.until(lambda s: s["half_open"] == 0)
        assert not server.watches
        async with linked(server) as watch:
            watch.link.send(b"alive")
            await watch.until(lambda w: w.records == [b"alive"])


async def test_closing_the_listener_cuts_unfinished_handshakes_and_keeps_links() -> None:
    async with serving(deadline_s=60) as server, linked(server) as watch:
        reader, writer = await server.raw(b"AIT1")
        await server.until(lambda s: s["half_open"] == 1)
        await server.listener.close()
        assert await _read_to_end(reader) in (b"", Refusal.CLOSING.encode())
        writer.close()
        watch.link.send(b"still here")
        await watch.until(lambda w: w.records == [b"still here"])
        with pytest.raises(Unavailable, match="ECONNREFUSED"):
            await dial(server.host, server.port, make_credentials())


async def test_link_that_ends_before_its_owner_listens_still_says_so_once() -> None:
    one, other = await link_in_process(make_credentials(), make_credentials())
    other.abort()
    one._transport.abort()
    await eventually(lambda: one._lost)
    watch = Watch(one)
    assert (await watch.lost()).startswith("the connection was lost")
    one.start()
    await turns()
    assert len(watch.reasons) == 1


async def test_link_in_process_fails_like_a_dial() -> None:
    with pytest.raises(ProtocolError, match="authentication"):
        await link_in_process(make_credentials("one"), make_credentials("two"))
    await turns()


async def test_cancelled_dial_leaves_nothing_behind() -> None:
    async with serving(deadline_s=60) as server:
        cancelled = 0
        for n in range(20):
            dialling = asyncio.ensure_future(dial(server.host, server.port, make_credentials()))
            await turns(n)
            dialling.cancel()
            try:
                (await dialling).abort()
            except asyncio.CancelledError:
                cancelled += 1
        assert cancelled > 2
        await server.until(lambda s: s["half_open"] == 0)
