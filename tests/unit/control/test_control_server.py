"""What hostile, slow and vanished callers cost a live server: little, and nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import shutil
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from aitorrentd.api.plugin import CallContext, Method, NoParams, Role
from aitorrentd.control import framing
from aitorrentd.control.aclient import AsyncClient
from aitorrentd.control.auth import Credentials
from aitorrentd.control.connection import Patience
from aitorrentd.control.server import ControlServer
from aitorrentd.errors import Busy, Conflict, ShuttingDown, VersionMismatch
from tests.support.control_frames import random_frame
from tests.support.control_server import Methods, RawPeer, eventually, settled
from tests.support.effort import examples
from tests.support.nodes import wait_for


class Blob(BaseModel):
    model_config = ConfigDict(extra="allow")


def ping(call: CallContext, params: NoParams) -> dict[str, Any]:
    return {"pong": True}


async def forever(call: CallContext, params: NoParams) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def blobs(call: CallContext, params: NoParams) -> AsyncIterator[dict[str, Any]]:
    while True:
        yield {"blob": b"x" * 65_536}


def blob(call: CallContext, params: Blob) -> dict[str, Any]:
    return {"blob": b"x" * 65_536}


METHODS = (
    Method("rpc.ping", ping, "Ping."),
    Method("rpc.forever", forever, "Wait."),
    Method("rpc.blobs", blobs, "Blobs.", stream=True),
    Method("rpc.blob", blob, "Blob.", params=Blob),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
async def server(path: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(Methods(*METHODS), agent="aitorrentd/0.1.0")
    await server.listen(path)
    yield server
    await server.close(grace_s=0.1)


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def assert_answers(path: Path) -> None:
    async with await AsyncClient.connect(path, 5.0) as client:
        assert await client.call("rpc.ping") == {"pong": True}


async def test_random_frames_leave_a_server_that_answers(server: ControlServer, path: Path) -> None:
    rng = random.Random(20_240_501)
    await assert_answers(path)
    gc.collect()
    before = rss_bytes()
    sent = 0
    while sent < examples(10_000):
        async with await RawPeer.connect(path, greet=rng.random() < 0.9) as peer:
            for _ in range(rng.randrange(1, 8)):
                peer.send_bytes(random_frame(rng))
                sent += 1
                if peer.writer.transport.is_closing():
                    break
            with contextlib.suppress(OSError):  # the server may have hung up
                await peer.writer.drain()
    await assert_answers(path)
    await eventually(lambda: server.statistics()["connections_open"] == 0)
    await eventually(lambda: server.statistics()["calls_open"] == 0)
    statistics = server.statistics()
    assert statistics["arriving_bytes"] == 0
    assert statistics["frames_malformed"] > 100
    gc.collect()
    assert rss_bytes() - before < 32 * 2**20


@pytest.mark.parametrize("length", [2**24 + 1, 2**31, 2**32 - 1])
async def test_a_forged_length_ends_the_connection_at_once(
    server: ControlServer, path: Path, length: int
) -> None:
    async with await RawPeer.connect(path) as peer:
        peer.send_bytes(struct.pack(">I", length))
        (last,) = await peer.until_closed()
        assert last[2]["code"] == "too_large"
    await assert_answers(path)


async def test_a_hello_may_have_64_kib_and_no_more(server: ControlServer, path: Path) -> None:
    async with await RawPeer.connect(path, greet=False) as peer:
        peer.send(framing.HELLO, {"proto": [1, 1], "client": "x" * 60_000})
        assert (await peer.receive())[0] == framing.HELLO
    async with await RawPeer.connect(path, greet=False) as peer:
        peer.send(framing.HELLO, {"proto": [1, 1], "client": "x" * 70_000})
        (last,) = await peer.until_closed()
        assert "the limit here is 65536" in last[2]["message"]


async def test_nobody_is_served_before_a_hello(server: ControlServer, path: Path) -> None:
    async with await RawPeer.connect(path, greet=False) as peer:
        peer.send(framing.CALL, 1, "rpc.ping", {}, {})
        (last,) = await peer.until_closed()
        assert last[:2] == [framing.ERROR, 0]
        assert "first frame" in last[2]["message"]
    assert server.statistics()["calls_total"] == 0


async def test_calls_may_follow_the_hello_without_waiting(
    server: ControlServer, path: Path
) -> None:
    async with await RawPeer.connect(path, greet=False) as peer:
        hello = framing.encode(framing.HELLO, {"proto": [1, 1]})
        peer.send_bytes(hello + framing.encode(framing.CALL, 5, "rpc.ping", {}, {}))
        assert (await peer.receive())[1]["role"] == "admin"
        assert await peer.receive() == [framing.RESULT, 5, {"pong": True}]


async def test_a_caller_of_another_protocol_is_told_so(server: ControlServer, path: Path) -> None:
    async with await RawPeer.connect(path, greet=False) as peer:
        peer.send(framing.HELLO, {"proto": [2, 3]})
        (last,) = await peer.until_closed()
        assert last[2]["code"] == VersionMismatch.code
        assert last[2]["message"] == "this daemon speaks protocol 1 to 1"


async def test_silence_is_cut_off(server: ControlServer, path: Path) -> None:
    server.patience = Patience(hello_s=0.05)
    async with await RawPeer.connect(path, greet=False) as peer:
        (last,) = await peer.until_closed()
        assert last[2]["code"] == "timeout"
    assert server.statistics()["connections_open"] == 0


async def test_a_large_frame_that_never_ends_is_cut_off(server: ControlServer, path: Path) -> None:
    server.patience = Patience(frame_s=0.05)
    async with await RawPeer.connect(path) as peer:
        peer.send_bytes(struct.pack(">I", 10 * 2**20) + b"x" * 1000)
        (last,) = await peer.until_closed()
        assert "took longer than" in last[2]["message"]
    assert server.statistics()["arriving_bytes"] == 0


async def test_large_unfinished_frames_share_one_budget(server: ControlServer, path: Path) -> None:
    peers = [await RawPeer.connect(path) for _ in range(5)]
    head = struct.pack(">I", 16 * 2**20)
    for peer in peers[:4]:
        peer.send_bytes(head)
    await eventually(lambda: server.statistics()["arriving_bytes"] == 64 * 2**20)
    peers[4].send_bytes(head)
    (last,) = await peers[4].until_closed()
    assert "try again later" in last[2]["message"]
    for peer in peers:
        await peer.close()
    await eventually(lambda: server.statistics()["arriving_bytes"] == 0)


async def test_a_large_frame_arrives_whole(server: ControlServer, path: Path) -> None:
    async with await AsyncClient.connect(path) as client:
        assert len((await client.call("rpc.blob", {"x": b"y" * 10**7}))["blob"]) == 65_536
    assert server.statistics()["arriving_bytes"] == 0


async def test_the_65th_connection_is_refused_politely(server: ControlServer, path: Path) -> None:
    clients = [await AsyncClient.connect(path) for _ in range(64)]
    with pytest.raises(Busy, match="64 control connections are open"):
        await AsyncClient.connect(path)
    assert server.statistics()["connections_refused"] == 1
    await clients.pop().close()
    await eventually(lambda: server.statistics()["connections_open"] == 63)
    clients.append(await AsyncClient.connect(path))
    for client in clients:
        assert await client.call("rpc.ping") == {"pong": True}
        await client.close()


async def test_readers_cannot_lock_operators_out(path: Path) -> None:
    class Server(ControlServer):
        given = Role.READ

        def role(self, caller: Credentials) -> Role:
            return self.given

    server = Server(Methods(*METHODS), agent="aitorrentd/0.1.0")
    await server.listen(path)
    readers = [await AsyncClient.connect(path) for _ in range(32)]
    with pytest.raises(Busy, match="32 control connections are open"):
        await AsyncClient.connect(path)
    server.given = Role.OPERATE
    await assert_answers(path)
    for reader in readers:
        await reader.close()
    await server.close()


async def test_a_slow_reader_of_a_stream_costs_bounded_memory(
    server: ControlServer, path: Path
) -> None:
    async with await RawPeer.connect(path) as peer:
        peer.send(framing.CALL, 1, "rpc.blobs", {}, {"credit": framing.MAX_CREDIT})
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sent = await settled(lambda: server.statistics()["items_sent"])
        assert 0 < sent * 65_536 < 4 * 2**20
        await assert_answers(path)


async def test_a_slow_reader_of_results_costs_bounded_memory(
    server: ControlServer, path: Path
) -> None:
    async with await RawPeer.connect(path) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        calls = [framing.encode(framing.CALL, n, "rpc.blob", {}, {}) for n in range(1, 2001)]
        peer.send_bytes(b"".join(calls))
        assert 0 < await settled(lambda: server.statistics()["calls_total"]) < 100
        await assert_answers(path)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for n in range(1, 2001):
            assert (await peer.receive())[1] == n


async def test_a_reader_that_stops_for_good_is_cut_off(server: ControlServer, path: Path) -> None:
    server.patience = Patience(stall_s=0.1)
    async with await RawPeer.connect(path) as peer:
        peer.send(framing.CALL, 1, "rpc.blobs", {}, {"credit": framing.MAX_CREDIT})
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: server.statistics()["connections_total"] == 1)
        await eventually(lambda: server.statistics()["items_sent"] > 0)
        await eventually(lambda: server.statistics()["connections_open"] == 0)
        await eventually(lambda: server.statistics()["calls_open"] == 0)


async def test_progress_for_a_slow_reader_keeps_the_newest_only(
    path: Path,
) -> None:
    go_on = asyncio.Event()

    async def chatty(call: CallContext, params: NoParams) -> dict[str, Any]:
        for n in range(20_000):
            call.progress("x" * 400, done=n)
        await go_on.wait()
        return {}

    server = ControlServer(Methods(Method("a.chatty", chatty, "Talk.")), agent="aitorrentd/0.1.0")
    await server.listen(path)
    async with await RawPeer.connect(path) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.send(framing.CALL, 1, "a.chatty", {}, {})
        await eventually(lambda: server.statistics()["calls_open"] == 1)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        go_on.set()
        seen = 0
        while (message := await peer.receive())[0] == framing.PROGRESS:
            seen += 1
        assert message == [framing.RESULT, 1, {}]
        assert 0 < seen < 20_000
    await server.close()


async def test_closing_lets_calls_finish_ends_streams_and_refuses_new_ones(path: Path) -> None:
    gate, started = asyncio.Event(), asyncio.Event()

    async def work(call: CallContext, params: NoParams) -> dict[str, Any]:
        started.set()
        await gate.wait()
        return {"done": True}

    methods = (*METHODS, Method("a.work", work, "Work."))
    server = ControlServer(Methods(*methods), agent="aitorrentd/0.1.0")
    await server.listen(path)
    client = await AsyncClient.connect(path)
    working = asyncio.create_task(client.call("a.work"))
    stream = aiter(client.stream("rpc.blobs"))
    await anext(stream)
    await started.wait()
    closing = asyncio.create_task(server.close(grace_s=5.0))
    with pytest.raises(ShuttingDown, match="the daemon is stopping"):
        while True:
            await anext(stream)
    with pytest.raises(ShuttingDown, match="the daemon is stopping"):
        await client.call("rpc.ping")
    assert not closing.done()
    gate.set()
    assert await working == {"done": True}
    await closing
    assert not path.exists()
    await client.close()


async def test_closing_does_not_wait_for_ever(path: Path) -> None:
    server = ControlServer(Methods(*METHODS), agent="aitorrentd/0.1.0")
    await server.listen(path)
    client = await AsyncClient.connect(path)
    waiting = asyncio.create_task(client.call("rpc.forever"))
    await eventually(lambda: server.statistics()["calls_open"] == 1)
    await server.close(grace_s=0.05)
    with pytest.raises(ShuttingDown, match="the daemon is stopping"):
        await waiting
    await client.close()


async def test_a_handler_that_ignores_its_cancellation_does_not_hold_up_the_end(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate, started = asyncio.Event(), asyncio.Event()

    async def stubborn(call: CallContext, params: NoParams) -> dict[str, Any]:
        started.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return {}

    server = ControlServer(
        Methods(Method("a.stubborn", stubborn, "No.")), agent="aitorrentd/1", cancel_wait_s=0.05
    )
    await server.listen(path)
    peer = await RawPeer.connect(path)
    peer.send(framing.CALL, 1, "a.stubborn", {}, {})
    await started.wait()
    await server.close(grace_s=0.05)
    assert "ignore cancellation: ctl:a.stubborn#1" in caplog.text
    gate.set()
    await eventually(lambda: server.statistics()["calls_open"] == 0)
    await peer.close()


async def test_calls_that_outlive_their_connection_still_count(path: Path) -> None:
    gate, started = asyncio.Event(), asyncio.Event()

    async def stubborn(call: CallContext, params: NoParams) -> dict[str, Any]:
        started.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return {}

    server = ControlServer(
        Methods(Method("a.stubborn", stubborn, "No."), *METHODS),
        agent="aitorrentd/1",
        max_connections=1,
    )
    await server.listen(path)
    peer = await RawPeer.connect(path)
    peer.send(framing.CALL, 1, "a.stubborn", {}, {})
    await started.wait()
    await peer.close()
    await eventually(lambda: server.statistics()["connections_open"] == 0)
    with pytest.raises(Busy, match="1 control connections are open"):
        await AsyncClient.connect(path)
    gate.set()
    await eventually(lambda: server.statistics()["calls_open"] == 0)
    await assert_answers(path)
    await server.close()


async def test_a_second_daemon_is_refused_and_the_first_goes_on(
    server: ControlServer, path: Path
) -> None:
    second = ControlServer(Methods(), agent="aitorrentd/0.1.0")
    with pytest.raises(Conflict, match="another daemon is listening at"):
        await second.listen(path)
    await second.close()
    await assert_answers(path)


async def test_a_socket_of_the_service_manager_is_served_and_left_in_place(path: Path) -> None:
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind(str(path))
    inherited.listen()
    server = ControlServer(Methods(*METHODS), agent="aitorrentd/0.1.0")
    await server.listen_on(inherited)
    await assert_answers(path)
    await server.close()
    assert path.exists()


async def test_ten_servers_live_in_one_process(tmp_path: Path) -> None:
    servers = []
    for n in range(10):
        server = ControlServer(Methods(*METHODS), agent=f"aitorrentd/{n}")
        await server.listen(tmp_path / f"{n}.sock")
        servers.append(server)
    for n in range(10):
        async with await AsyncClient.connect(tmp_path / f"{n}.sock") as client:
            assert client.hello["server"] == f"aitorrentd/{n}"
    for server in servers:
        await server.close()


async def removed_and_restored(path: Path, remove: Callable[[], object]) -> None:
    remove()
    await wait_for(path.exists)
    await assert_answers(path)


async def test_socket_that_a_cleaner_removed_is_restored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run" / "control.sock"
    server = ControlServer(Methods(*METHODS), agent="aitorrentd/0.1.0", check_s=0.01)
    await server.listen(path, mode=0o640)
    async with await AsyncClient.connect(path, 5.0) as before:
        await removed_and_restored(path, path.unlink)
        await removed_and_restored(path, lambda: shutil.rmtree(path.parent))
        assert path.stat().st_mode & 0o777 == 0o640
        assert await before.call("rpc.ping") == {"pong": True}
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert told == [f"the control socket {path} was removed; restoring it"] * 2
    await server.close(grace_s=0.1)
    assert not path.exists()


async def test_socket_that_cannot_be_restored_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    server = ControlServer(Methods(*METHODS), agent="aitorrentd/0.1.0", check_s=0.01)
    await server.listen(path)
    path.unlink()
    path.write_text("somebody else's")
    await wait_for(lambda: "cannot be restored" in caplog.text)
    assert (problem := server.problem()) is not None
    assert problem.text == f"the control socket {path} is gone and cannot be restored: " + (
        f"{path} exists and is not a socket; move it away or set control.socket"
    )
    path.unlink()
    await wait_for(lambda: path.is_socket())
    await wait_for(lambda: server.problem() is None)
    assert caplog.text.count("cannot be restored") == 1
    await server.close(grace_s=0.1)


async def test_inherited_socket_that_is_gone_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen()
    server = ControlServer(Methods(*METHODS), agent="aitorrentd/0.1.0", check_s=0.01)
    await server.listen_on(sock)
    assert server.problem() is None
    path.unlink()
    await wait_for(lambda: "was removed; run: systemctl restart aitorrentd.socket" in caplog.text)
    assert (problem := server.problem()) is not None
    assert problem.severity == "error"
    assert problem.text == (
        f"the control socket {path} was removed; run: systemctl restart aitorrentd.socket"
    )
    await server.close(grace_s=0.1)
