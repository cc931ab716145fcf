from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aitorrent_transport.peers.keeper import MAX_WAIT_S
from aitorrent_transport.selecting import find_peer
from aitorrentd.api import (
    HealthWarning,
    InvalidParams,
    Method,
    NotFound,
    PeerConnected,
    PeerDisconnected,
    PeerGone,
    Role,
    Unavailable,
)
from tests.support.nodes import free_port, wait_for
from tests.support.transport.transport_nodes import (
    ECHO,
    SINK,
    NodeProcess,
    TestNode,
    node,
    start_process,
    stopped,
)


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Any]:
    started: list[NodeProcess] = []

    async def start(seed: str, port: int = 0, **config: Any) -> NodeProcess:
        process = await start_process(tmp_path / "processes", seed, port, **config)
        started.append(process)
        return process

    yield start
    for process in started:
        await process.kill()


async def test_killed_peer_is_noticed_and_found_again_after_its_restart(
    tmp_path: Path, processes: Any
) -> None:
    async with node(tmp_path, "a") as a:
        b = await processes("b")
        await a.transport.connect(b.address)
        stream = await a.transport.open_stream(b.id, ECHO)
        await b.kill()
        with pytest.raises(PeerGone, match="lost|closed"):
            await asyncio.wait_for(stream.read(), 5)
        await wait_for(lambda: a.count(PeerDisconnected) == 1)
        assert a.transport.peer(b.id) is None
        again = await processes("b", port=b.port)
        assert again.id == b.id
        await wait_for(lambda: a.count(PeerConnected) == 2, MAX_WAIT_S + 10)
        assert await a.transport.ping(b.id) < 5


async def test_lost_peer_is_given_up_in_the_end(
    tmp_path: Path, processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aitorrent_transport.peers.keeper.GIVE_UP_S", 0.3)
    async with node(tmp_path, "a") as a:
        b = await processes("b")
        await a.transport.connect(b.address)
        assert len(a.transport.keeper._kept) == 1
        await b.kill()
        await wait_for(lambda: not a.transport.keeper._kept, 20)
        await wait_for(lambda: not a.transport.peers())
        known = await a.transport.store.all()
        assert [k.peer for k in known] == [b.id]
        assert known[0].fails > 0


async def test_hung_peer_costs_bounded_memory_and_time(tmp_path: Path, processes: Any) -> None:
    async with node(tmp_path, "a", keepalive_s=0.6) as a:
        b = await processes("b")
        await a.transport.connect(b.address)
        stream = await a.transport.open_stream(b.id, SINK)
        await stream.write(b"warm")
        entry = a.transport.table.get(b.id)
        assert entry is not None
        link = entry.best.link
        with stopped(b):
            before = link.bytes_out
            with pytest.raises(PeerGone, match="silent for"):
                await asyncio.wait_for(stream.write(bytes(200_000_000)), 10)
            await wait_for(lambda: a.count(PeerDisconnected))
            assert link.bytes_out - before < 1_000_000
        await wait_for(lambda: a.transport.peer(b.id), MAX_WAIT_S + 10)


async def test_peers_are_restored_after_a_restart_until_disconnected(
    tmp_path: Path, processes: Any
) -> None:
    b = await processes("b")
    async with node(tmp_path, "a") as a:
        await a.transport.connect(b.address)
    async with node(tmp_path, "a") as a:
        await wait_for(lambda: a.transport.peer(b.id), 10)
        known = await a.transport.store.all()
        assert [(k.peer, k.wanted) for k in known] == [(b.id, True)]
        await a.transport.disconnect(b.id)
        await wait_for(lambda: not a.transport.peers())
    async with node(tmp_path, "a") as a:
        assert [k.wanted for k in await a.transport.store.all()] == [False]
        stream = await a.transport.open_stream(b.id, ECHO)  # by its known address
        await stream.write(b"hi")
        assert await stream.read_exactly(2) == b"hi"
        stream.reset()


async def test_port_that_was_found_is_kept_and_peers_come_back_to_it(
    tmp_path: Path, processes: Any
) -> None:
    b = await processes("b")
    async with node(tmp_path, "a", bootstrap=[f"127.0.0.1:{b.port}"]) as a:
        await wait_for(lambda: a.transport.peer(b.id))
        await b.kill()
        await wait_for(lambda: a.count(PeerDisconnected) == 1)
        again = await processes("b")
        assert again.port == b.port
        await wait_for(lambda: a.transport.peer(b.id), MAX_WAIT_S + 10)
        await again.kill()
        with socket.socket() as taker:
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taker.bind(("127.0.0.1", b.port))
            taker.listen()
            other = await processes("b", listen=["127.0.0.2", "127.0.0.1"])
        assert other.port != b.port
        with pytest.raises(ConnectionRefusedError):  # it was bound, and given up
            socket.create_connection(("127.0.0.2", b.port), 5)
        await other.kill()
        assert (await processes("b")).port == other.port, "the newest is remembered"


async def test_bootstrap_is_dialled_until_it_answers(tmp_path: Path, processes: Any) -> None:
    port = free_port()
    async with node(tmp_path, "a", bootstrap=[f"127.0.0.1:{port}"]) as a:
        warnings = [w for _, w in a.kernel.health() if isinstance(w, HealthWarning)]
        assert {w.code for w in warnings} - {"bootstrap"} == {"no_peers"}
        assert a.transport.keeper.missing == 1
        b = await processes("b", port=port)
        await wait_for(lambda: a.transport.peer(b.id), MAX_WAIT_S + 10)
        await wait_for(lambda: a.transport.keeper.missing == 0)
        assert a.kernel.health() == []


async def test_peer_that_leaves_as_soon_as_it_came_is_not_dialled_without_a_pause(
    tmp_path: Path,
) -> None:
    async with node(tmp_path, "b") as b:
        table = b.transport.table
        came: list[str] = []

        def leave(peer: Any) -> None:
            came.append(peer.id)
            table.disconnect(peer.id, "I leave")

        table.on_up = leave
        async with node(tmp_path, "a", bootstrap=[b.address]):
            await wait_for(lambda: came)
            await asyncio.sleep(1.0)  # dials without a pause would be counted in this time
        # Waits of up to 1, 2, 4 s; without them there would be hundreds.
        assert len(came) < 25


async def test_peer_that_dialled_us_is_reached_by_the_addresses_it_told(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await a.transport.dial_once(b.address)
        await wait_for(lambda: b.transport.peer(a.id))
        await a.transport.disconnect(b.id)
        await wait_for(lambda: not b.transport.peers())
        stream = await b.transport.open_stream(a.id, ECHO)
        await stream.write(b"back")
        assert await stream.read_exactly(4) == b"back"
        stream.reset()


async def test_stream_dials_given_addresses_and_names_what_failed(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b, node(tmp_path, "c") as c:
        with pytest.raises(Unavailable, match="has no known address"):
            await a.transport.open_stream(b.id, ECHO)
        with pytest.raises(Unavailable, match=f"tcp/{c.port}: .*tcp/1: .*refused"):
            await a.transport.open_stream(
                b.id, ECHO, addresses=["nonsense", f"127.0.0.1:{c.port}", "127.0.0.1:1"]
            )
        stream = await a.transport.open_stream(
            b.id, ECHO, addresses=["127.0.0.1:1", f"127.0.0.1:{b.port}"]
        )
        assert stream.peer == b.id
        stream.reset()
        assert a.count(PeerConnected) == 1


async def test_many_callers_share_one_dial(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        views = await asyncio.gather(*[a.transport.connect(b.address) for _ in range(20)])
        assert {view.id for view in views} == {b.id}
        assert b.count(PeerConnected) == 1
        entry = b.transport.table.get(a.id)
        assert entry is not None
        assert len(entry.channels) == 1


class Call:
    """A call context."""

    role = Role.OPERATE
    trace = "test"

    def progress(self, text: str, **numbers: Any) -> None:
        return None


async def call(here: TestNode, name: str, **params: Any) -> Any:
    _, method = here.kernel.method(name)
    assert isinstance(method, Method)
    result = method.handler(Call(), method.params.model_validate(params))
    if asyncio.iscoroutine(result):
        result = await result
    assert isinstance(result, method.result)
    return result


async def test_control_methods_do_what_they_say(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        connected = await call(a, "transport.connect", address=b.address)
        assert connected.peer.id == b.id
        assert [p.id for p in (await call(a, "transport.peers")).peers] == [b.id]
        by_suffix = await call(a, "transport.ping", peer="…" + b.id[-6:], count=2)
        assert by_suffix.id == b.id
        assert len(by_suffix.rtt_ms) == 2
        assert all(0 < ms < 5000 for ms in by_suffix.rtt_ms)
        by_address = await call(a, "transport.ping", peer=b.address, count=1)
        assert by_address.id == b.id
        assert (await call(a, "transport.broadcast", text="hi")).sent == 1
        assert (await call(a, "transport.addresses")).addresses == [a.address]
        a.transport.directory.publish("k", {"v": 1})
        records = (await call(a, "transport.directory", prefix="k")).records
        assert [(r.key, r.peer, r.value) for r in records] == [("k", a.id, {"v": 1})]
        known = (await call(a, "transport.known")).known
        assert [(k.id, k.connected, k.wanted) for k in known] == [(b.id, True, True)]
        assert (await call(a, "transport.disconnect", peer=b.id[-8:])).id == b.id
        await wait_for(lambda: not a.transport.peers())
        with pytest.raises(NotFound, match="no connected peer"):
            find_peer(a.transport, "zzzz", command="ping")
        with pytest.raises(InvalidParams, match="at least the last 4"):
            find_peer(a.transport, "zz", command="ping")
        with pytest.raises(Unavailable, match="is not connected"):
            await call(a, "transport.ping", peer=b.id)


async def test_port_check_finds_the_open_port(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a:
        check = next(c for owner, c in a.kernel.checks() if owner == "transport")
        result = await check.run()
        assert result.status == "ok"
        assert f"{a.port}/tcp" in result.text
