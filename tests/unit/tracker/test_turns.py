"""Requests that arrive on several connections at once are answered as each would be alone."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from aitorrent_tracker.answering.access import Access
from aitorrent_tracker.answering.sources import Proxies, Rates
from aitorrent_tracker.answering.tracker import Intervals, Tracker
from aitorrent_tracker.net.http_server import HttpServer
from aitorrent_tracker.swarms.memory import Limits, MemoryStorage
from aitorrent_tracker.wire.udp import ConnectionIds
from tests.support.nodes import wait_for

IDS = b"info_hash=%b&peer_id=%b" % (b"%01" * 20, b"p" * 20)
USUAL = b"&port=%d&uploaded=0&downloaded=0&left=1&numwant=0&compact=1"
MISSING = b"GET /announce?x=1 HTTP/1.1\r\n\r\n"


def announce(port: int, headers: bytes = b"") -> bytes:
    return b"GET /announce?" + IDS + USUAL % port + b" HTTP/1.1\r\n" + headers + b"\r\n"


@asynccontextmanager
async def serving(*, max_connections: int = 100) -> AsyncIterator[tuple[HttpServer, int]]:
    tasks: list[asyncio.Task[None]] = []

    def spawn(work: Coroutine[Any, Any, None], name: str) -> None:
        tasks.append(asyncio.create_task(work, name=name))

    draw = random.Random(1).random
    tracker = Tracker(
        MemoryStorage(Limits(), ttl_s=1800.0, now=0.0, draw=draw),
        Access(None, []),
        Rates(1e6),
        Proxies([]),
        ConnectionIds(os.urandom(32)),
        Intervals(900),
        draw,
    )
    server = HttpServer(
        tracker, time.monotonic, spawn, max_connections=max_connections, max_per_subnet=100
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)
        server.listen(listening)
        try:
            yield server, listening.getsockname()[1]
        finally:
            server.close()
            await asyncio.gather(*tasks)


def connected(port: int, raw: bytes) -> socket.socket:
    """A client whose request is there before the server looks."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(raw)
    sock.setblocking(False)
    return sock


async def received(sock: socket.socket, replies: int) -> tuple[list[bytes], bool]:
    """Status line and end of each reply, and whether the connection ended after them."""
    loop, raw = asyncio.get_running_loop(), b""
    whole: list[bytes] = []
    ended = False
    while len(whole) < replies and not ended:
        some = await asyncio.wait_for(loop.sock_recv(sock, 65536), 10)
        raw, ended = raw + some, not some
        while b"\r\n\r\n" in raw:
            head, _, rest = raw.partition(b"\r\n\r\n")
            size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            if len(rest) < size:
                break
            whole.append(head.partition(b"\r\n")[0] + b" " + rest[:size])
            raw = rest[size:]
    assert not raw
    return whole, ended


async def test_connections_of_one_turn_get_their_own_answers_whatever_the_others_sent() -> None:
    async with serving() as (server, port):
        sent = [
            announce(1),
            MISSING,
            announce(2) + announce(3) + MISSING,
            announce(4)[:30],
            b"\0\r\n\r\n",
            announce(5, b"Connection: close\r\n"),
            announce(6),
        ]
        socks = [connected(port, raw) for raw in sent]
        silent = connected(port, announce(7))
        silent.close()  # before its answer
        whole = [
            await received(sock, n) for sock, n in zip(socks, [1, 1, 3, 0, 1, 1, 1], strict=True)
        ]
        for at, is_kept in ((0, True), (1, True), (2, True), (6, True), (4, False), (5, False)):
            more = announce(8) if is_kept else b""
            if more:
                socks[at].sendall(more)
            lines, ended = await received(socks[at], 1)
            assert (len(lines), ended) == ((1, False) if is_kept else (0, True)), sent[at]
        assert b"failure reason" in whole[1][0][0] and b"failure reason" in whole[2][0][2]
        assert whole[4][0][0].startswith(b"HTTP/1.1 400 ")
        socks[3].sendall(announce(4)[30:])
        assert (await received(socks[3], 1))[0][0].startswith(b"HTTP/1.1 200 ")
        assert server.tracker.storage.statistics().leechers == 8
        for sock in socks:
            sock.close()
        await wait_for(lambda: not len(server), 10)


async def test_only_connections_with_part_of_a_request_or_an_answer_have_a_transport() -> None:
    async with serving() as (server, port):
        socks = [connected(port, announce(n)) for n in (1, 2)] + [connected(port, b"GET /ann")]
        await wait_for(lambda: len(server) == 3, 10)
        assert (len(server._turns), len(server._open)) == (2, 1)
        for sock in socks[:2]:
            assert len((await received(sock, 1))[0]) == 1
        for sock in socks:
            sock.close()


async def test_connections_over_the_limit_are_turned_away_in_the_turn_in_which_they_come() -> None:
    async with serving(max_connections=2) as (server, port):
        socks = [connected(port, announce(n)) for n in (1, 2, 3)]
        results = [await received(sock, 1) for sock in socks[:2]]
        assert [len(lines) for lines, _ in results] == [1, 1]
        loop = asyncio.get_running_loop()
        with suppress(ConnectionResetError):  # its request was not read
            assert await asyncio.wait_for(loop.sock_recv(socks[2], 100), 10) == b""
        assert server.tracker.counts["http_turned_away"] == 1
        for sock in socks:
            sock.close()
