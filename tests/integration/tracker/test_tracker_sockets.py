"""The tracker of a node, over sockets: both protocols, both families, and rude clients."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, cast

import pytest
from pydantic import BaseModel

from aitorrent_tracker.net import http_server
from aitorrentd.api import CallContext, Unavailable
from aitorrentd.methods.source import Methods
from aitorrentd.node import Node
from tests.support.nodes import NodeFactory, wait_for

OTHERS = ("transport", "discovery", "nat", "dht", "inference", "ollama", "openai", "shards")
OFF = {name: {"enabled": False} for name in OTHERS}
HASH = b"%01" * 20


def config(**tracker: Any) -> Mapping[str, Any]:
    on = {"enabled": True, "listen": ["127.0.0.1", "::1"], "port": 0, "open": True, **tracker}
    return {"plugins": {**OFF, "tracker": on}}


async def called(node: Node, name: str) -> Any:
    """What a control method without parameters returns."""
    method = Methods(node).method(name)[1]
    reply = method.handler(cast(CallContext, None), method.params())
    result = await reply if inspect.isawaitable(reply) else reply
    return result.model_dump() if isinstance(result, BaseModel) else result


async def stats(node: Node) -> dict[str, Any]:
    return cast(dict[str, Any], await called(node, "tracker.stats"))


async def port_of(node: Node) -> int:
    listening = (await stats(node))["listening"]
    (port,) = {int(text.rpartition(":")[2].partition("/")[0]) for text in listening}
    return port


def request(port: int, *, event: bytes = b"", path: bytes = b"/announce") -> bytes:
    query = b"info_hash=%b&peer_id=%b&port=%d&left=1&event=%b" % (HASH, b"p" * 20, port, event)
    return b"GET %b?%b HTTP/1.1\r\nHost: t\r\n\r\n" % (path, query)


@contextlib.asynccontextmanager
async def connected(
    port: int, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with_error = asyncio.gather(writer.wait_closed(), return_exceptions=True)
        await asyncio.wait_for(with_error, 5)


async def reply_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await asyncio.wait_for(reader.readexactly(size), 10)


@contextlib.contextmanager
def udp_socket(port: int, family: socket.AddressFamily) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        yield sock


async def asked(sock: socket.socket, raw: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, raw)
    return await asyncio.wait_for(loop.sock_recv(sock, 2048), 10)


async def test_tracker_is_off_unless_it_is_enabled(node_factory: NodeFactory) -> None:
    node = await node_factory({"plugins": OFF})
    with pytest.raises(Unavailable, match="plugin tracker is disabled"):
        await called(node, "tracker.stats")


async def test_peers_meet_over_http_and_udp_in_each_family(node_factory: NodeFactory) -> None:
    node = await node_factory(config())
    port = await port_of(node)
    for host, family, width, key in (
        ("127.0.0.1", socket.AF_INET, 6, b"5:peers6:"),
        ("::1", socket.AF_INET6, 18, b"6:peers618:"),
    ):
        async with connected(port, host) as (reader, writer):
            writer.write(request(7001))
            assert b"200 OK" in (await reply_of(reader))[0]
            writer.write(request(7002))
            body = (await reply_of(reader))[1]
            packed = socket.inet_pton(family, host)
            assert key + packed + (7001).to_bytes(2, "big") in body
        with udp_socket(port, family) as sock:
            raw = await asked(sock, struct.pack(">QII", 0x41727101980, 0, 1))
            (connection,) = struct.unpack(">8xQ", raw)
            announce = struct.pack(
                ">QII20s20sQQQIIIiH", connection, 1, 2, b"\x01" * 20, b"u" * 20,
                0, 1, 0, 2, 0, 0, 2, 7003,
            )  # fmt: skip
            reply = await asked(sock, announce)
            entries = {packed + (p).to_bytes(2, "big") for p in (7001, 7002)}
            assert {reply[20 : 20 + width], reply[20 + width :]} == entries
    assert (await stats(node))["leechers"] == 6


async def test_pipelined_requests_are_answered_in_order(node_factory: NodeFactory) -> None:
    node = await node_factory(config())
    async with connected(await port_of(node)) as (reader, writer):
        scrape = b"HEAD /scrape?info_hash=%b HTTP/1.1\r\n\r\n" % HASH
        writer.write(request(1) + request(1, event=b"stopped") + request(2) * 500 + scrape)
        bodies = [(await reply_of(reader))[1] for _ in range(502)]
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert b"10:incompletei1e" in bodies[0] and b"10:incompletei0e" in bodies[1]
    assert b"200 OK" in head


async def test_client_that_never_reads_gets_no_further_answers_and_then_loses_its_connection(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "IDLE_S", 0.5)
    node = await node_factory(config())
    port = await port_of(node)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)

        async def is_cut() -> bool:
            try:
                sock.send(request(1) * 400)
            except BlockingIOError:
                pass
            except ConnectionError:
                return True
            return False

        await wait_for(is_cut, 30)
    found = await stats(node)
    assert found["counts"]["http_timeouts"] == 1 and found["connections"] == 0


async def test_one_byte_at_a_time_does_not_extend_the_deadline(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "IDLE_S", 0.5)
    node = await node_factory(config())
    async with connected(await port_of(node)) as (reader, writer):
        writer.write(b"GET /announce?")

        async def is_cut() -> bool:
            if reader.at_eof() or reader.exception() is not None or writer.is_closing():
                return True
            writer.write(b"a")
            return False

        await wait_for(is_cut, 20, every_s=0.05)
    assert (await stats(node))["connections"] == 0


async def test_bad_requests_get_a_status_and_the_connection_ends(
    node_factory: NodeFactory,
) -> None:
    node = await node_factory(config())
    port = await port_of(node)
    for raw, status in (
        (b"POST /announce HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"405"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 9000, b"431"),
    ):
        async with connected(port) as (reader, writer):
            writer.write(raw)
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.startswith(b"HTTP/1.1 " + status) and answer.endswith(b"\r\n\r\n")
    async with connected(port) as (reader, writer):
        writer.write(b"GET /favicon.ico HTTP/1.0\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 404")


async def test_connections_over_the_limit_are_turned_away(node_factory: NodeFactory) -> None:
    node = await node_factory(config(limits={"connections": 2}))
    port = await port_of(node)
    async with connected(port) as (one, first), connected(port) as (two, second):
        first.write(request(1))
        second.write(request(1))
        await reply_of(one)
        await reply_of(two)
        async with connected(port) as (reader, _):
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(1), 10) == b""
    await wait_for(lambda: _is_empty(node))
    async with connected(port) as (reader, writer):
        writer.write(request(1))
        assert b"200" in (await reply_of(reader))[0]
    assert (await stats(node))["counts"]["http_turned_away"] == 1


async def _is_empty(node: Node) -> bool:
    return bool((await stats(node))["connections"] == 0)


async def test_private_tracker_behind_a_proxy_serves_listed_torrents_to_holders_of_a_key(
    node_factory: NodeFactory,
) -> None:
    key = "0123456789abcdef"
    node = await node_factory(
        config(open=False, torrents="01" * 20, keys=key, trusted_proxies="127.0.0.0/8")
    )
    async with connected(await port_of(node)) as (reader, writer):

        async def body(raw: bytes) -> bytes:
            writer.write(raw)
            return (await reply_of(reader))[1]

        path = b"/%b/announce" % key.encode()
        forwarded = b"HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n"
        await body(request(1, path=path).replace(b"HTTP/1.1\r\n", forwarded))
        second = request(2, path=path).replace(b"HTTP/1.1\r\n", forwarded)
        assert b"\xcb\0\x71\x07\0\x01" in await body(second)
        assert b"announce to /KEY/announce" in await body(request(1))
        assert b"no usable X-Forwarded-For" in await body(request(1, path=path))
        other = second.replace(HASH, b"%02" * 20)
        assert b"unregistered torrent" in await body(other)


@pytest.mark.allow_error_log
async def test_port_that_is_taken_is_named_with_the_setting(node_factory: NodeFactory) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        node = await node_factory(config(port=port, listen="127.0.0.1"))
        with pytest.raises(
            Unavailable, match=rf"cannot listen on 127\.0\.0\.1:{port}/tcp.*plugins\.tracker\.port"
        ):
            await stats(node)


async def test_tracker_that_serves_nothing_says_so(node_factory: NodeFactory) -> None:
    node = await node_factory(config(open=False))
    assert "plugins.tracker.torrents" in str(await called(node, "node.status"))
