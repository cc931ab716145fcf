"""What strangers learn of a private torrent (BEP 27), on the wire: no peers by PEX."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import pytest

from aitorrent_seeding.torrents import bencode
from tests.support.nodes import DaemonFactory
from tests.support.seeding.daemons import MIB, make_file, seeding_daemon

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
