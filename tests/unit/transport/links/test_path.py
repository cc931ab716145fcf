"""Paths that drop large packets: how they are recognised, and what is asked of the kernel then."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from aitorrent_transport.links.path import (
    MAX_HOSTS,
    REMEMBER_S,
    SMALL_SEGMENT_BYTES,
    StalledPaths,
    is_stalled,
    is_unheard,
    tcp_info,
    unacked_bytes,
)
from aitorrent_transport.links.racing import connect_tcp
from aitorrentd.api.network.resolver import Resolver


def info(*, retransmits: int, snd_mss: int, unacked: int, rcv_mss: int = 536) -> bytes:
    return struct.pack("=8B5I", 1, 0, retransmits, 0, 0, 0, 0, 0, 0, 0, snd_mss, rcv_mss, unacked)


@pytest.mark.parametrize(
    ("seen", "queued", "stalled"),
    [
        (info(retransmits=5, snd_mss=1448, unacked=10), 50_000, True),
        (info(retransmits=0, snd_mss=1448, unacked=0), 0, True),
        (info(retransmits=0, snd_mss=1448, unacked=0, rcv_mss=1448), 0, False),
        (info(retransmits=7, snd_mss=1448, unacked=4), 200, False),
        (info(retransmits=0, snd_mss=1448, unacked=0), 200, False),
        (info(retransmits=1, snd_mss=1448, unacked=1), 1448, False),
        (info(retransmits=5, snd_mss=SMALL_SEGMENT_BYTES, unacked=10), 50_000, False),
        (b"", 50_000, False),
    ],
    ids=[
        "ours are lost",
        "theirs are lost",
        "theirs came before",
        "switched off",
        "without a link",
        "just sent",
        "small already",
        "unknown",
    ],
)
def test_stalled_path_is_recognised_by_what_the_kernel_says(
    seen: bytes, queued: int, stalled: bool
) -> None:
    assert is_stalled(seen, queued) is stalled


@pytest.mark.parametrize(
    ("seen", "unheard"),
    [
        (info(retransmits=5, snd_mss=1448, unacked=2), True),
        (info(retransmits=4, snd_mss=1448, unacked=2), False),
        (info(retransmits=5, snd_mss=1448, unacked=0), False),
        (b"", False),
    ],
    ids=["cut", "a hiccup", "acknowledged since", "unknown"],
)
def test_peer_that_acknowledges_nothing_is_recognised(seen: bytes, unheard: bool) -> None:
    assert is_unheard(seen) is unheard


async def test_queue_of_a_connection_counts_what_the_other_side_has_not_acknowledged() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        with near, far:
            assert unacked_bytes(near) == 0
            near.setblocking(False)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            while True:
                try:
                    near.send(bytes(65536))
                except BlockingIOError:
                    break
            assert unacked_bytes(near) > SMALL_SEGMENT_BYTES


def test_dialers_of_the_network_of_a_stalled_host_are_asked_for_small_segments() -> None:
    paths = StalledPaths()
    paths.note("192.0.2.1", 0.0)
    assert paths.wanted("192.0.2.200", 1.0) == SMALL_SEGMENT_BYTES
    assert paths.wanted("192.0.3.1", 1.0) == 0
    assert paths.wanted("192.0.2.1", 1.0 + REMEMBER_S) == 0


def test_stall_is_news_once_an_hour_and_hosts_are_bounded() -> None:
    paths = StalledPaths()
    assert paths.note("192.0.2.1", 0.0)
    assert not paths.note("192.0.2.1", 5.0)
    assert paths.current(10.0) == ["192.0.2.1"]
    assert paths.current(6.0 + REMEMBER_S) == []
    assert paths.note("192.0.2.1", 6.0 + REMEMBER_S)
    for i in range(2 * MAX_HOSTS):
        paths.note(f"host {i}", 7.0 + REMEMBER_S)
    assert len(paths.current(8.0 + REMEMBER_S)) == MAX_HOSTS


async def test_next_connection_to_a_stalled_host_has_small_segments() -> None:
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    paths = StalledPaths()
    async with server:
        sizes = []
        for _ in range(2):
            transport = await connect_tcp(asyncio.Protocol, "127.0.0.1", port, Resolver(), paths)
            sock = transport.get_extra_info("socket")
            sizes.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
            assert tcp_info(sock)
            transport.close()
            paths.note("127.0.0.1", asyncio.get_running_loop().time())
    assert sizes[1] <= SMALL_SEGMENT_BYTES < sizes[0]
