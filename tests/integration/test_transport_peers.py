from __future__ import annotations

from pathlib import Path

from aitorrentd.api import (
    PeerConnected,
    PeerDisconnected,
)
from tests.support.transport_nodes import ECHO, node, until


async def test_two_nodes_connect_ping_stream_and_part(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        view = await a.transport.connect(f"127.0.0.1:{b.port}")
        assert view.id == b.id
        assert view.outbound
        await until(lambda: b.transport.peer(a.id))
        assert 0 < await a.transport.ping(b.id) < 1
        assert await b.transport.ping(a.id) > 0
        stream = await a.transport.open_stream(b.id, ECHO)
        await stream.write(b"hello\nworld")
        await stream.close_write()
        assert await stream.read_line() == b"hello\n"
        assert await stream.read_exactly(5) == b"world"
        assert await stream.read() == b""
        await stream.close()
        await a.transport.disconnect(b.id)
        await until(lambda: b.count(PeerDisconnected))
        assert a.count(PeerConnected) == b.count(PeerConnected) == 1
        assert not a.transport.peers()
