"""The network in memory, which tests of other plugins stand on; and that there is only one."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitorrentd.api import (
    Event,
    PeerConnected,
    PeerDisconnected,
    PeerGone,
    Stream,
    TimedOut,
    Transport,
    Unavailable,
    WireProtocol,
    peer_id,
)
from tests.support.nodes import wait_for
from tests.support.sources import nodes
from tests.support.transport.memory_network import MemoryNetwork, MemoryTransport

pytestmark = pytest.mark.jump_clock

A, B, C = (peer_id(bytes([n]) * 32) for n in (1, 2, 3))
TESTS = Path(__file__).parents[2]


async def echo(stream: Stream) -> None:
    while part := await stream.read():
        await stream.write(part)


ECHO = WireProtocol("/echo/1", echo)


def three() -> tuple[MemoryNetwork, MemoryTransport]:
    """Three nodes that echo, and the first of them."""
    net = MemoryNetwork()
    first = net.join(A, ECHO)
    net.join(B, ECHO, name="kitchen")
    net.join(C, ECHO)
    return net, first


async def echoed(stream: Stream, text: bytes = b"hello") -> bytes:
    await stream.write(text)
    return await stream.read_exactly(len(text))


async def test_bytes_need_a_round_trip_and_a_ping_measures_it() -> None:
    net, first = three()
    net.apart(A, B, 3.0, measured=False)
    loop = asyncio.get_running_loop()
    stream = await first.open_stream(B, "/echo/1")
    began = loop.time()
    assert await echoed(stream) == b"hello"
    assert loop.time() - began == 3.0
    assert [view.rtt_s for view in first.peers()] == [None, None]
    assert await first.ping(B) == 3.0
    assert loop.time() - began == 6.0
    assert [(v.id, v.name, v.rtt_s) for v in first.peers()] == [(B, "kitchen", 3.0), (C, "", None)]
    with pytest.raises(TimedOut, match="did not answer within 2 s"):
        await first.ping(B, timeout_s=2)
    await stream.close()
    assert await stream.read() == b""
    await net.close()


async def test_writer_waits_while_the_window_is_under_way() -> None:
    net, first = three()
    net.apart(A, B, 2.0)
    stream = await first.open_stream(B, "/echo/1")
    began = asyncio.get_running_loop().time()
    await stream.write(bytes(65_536))
    assert not stream.write_now(b"x")
    await stream.write(b"x")
    assert asyncio.get_running_loop().time() - began == 1.0
    await net.close()


async def test_cut_nodes_lose_their_streams_and_cannot_open_others_until_healed() -> None:
    net, first = three()
    lost, kept = await first.open_stream(B, "/echo/1"), await first.open_stream(C, "/echo/1")
    net.cut(A, B)
    with pytest.raises(PeerGone, match="the test broke it"):
        await lost.read()
    assert await echoed(kept) == b"hello"
    assert first.peer(B) is None
    with pytest.raises(Unavailable, match="cannot be reached"):
        await first.open_stream(B, "/echo/1")
    net.heal()
    assert await echoed(await first.open_stream(B, "/echo/1")) == b"hello"
    assert first.peer(B) is not None
    await net.close()


async def test_lost_stream_takes_no_other_with_it() -> None:
    net, first = three()
    lost, kept = await first.open_stream(B, "/echo/1"), await first.open_stream(C, "/echo/1")
    net.lose_streams(A, B)
    with pytest.raises(PeerGone, match="the test broke it"):
        await lost.write(b"x")
    assert await echoed(kept) == b"hello"
    assert first.peer(B) is not None
    await net.close()


async def test_bytes_that_a_node_forgets_never_arrive_and_others_do() -> None:
    net, first = three()
    net.is_swallowed = lambda stream, data: data == b"lost"
    stream = await first.open_stream(B, "/echo/1")
    await stream.write(b"lost")
    assert stream.write_now(b"lost")
    assert await echoed(stream, b"kept") == b"kept"
    await net.close()


async def test_frozen_node_takes_a_stream_and_says_nothing_until_it_thaws() -> None:
    net, first = three()
    net.nodes[B].awake.clear()
    stream = await first.open_stream(B, "/echo/1")
    await stream.write(b"hello")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await stream.read()
    with pytest.raises(TimedOut, match="did not answer"):
        await first.ping(B)
    net.nodes[B].awake.set()
    assert await stream.read() == b"hello"
    await net.close()


async def test_killed_node_is_gone_for_all() -> None:
    net, first = three()
    stream = await first.open_stream(B, "/echo/1")
    net.kill(B)
    with pytest.raises(PeerGone, match="the test broke it"):
        await stream.read()
    assert [view.id for view in first.peers()] == [C]
    with pytest.raises(Unavailable, match="cannot be reached"):
        await first.connect(net.nodes[B].addresses()[0])
    await net.close()


async def test_connecting_is_told_at_both_ends() -> None:
    net = MemoryNetwork()
    here: list[Event] = []
    there: list[Event] = []
    first = net.join(A, publish=here.append)
    net.join(B, publish=there.append, connected=False)
    assert first.peers() == []
    assert (await first.connect("127.0.0.1:2")).id == B
    await first.connect("127.0.0.1:2")
    await first.disconnect(B)
    assert here == [
        PeerConnected(B, "/ip4/127.0.0.1/tcp/2", True),
        PeerDisconnected(B, "disconnected by its operator"),
    ]
    assert [type(event) for event in there] == [PeerConnected, PeerDisconnected]
    with pytest.raises(Unavailable, match="nobody listens at"):
        await first.connect("127.0.0.1:9")


async def test_what_nobody_serves_is_refused_on_the_first_read() -> None:
    _, first = three()
    for peer in (A, B):
        stream = await first.open_stream(peer, "/other/1")
        with pytest.raises(PeerGone, match="no such protocol /other/1"):
            await stream.read()


async def test_node_reaches_itself_and_its_bug_ends_one_stream() -> None:
    async def fail(stream: Stream) -> None:
        raise KeyError("a bug")

    net = MemoryNetwork()
    node = net.join(A, ECHO, WireProtocol("/bug/1", fail))
    stream = await node.open_stream(A, "/bug/1")
    with pytest.raises(PeerGone, match="the handler failed"):
        await stream.read()
    assert [type(error) for error in net.errors] == [KeyError]
    assert await echoed(await node.open_stream(A, "/echo/1")) == b"hello"
    await net.close()
    await wait_for(lambda: not net.handlers)


# There is one


def defines(method: str) -> Iterator[str]:
    """Classes of tests that define a method."""
    for path in sorted(TESTS.rglob("*.py")):
        if f"def {method}(" not in path.read_text():
            continue
        for node in nodes(path):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and each.name == method
                for each in node.body
            ):
                yield f"{path.relative_to(TESTS)}:{node.name}"


def test_tests_have_one_transport_and_one_stream_in_memory() -> None:
    """A second one fails here: use `MemoryNetwork`, and add to it what is missing."""
    transport: type[Transport] = MemoryTransport  # mypy: it follows the whole Protocol
    assert list(defines("open_stream")) == [
        f"support/transport/memory_network.py:{transport.__name__}"
    ]
    assert list(defines("when_frame")) == ["support/transport/streams.py:MemoryStream"]
