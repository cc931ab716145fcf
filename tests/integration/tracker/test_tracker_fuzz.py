"""Both ports of a daemon against bytes that no client sends: answers or ends, and a tracker that
goes on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

from tests.integration.tracker.test_tracker_redis import over_http, over_udp, port_of
from tests.integration.tracker.test_tracker_sockets import (
    asked,
    config,
    connected,
    request,
    udp_socket,
)
from tests.support.nodes import DaemonFactory

ROUNDS = 400
CONNECT = struct.pack(">QII", 0x41727101980, 0, 1)
PIECES = (b"\r\n", b"\r\n\r\n", b"%", b"%00", b"&", b"=", b"\0", b" ", b"?", b"HTTP/1.0", b"\xff")


def broken(draw: random.Random, raw: bytes) -> bytes:
    """The bytes with a few changes."""
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(raw) + 1)
        piece = draw.choice((*PIECES, draw.randbytes(draw.randrange(40)), raw[at : at + 300]))
        cut = draw.choice((0, 1, len(piece), 50))
        raw = raw[:at] + piece + raw[at + cut :]
    return raw


async def test_broken_requests_over_tcp_get_an_answer_or_an_end(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory(config(listen="127.0.0.1"))
    port, draw = await port_of(daemon), random.Random(1)
    whole = [
        request(7001),
        request(7001, event=b"stopped", path=b"/0123456789abcdef/announce"),
        b"HEAD /scrape?info_hash=%b HTTP/1.0\r\nX-Forwarded-For: 1.2.3.4, ::1\r\n\r\n"
        % (b"%02" * 20),
        request(7002) * 3,
    ]
    for _ in range(ROUNDS):
        async with connected(port) as (reader, writer):
            writer.write(broken(draw, draw.choice(whole)))
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                reply = await asyncio.wait_for(reader.read(), 20)
                assert reply == b"" or reply.startswith(b"HTTP/1.1 ")
    assert (await over_http(port, 7009))[b"incomplete"] >= 1


async def test_broken_datagrams_are_answered_or_ignored(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory(config(listen="127.0.0.1"))
    port, draw = await port_of(daemon), random.Random(2)
    with udp_socket(port, socket.AF_INET) as sock:
        connection = (await asked(sock, CONNECT))[8:]
        announce = connection + struct.pack(
            ">II20s20sQQQIIIiH", 1, 2, b"\x01" * 20, b"u" * 20, 0, 1, 0, 0, 0, 0, -1, 7003
        )
        whole = (CONNECT, announce, connection + struct.pack(">II", 2, 3) + b"\x01" * 60)
        for _ in range(ROUNDS):
            raw = broken(draw, draw.choice(whole))
            if draw.random() < 0.5:
                raw = connection + raw[8:]
            sock.send(raw[:60_000])
            # Whatever became of it, the next request is answered.
            sock.send(CONNECT[:12] + b"ping")
            loop = asyncio.get_running_loop()
            while True:
                reply = await asyncio.wait_for(loop.sock_recv(sock, 2048), 20)
                assert len(reply) >= 8
                if reply[4:8] == b"ping":
                    break
    assert 7003 not in await over_udp(port, 7003)
