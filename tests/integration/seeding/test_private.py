"""What strangers learn of a private torrent (BEP 27), on the wire, and the DHT: no peers."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import libtorrent as lt
import pytest

from aitorrent_seeding.torrents import bencode
from aitorrentd.api.tasks import beside
from tests.support.nat.namespaces import CAN_MAKE, REASON, ip, namespaces, socket_in
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import (
    MIB,
    download,
    make_file,
    seeding_daemon,
    settings,
    torrents,
)

HOST = "10.77.0.1"
_EXTENDED = 20
_EXTENSIONS = bytes([0, 0, 0, 0, 0, 0x10, 0, 0])


async def extensions(port: int, info_hash: str) -> set[str]:
    """Extensions (BEP 10) that a node offers to a stranger for a torrent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        peer_id = b"-XX0001-" + os.urandom(12)
        start = b"\x13BitTorrent protocol"
        writer.write(start + _EXTENSIONS + bytes.fromhex(info_hash) + peer_id)
        async with asyncio.timeout(20):
            assert (await reader.readexactly(68))[: len(start)] == start
            hello = bytes([_EXTENDED, 0]) + bencode.encode({b"m": {b"ut_pex": 1}})
            writer.write(struct.pack(">I", len(hello)) + hello)
            while True:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                message = await reader.readexactly(length)
                if message[:2] == bytes([_EXTENDED, 0]):
                    break
    finally:
        writer.close()
        await writer.wait_closed()
    told = bencode.decode(message[2:]).value[b"m"]
    assert isinstance(told, dict)
    return {name.decode() for name in told}


@pytest.mark.parametrize("private", [False, True])
async def test_private_torrents_exchange_no_peers(
    daemon_factory: DaemonFactory, tmp_path: Path, private: bool
) -> None:
    make_file(tmp_path / "f", MIB)
    a = await seeding_daemon(daemon_factory, private=private)
    shared = (await a.call("seeding.share", {"path": str(tmp_path / "f")}))["files"][0]
    port = (await a.call("seeding.torrents"))["port"]
    offered = await extensions(port, shared["info_hash"])
    assert ("ut_pex" in offered) is not private


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network with a way out, without which libtorrent's DHT does not start."""
    with namespaces() as made:
        name = made.make()
        ip("-n", name, "link", "add", "out", "type", "veth", "peer", "name", "in")
        ip("-n", name, "addr", "add", f"{HOST}/24", "dev", "out")
        for end in ("out", "in"):
            ip("-n", name, "link", "set", end, "up")
        ip("-n", name, "route", "add", "default", "dev", "out")
        names = Path("/etc/netns") / name / "resolv.conf"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text("nameserver 127.0.0.1\n")  # nobody: the DHT starts when no name is found
        yield name


class Dht(asyncio.DatagramProtocol):
    """A node of BitTorrent's DHT (BEP 5) that notes for which torrents it is asked."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self._id = os.urandom(20)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        query: Any = bencode.decode(data).value
        if query.get(b"y") != b"q":
            return
        told: dict[bytes, object] = {b"id": self._id, b"nodes": b"", b"token": b"t"}
        if query[b"q"] == b"get_peers":
            self.asked.add(query[b"a"][b"info_hash"].hex())
        reply = {b"r": told, b"t": query[b"t"], b"y": b"r"}
        self.transport.sendto(bencode.encode(reply), addr)


@asynccontextmanager
async def dht_in(namespace: str) -> AsyncIterator[tuple[Dht, int]]:
    """A node of the DHT, and its port, while the block runs."""
    sock = socket_in(namespace, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    port = int(sock.getsockname()[1])
    loop = asyncio.get_running_loop()
    transport, node = await loop.create_datagram_endpoint(Dht, sock=sock)
    try:
        yield node, port
    finally:
        transport.close()


async def told_of_dht(namespace: str, port: int, info_hash: str, dht_port: int) -> None:
    """A stranger tells a node about a node of the DHT (BEP 5, PORT)."""
    sock = socket_in(namespace, socket.SOCK_STREAM)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        flags = bytes([0, 0, 0, 0, 0, 0, 0, 1])
        peer_id = b"-XX0001-" + os.urandom(12)
        writer.write(b"\x13BitTorrent protocol" + flags + bytes.fromhex(info_hash) + peer_id)
        async with asyncio.timeout(20):
            await reader.readexactly(68)
            writer.write(struct.pack(">IBH", 3, 9, dht_port))
            while await reader.read(4096):  # until the node ends it
                pass
    finally:
        writer.close()


def of_another_program(path: Path, *, private: bool) -> bytes:
    """A torrent of a file, made by libtorrent."""
    made = lt.create_torrent(lt.list_files(str(path)), 16_384, lt.create_torrent.v1_only)
    made.set_priv(private)
    lt.set_piece_hashes(made, str(path.parent))
    return bencode.encode(made.generate())


@pytest.mark.root
@pytest.mark.skipif(not CAN_MAKE, reason=REASON)
@pytest.mark.parametrize("own", [True, False], ids=["shared", "of another program"])
async def test_private_torrents_are_not_looked_up_in_the_dht(
    namespace: str, daemon_factory: DaemonFactory, tmp_path: Path, own: bool
) -> None:
    """A public one is, which came after it."""
    for name in ("door", "secret", "public"):
        make_file(tmp_path / name, 50_000, seed=len(name) * ord(name[0]))
    tables = {
        "transport": {"listen": HOST},
        "dht": {"enabled": False},
        "seeding": settings(listen=HOST, dht=True, private=own),
    }
    a = await daemon_factory({"plugins": tables}, namespace=namespace)
    door, public = (of_another_program(tmp_path / n, private=False) for n in ("door", "public"))
    hidden = of_another_program(tmp_path / "secret", private=True)
    async with AsyncExitStack() as stack:

        async def fetch(torrent: bytes, number: int) -> str:
            fetching = beside(download(a, torrent=torrent), "download without peers")
            await stack.enter_async_context(fetching)
            await wait_for(lambda: has(a, number), 20)
            return str(lt.torrent_info(torrent).info_hash())

        known = await fetch(door, 1)
        port = (await a.call("seeding.torrents"))["port"]
        dht, at = await stack.enter_async_context(dht_in(namespace))
        stranger = told_of_dht(namespace, port, known, at)
        await stack.enter_async_context(beside(stranger, "stranger"))
        await wait_for(lambda: dht.asked, 60)  # of the node itself
        if own:
            shared = await a.call("seeding.share", {"path": str(tmp_path / "secret")})
            secret = shared["files"][0]["info_hash"]
        else:
            secret = await fetch(hidden, 2)
        listed = await fetch(public, 3)
        await wait_for(lambda: listed in dht.asked, 60)
    assert secret not in dht.asked


async def has(daemon: Daemon, number: int) -> bool:
    return len(await torrents(daemon)) == number
